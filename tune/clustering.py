"""Search how ICSR clusters features that are there: neighbourhoods, method, and how many clusters.

    python tune/clustering.py jobs/icsr_market1501.yaml run.folder=runs/clustering \
        --features runs/icsr/model.pt --search grid --axes k1,num_clusters --objective silhouette

No GPU and no training: the features are stored once and read by all trials, the neighbours are searched once
at the largest k1, and trials of one (k1, k2) share the Jaccard similarity. With `--stage local` each camera's
images are clustered on their own.
"""

import sys

from raid.commands.sweeping import main_clustering
from raid.methods.sweeps import definition
from raid.sweep_folder import Axis, Objective

OBJECTIVES = (
    definition.SILHOUETTE,
    Objective(
        "churn", "cluster/churn", "min",
        "how unlike the second --features, of another epoch, are clustered (1 - ARI): low is stable",
    ),
    Objective(
        "bcubed_f", "quality/global_all/bcubed_f", "max",
        "agreement with the identities of the training images, which clustering is not to know",
    ),
)  # fmt: skip
NEIGHBORS = (Axis("neighbors.k1", (10, 20, 30)), Axis("neighbors.k2", (3, 6)))
METHODS = ("agglomerative", "dbscan", "kmeans")
EPS = (0.4, 0.5, 0.6, 0.7)

SWEEPS = {
    "global": definition.Sweep(
        name="clustering",
        method="icsr",
        title="the clustering of all images",
        axes=(
            *NEIGHBORS,
            Axis("inter.method", METHODS),
            Axis("inter.eps", EPS, low=0.3, high=0.8, only={"inter.method": ("dbscan",)}),
            Axis(
                "inter.num_clusters",
                (400, 600, 800, 1000, 1200, 1600),
                only={"inter.method": ("agglomerative", "kmeans")},
            ),
        ),
        objectives=OBJECTIVES,
    ),
    "local": definition.Sweep(
        name="clustering",
        method="icsr",
        title="the clustering of each camera's images",
        axes=(
            *NEIGHBORS,
            Axis("intra.method", METHODS),
            Axis("intra.eps", EPS, low=0.3, high=0.8, only={"intra.method": ("dbscan",)}),
            Axis(
                "intra.num_clusters",
                ("n//3", "n//4", "n//5", "n//7", "n//10"),
                only={"intra.method": ("agglomerative", "kmeans")},
            ),
        ),
        objectives=OBJECTIVES,
    ),
}

if __name__ == "__main__":
    sys.exit(main_clustering(SWEEPS))
