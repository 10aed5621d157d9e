"""What of a run is to be seen in the cluster's own metrics, which Prometheus scrapes from every node.

Ray adds `ray_` to the names. Without Ray the table can be read: `deploy/write.py` makes a dashboard of it.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

TAGS = ("run", "method")


@dataclass(frozen=True)
class Metric:
    """A gauge: the latest value of a figure.

    Attributes:
        name: in Prometheus, after `ray_`.
        unit: of the value; `ratio`: from 0 to 1.
        description: what it is.
    """

    name: str
    unit: Literal["seconds", "ratio", "images/s", "none"]
    description: str


def _times(**spans: str) -> dict[str, Metric]:
    return {f"time/{name}_s": Metric(f"raid_{name}_seconds", "seconds", text) for name, text in spans.items()}


# By the figure's key in metrics.jsonl. A method has those that it records.
METRICS: Mapping[str, Metric] = {
    "epoch": Metric("raid_epoch", "none", "Epochs that have ended, over all stages."),
    "time/images_per_s": Metric(
        "raid_images_per_second", "images/s", "Training images a second, of all workers together."
    ),
    **_times(
        step="A training step, on average.",
        train="The steps of the epoch.",
        data_wait="Of the steps: what they waited for their images.",
        startup="From asking for the workers to their first step.",
        extract="Features of the images to be clustered.",
        cluster="Clusters, refinement and their figures.",
        evaluate="The evaluation.",
        checkpoint="The checkpoint before this epoch.",
    ),
    "train/loss": Metric("raid_loss", "none", "Mean loss of the steps."),
    "train/learning_rate": Metric("raid_learning_rate", "none", "MAR, SLSR: learning rate of the backbone."),
    "pretraining/loss": Metric("raid_pretraining_loss", "none", "MAR, stage 1: mean loss."),
    "pretraining/accuracy": Metric("raid_pretraining_accuracy", "ratio", "MAR, stage 1: of the source."),
    "train/mdl": Metric("raid_loss_mdl", "none", "MAR: the part of the mined pairs, unweighted."),
    "train/cml": Metric("raid_loss_cml", "none", "MAR: the cross-view part, unweighted."),
    "train/al": Metric("raid_loss_al", "none", "MAR: the agents' part, unweighted."),
    "train/rj": Metric("raid_loss_rj", "none", "MAR: the joint embedding's part, unweighted."),
    "source/accuracy": Metric("raid_source_accuracy", "ratio", "MAR, stage 2: of the source."),
    "baseline/loss": Metric("raid_baseline_loss", "none", "SLSR, stage 1: mean loss."),
    "baseline/accuracy": Metric("raid_baseline_accuracy", "ratio", "SLSR, stage 1: of its images."),
    "train/accuracy": Metric("raid_accuracy", "ratio", "SLSR: of the real images."),
    "train/accuracy_generated": Metric("raid_generated_accuracy", "ratio", "SLSR: of the generated images."),
    "eval/mAP": Metric("raid_map", "ratio", "mAP of the latest evaluation."),
    "eval/rank1": Metric("raid_rank1", "ratio", "Rank-1 of the latest evaluation."),
    "eval/mINP": Metric("raid_minp", "ratio", "mINP of the latest evaluation."),
    "cluster/num": Metric("raid_clusters", "none", "ICSR: clusters."),
    "cluster/coverage": Metric("raid_coverage", "ratio", "ICSR: images in a cluster after refinement."),
    "cluster/largest": Metric("raid_largest_cluster", "ratio", "ICSR: images that the largest cluster has."),
    "cluster/camera_purity": Metric(
        "raid_camera_purity", "ratio", "ICSR: 1: every cluster is of one camera."
    ),
    "cluster/churn": Metric("raid_churn", "ratio", "ICSR: how unlike the epoch before the clusters are."),
    "cluster/silhouette": Metric("raid_silhouette", "none", "ICSR: mean silhouette of the clusters."),
    "refine/discarded": Metric("raid_discarded", "ratio", "ICSR: images that refinement discarded."),
    "refine/discard_probability": Metric("raid_discard_probability", "ratio", "ICSR: of the schedule."),
    "neighbors/recall": Metric(
        "raid_neighbors_recall", "ratio", "ICSR, approximate search: neighbours found."
    ),
    "mining/positives": Metric("raid_mined_positives", "none", "MAR: pairs mined as positive, a step."),
    "mining/negatives": Metric("raid_mined_negatives", "none", "MAR: pairs mined as hard negative, a step."),
    "mining/threshold": Metric("raid_mining_threshold", "none", "MAR: agreement that parts the pairs."),
    "multilabel/people": Metric("raid_multilabel_people", "none", "MAR: persons that images are nearest to."),
    "multilabel/churn": Metric("raid_multilabel_churn", "ratio", "MAR: how unlike the epoch before that is."),
}


def show(epoch: int, figures: Mapping[str, float], run: Mapping[str, str]) -> None:
    """Set the gauges of what an epoch recorded; the others keep what they were set to.

    Args:
        epoch: 0-based.
        figures: of the epoch, by their keys in metrics.jsonl.
        run: the values of `TAGS`.
    """
    for key, value in {**figures, "epoch": epoch + 1}.items():
        if key in METRICS:
            _gauge(METRICS[key]).set(float(value), tags=dict(run))


@functools.cache
def _gauge(metric: Metric) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(metric.name, description=metric.description, tag_keys=TAGS)
