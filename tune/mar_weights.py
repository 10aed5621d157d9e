"""Search the weights of MAR's losses, and how it mines pairs (equations 3, 9 and 10 of the paper).

    python tune/mar_weights.py jobs/mar_demo.yaml run.folder=runs/mar_weights --objective churn

Stage 1, the pretraining on the labelled set, is done once a seed for all trials.
"""

import sys

from raid.commands.sweeping import main
from raid.methods.sweeps import definition, stages
from raid.sweep_folder import Axis, Objective

CHURN = Objective(
    "churn",
    "multilabel/churn",
    "min",
    "how unlike the epoch before the images' nearest reference persons part them (1 - ARI): low is stable",
)

SWEEP = definition.Sweep(
    name="mar_weights",
    method="mar",
    title="the weights of MAR's losses and its mining",
    axes=(
        Axis("losses.lambda1", (2e-5, 2e-4, 2e-3), low=2e-5, high=2e-3, log=True),
        Axis("losses.lambda2", (10.0, 50.0, 100.0), low=1.0, high=200.0, log=True),
        Axis("losses.beta", (0.05, 0.2, 0.8), low=0.02, high=1.0, log=True),
        Axis("losses.margin", (0.5, 1.0, 1.5), low=0.25, high=2.0),
        Axis("mining.ratio", (0.0025, 0.005, 0.01), low=0.001, high=0.02, log=True),
        Axis("multilabel.scale", (15.0, 30.0, 60.0), low=10.0, high=60.0),
        Axis("mining.momentum", (0.05, 0.1, 0.3), low=0.02, high=0.5, log=True),
    ),
    objectives=(CHURN, definition.MAP, definition.RANK1),
    shared=(stages.PRETRAINING,),
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
