"""Frechet distance between two sets of features, each seen as a normal distribution (Heusel et al. 2017)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.neighbors import row_blocks

_BLOCK_ROWS = 1024

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """What is kept of a set of features.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, unbiased: divided by N - 1.
    """

    mean: Floats
    covariance: Floats


def moments(features: NDArray[Any]) -> Moments:
    """Return mean and covariance, in float64 and in two passes over blocks of rows.

    The mean is subtracted before anything is squared: features far from the origin lose no digits.

    Args:
        features: (N, D), at least two rows; may be mapped from a file.

    Raises:
        ValueError: not (N, D), fewer than two rows, or values that are not finite.

    Memory: D * D * 16 bytes, and a block of 1024 rows twice.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"need features (N, D) of at least two samples, got {features.shape}")
    blocks = row_blocks(len(features), _BLOCK_ROWS)
    mean = sum(features[a:b].sum(axis=0, dtype=np.float64) for a, b in blocks) / len(features)
    if not np.isfinite(mean).all():
        raise ValueError("features must be finite")
    covariance = np.zeros((features.shape[1], features.shape[1]))
    for start, stop in blocks:
        centred = features[start:stop] - mean
        covariance += centred.T @ centred
    return Moments(mean, covariance / (len(features) - 1))


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 or more (with Inception's features: FID).

    It is the *squared* 2-Wasserstein distance of the two normal distributions, in squared units of the
    features. With few samples it is too large, the more so the more dimensions: compare sets of one size.

    With C = F F^T the trace of the square root is the sum of the singular values of F1^T F2, so that no
    matrix that is not symmetric is decomposed and nothing complex comes up. Eigenvalues of C below its
    rounding count as 0: N < D, or constant features, need no special care. The last bits may depend on the
    number of threads.

    Args:
        one: of one set.
        other: of the other.

    Raises:
        ValueError: different numbers of dimensions.

    Time: O(D^3), 6 seconds of one core for D = 2048. Memory: 4 * D * D * 8 bytes.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"the sets have {len(one.mean)} and {len(other.mean)} dimensions")
    common = np.linalg.svd(_factor(one.covariance).T @ _factor(other.covariance), compute_uv=False).sum()
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return float(np.square(one.mean - other.mean).sum() + max(0.0, traces - 2 * common))


def _factor(covariance: Floats) -> Floats:
    """Return F (D, rank) with F F^T = C.

    The square root of an eigenvalue that is rounding alone would be 1e-8 of the largest: many of them add up.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))
