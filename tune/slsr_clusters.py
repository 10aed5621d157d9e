"""Search into how many clusters SLSR takes the images apart, and how many it generates with which labels.

    python tune/slsr_clusters.py jobs/slsr_demo.yaml run.folder=runs/slsr_clusters \
        --values count=[60,150] --search grid --objective mAP

The baseline is trained once a seed, and the GANs once a seed and number of clusters, with as many images as
any trial takes: a trial with fewer takes the first of each cluster.
"""

import sys

from raid.commands.sweeping import main
from raid.methods.sweeps import definition, stages
from raid.sweep_folder import Axis, Objective

SILHOUETTE = Objective(
    "silhouette",
    "clusters/silhouette",
    "max",
    "how well the images part into clusters; the same for all labels",
)

SWEEP = definition.Sweep(
    name="slsr_clusters",
    method="slsr",
    title="SLSR's clusters of images, and the number and the labels of the generated ones",
    axes=(
        Axis("clusters.num_clusters", (2, 3, 4)),
        Axis("generated.count", (12_000, 18_000, 24_000, 30_000, 36_000)),
        Axis("generated.label", ("sparse", "uniform", "all_in_one")),
    ),
    objectives=(SILHOUETTE, definition.MAP, definition.RANK1),
    shared=(stages.BASELINE, stages.IMAGES),
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
