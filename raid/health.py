"""How an epoch's clusters (ICSR), pairs and multilabels (MAR) or GANs (SLSR) do, and alarms of collapse."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops import quality

Ints = NDArray[np.int64]
# Below it pairs count as one person that share less than a hundredth of their soft multilabels.
LOWEST_THRESHOLD = 0.01


def cluster_health(
    global_labels: Ints,
    refined_labels: Ints,
    *,
    cameras: Ints | None,
    silhouette: float,
    previous_labels: Ints | None,
) -> dict[str, float]:
    """Describe an epoch's clusters without any ground truth.

    Args:
        global_labels: (N,) clusters before refinement, -1 = outlier.
        refined_labels: (N,) after refinement, -1 = outlier or discarded.
        cameras: (N,), or None for a set without.
        silhouette: of the clusters before refinement.
        previous_labels: (N,) global labels of the epoch before, for the churn.
    """
    sizes = np.bincount(global_labels[global_labels >= 0])
    outliers = int((global_labels < 0).sum())
    discarded = int((refined_labels < 0).sum()) - outliers
    figures = {
        "cluster/num": float(len(sizes)),
        "cluster/outliers": float(outliers),
        "cluster/coverage": quality.coverage(refined_labels),
        "cluster/largest": float(sizes.max(initial=0)) / len(global_labels),
        "cluster/size_median": float(np.median(sizes)) if len(sizes) else 0.0,
        "cluster/size_max": float(sizes.max(initial=0)),
        "cluster/singletons": float((sizes == 1).sum()),
        "cluster/silhouette": silhouette,
        "refine/discarded": discarded / len(global_labels),
    }
    if cameras is not None:
        figures["cluster/camera_purity"] = quality.camera_purity(global_labels, cameras)
    if previous_labels is not None:
        figures["cluster/churn"] = 1.0 - quality.ari(previous_labels, global_labels)
    return figures


def label_quality(
    identities: Ints,
    global_labels: Ints,
    refined_labels: Ints,
    local_labels: Ints | None,
    cameras: Ints | None,
) -> dict[str, float]:
    """Score the labels against the identities, for a set that has them (never used in training).

    Refined labels are scored twice: without the discarded images, as the paper's figure 2 does, and with
    each discarded image as a cluster of its own (`refined_all`): leaving images out is not free.
    """
    known = identities >= 0
    if not known.any():
        return {}
    figures = quality_scores("global", identities[known], global_labels[known])
    figures |= quality_scores("refined", identities[known], refined_labels[known])
    figures |= quality_scores("refined_all", identities[known], refined_labels[known], noise="singletons")
    if local_labels is not None and cameras is not None:
        figures |= _local_scores(identities[known], local_labels[known], cameras[known])
    return figures


def alarms(figures: dict[str, float], num_images: int) -> Iterator[str]:
    """Yield a line for each sign of collapse."""
    if figures["cluster/num"] < 0.02 * num_images:
        yield f"{figures['cluster/num']:.0f} clusters are fewer than 2 % of the {num_images} images"
    if figures["cluster/largest"] > 0.2:
        yield f"one cluster holds {figures['cluster/largest']:.0%} of the images (over 20 %)"
    if figures["cluster/coverage"] < 0.2:
        yield f"only {figures['cluster/coverage']:.0%} of the images are in a cluster (under 20 %)"


def multilabel_health(nearest: Ints, previous: Ints | None) -> dict[str, float]:
    """Describe without any ground truth how far the images have settled on a reference person (MAR).

    The churn is 0 where all have, also where all are nearest to the same one: read it with the people.

    Args:
        nearest: (N,) reference person that each image is nearest to, -1 = not known yet.
        previous: (N,) of the epoch before; None: there is none.
    """
    people = np.unique(nearest[nearest >= 0])
    figures = {"multilabel/people": float(len(people))} if len(people) else {}
    if previous is not None:
        both = (nearest >= 0) & (previous >= 0)
        if both.any():
            figures["multilabel/churn"] = 1.0 - quality.ari(previous[both], nearest[both])
    return figures


def mining_alarms(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each sign that an epoch of MAR (or of its pretraining) has gone wrong.

    Args:
        figures: of the epoch; those that it has not (`mining/...` where nothing was mined) say nothing.
    """
    yield from _diverged(figures, ("pretraining/loss", "train/loss"))
    if figures.get("mining/positives") == 0:
        yield "no pair was mined as positive: nothing pulls images of one person together"
    if figures.get("mining/negatives") == 0:
        yield "no pair was mined as hard negative: nothing pushes images of different people apart"
    threshold = figures.get("mining/threshold", 1.0)
    if not threshold >= LOWEST_THRESHOLD:  # NaN is not
        yield f"the threshold is {threshold:.2g} (under {LOWEST_THRESHOLD}): it no longer parts the pairs"


def mining_remarks(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the identities say against an epoch's mined pairs; nothing where there are none.

    No alarm: the identities are not used in training, and a set of real use has none.
    """
    base = figures.get("mining/base_rate", math.nan)
    positive = figures.get("mining/positive_precision", math.nan)
    negative = figures.get("mining/negative_precision", math.nan)
    if positive <= base:
        yield (
            f"of the pairs mined as positive {positive:.1%} are one person, of all similar pairs {base:.1%}: "
            "the guide finds no positives"
        )
    if negative <= 1 - base:
        yield (
            f"of the hard negatives {negative:.1%} are two persons, of all similar pairs {1 - base:.1%}: "
            "the guide finds no negatives"
        )


def slsr_alarms(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each sign that an epoch of one of SLSR's trainings has gone wrong.

    That a GAN's samples have become alike is known when it has ended, and its result says it.

    Args:
        figures: of the epoch, whichever stage it is of.
    """
    gans = [key for key in figures if key.startswith("gan/") and not key.endswith("/variance_ratio")]
    yield from _diverged(figures, ("baseline/loss", "train/loss", *gans))


def _diverged(figures: Mapping[str, Any], keys: Iterable[str]) -> Iterator[str]:
    for key in keys:
        value = figures.get(key)
        if isinstance(value, (int, float)) and not math.isfinite(value):
            yield f"the mean loss ({key}) is {value}: the training diverged"


def quality_scores(name: str, truth: Ints, labels: Ints, noise: str = "drop") -> dict[str, float]:
    """Return the scores of (N,) labels against (N,) identities, all known, as `quality/NAME/...`."""
    figures = {}
    for kind, score in (("bcubed", quality.bcubed), ("pairwise", quality.pairwise)):
        result = score(truth, labels, noise=noise)
        figures[f"quality/{name}/{kind}_precision"] = result.precision
        figures[f"quality/{name}/{kind}_recall"] = result.recall
        figures[f"quality/{name}/{kind}_f"] = result.f
        figures[f"quality/{name}/expansion"] = result.expansion
    figures[f"quality/{name}/nmi"] = quality.nmi(truth, labels, noise=noise)
    figures[f"quality/{name}/ari"] = quality.ari(truth, labels, noise=noise)
    return figures


def _local_scores(truth: Ints, labels: Ints, cameras: Ints) -> dict[str, float]:
    """Average the cameras' scores, weighted by their images (methods.md 2.11)."""
    total: dict[str, float] = {}
    for camera in np.unique(cameras):
        rows = cameras == camera
        for key, value in quality_scores("local", truth[rows], labels[rows]).items():
            total[key] = total.get(key, 0.0) + value * float(rows.mean())
    return total
