"""Search how long, and by whose word, ICSR discards members of its clusters (section 2.3 of the paper).

    python tune/decay_schedule.py jobs/icsr_demo.yaml run.folder=runs/decay --objective silhouette

The paper's ablation of the schedule (table 2) on rendered people, with three seeds:

    python tune/decay_schedule.py jobs/icsr_demo.yaml run.folder=runs/ablation --demo \
        --axes decay --search grid --seeds 3 --objective mAP

Stage 1, which none of these settings reaches, is done once a seed for all trials.
"""

import sys

from raid.commands.sweeping import main
from raid.methods.sweeps import definition, stages
from raid.sweep_folder import Axis

DISCARDS = {"refine.decay": ("none", "linear", "exponential", "cosine")}
DECAYS = {"refine.decay": ("linear", "exponential", "cosine")}

SWEEP = definition.Sweep(
    name="decay_schedule",
    method="icsr",
    title="the decay of ICSR's discard probability, and who judges",
    axes=(
        Axis(
            "refine.decay",
            ("off", "none", "linear", "exponential", "cosine"),
            instead={"off": {"refine.enabled": False}},  # Cluster-Contrast: nothing is discarded
        ),
        Axis("refine.horizon", (1.0, 2.0, 3.0), low=1.0, high=5.0, only=DECAYS),
        Axis("refine.start", (1.0, 0.75, 0.5), low=0.5, high=1.0, only=DISCARDS),
        Axis("refine.end", (0.0, 0.25), low=0.0, high=0.5, only=DECAYS),
        Axis("refine.referee", ("top", "union", "intersection", "sequential"), only=DISCARDS),
        Axis("refine.score_cutoff", (0.3, 0.5, 0.7, None), only=DISCARDS),
        Axis("refine.num_neighbors", (5, 10, 15, 25), only=DISCARDS),
        Axis("refine.require_above_mean", (True, False), only=DISCARDS),
    ),
    objectives=(definition.SILHOUETTE, definition.CHURN, definition.MAP, definition.RANK1),
    shared=(stages.LOCAL_LABELS,),
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
