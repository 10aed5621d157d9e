"""What a threshold on similarities comes to: rates with intervals, and the curves that a page shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.ops.bootstrap import interval
from raid.ops.verification import NUM_LEVELS, STEPS, Curve, Features, Ints, similarity_of
from raid.ops.verification_bootstrap import candidate_levels, pair_table, replicates

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_NUM_BINS = 60


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A threshold, and what it comes to.

    Attributes:
        far: share of the impostors that may be accepted.
        threshold: the lowest step of 2^-20 that accepts no more: a pair is accepted where its cosine
            similarity is at least this.
        tar: share of the genuine pairs that it accepts.
        num_accepted: impostors that it accepts.
        threshold_interval: 95 %, over identities.
        tar_interval: 95 %, of the share at the threshold that other identities would give.
    """

    far: float
    threshold: float
    tar: float
    num_accepted: int
    threshold_interval: Interval
    tar_interval: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """All figures.

    Attributes:
        rates: by the shares that were asked for.
        num_genuine: pairs.
        num_impostor: pairs.
        eer: equal error rate.
        auc: area under the curve.
        curve: of all pairs.
    """

    rates: tuple[Rates, ...]
    num_genuine: int
    num_impostor: int
    eer: float
    auc: float
    curve: Curve


def verify(
    features: Features, identities: Ints, cameras: Ints | None, curve: Curve, fars: Sequence[float]
) -> Verification:
    """Return thresholds at false-accept rates, with intervals, and the figures of the whole curve.

    Args:
        features: (N, D) unit rows.
        identities: (N,).
        cameras: (N,), or None for all pairs.
        curve: of them, with pairs of both kinds.
        fars: shares of the impostors that may be accepted.
    """
    table = pair_table(features, identities, cameras, candidate_levels(curve, fars))
    found = replicates(table, fars)
    return Verification(
        rates=tuple(
            _rates(curve, far, levels, tars)
            for far, levels, tars in zip(fars, found.levels, found.tar, strict=True)
        ),
        num_genuine=curve.num_genuine,
        num_impostor=curve.num_impostor,
        eer=curve.equal_error_rate(),
        auc=curve.area(),
        curve=curve,
    )


def histograms(curve: Curve) -> tuple[Floats, Floats, Floats]:
    """Return the middles (H,) of bins of similarity, and the shares of genuine and impostors in them."""
    edges = _edges(curve)
    middles = (edges[:-1] + edges[1:]) / 2 / STEPS - 1.0
    shares = [-np.diff(kind[edges]) / kind[0] for kind in (curve.genuine, curve.impostor)]
    return middles, shares[0], shares[1]


def error_rates(curve: Curve) -> tuple[Floats, Floats, Floats]:
    """Return thresholds (T,), and the false-accept and the false-reject rate at each."""
    edges = _edges(curve)
    accepted, kept = (kind[edges] / kind[0] for kind in (curve.impostor, curve.genuine))
    return edges / STEPS - 1.0, accepted, 1.0 - kept


def _rates(curve: Curve, far: float, levels: Ints, tars: Floats) -> Rates:
    level = curve.level(far)
    return Rates(
        far=far,
        threshold=similarity_of(level),
        tar=curve.tar(level),
        num_accepted=int(curve.impostor[level]),
        threshold_interval=interval(levels / STEPS - 1.0),
        tar_interval=interval(tars),
    )


def _edges(curve: Curve) -> Ints:
    """Return levels at equal distances from the first that has a pair to just above the last."""
    pairs = curve.genuine + curve.impostor
    there = np.flatnonzero(np.diff(pairs))
    first, last = int(there[0]), min(int(there[-1]) + 1, NUM_LEVELS)
    return np.unique(np.linspace(first, last, _NUM_BINS + 1).round().astype(np.int64))
