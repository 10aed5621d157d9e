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


def sweep(section: str, title: str, counts: tuple[int | str, ...]) -> definition.Sweep:
    """Return the search over the clustering of a stage, whose configuration is `section`."""
    method = f"{section}.method"
    return definition.Sweep(
        name="clustering",
        method="icsr",
        title=title,
        axes=(
            Axis("neighbors.k1", (10, 20, 30)),
            Axis("neighbors.k2", (3, 6)),
            Axis(method, ("agglomerative", "dbscan", "kmeans")),
            Axis(f"{section}.eps", (0.4, 0.5, 0.6, 0.7), low=0.3, high=0.8, only={method: ("dbscan",)}),
            Axis(f"{section}.num_clusters", counts, only={method: ("agglomerative", "kmeans")}),
        ),
        objectives=OBJECTIVES,
    )


SWEEPS = {
    "global": sweep("inter", "the clustering of all images", (400, 600, 800, 1000, 1200, 1600)),
    "local": sweep(
        "intra", "the clustering of each camera's images", ("n//3", "n//4", "n//5", "n//7", "n//10")
    ),
}

if __name__ == "__main__":
    sys.exit(main_clustering(SWEEPS))
