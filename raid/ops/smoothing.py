"""Label distributions over the identities: sparse (SLSR), uniform (LSRO), all-in-one, plain smoothing (LSR).

A distribution is a row of float64 that adds up to one. C_i of the paper, the identities that cluster i of the
images holds, is row i of a table `sets` (k, K) of bool.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Sets = NDArray[np.bool_]  # (k, K)


def identity_sets(
    clusters: NDArray[Any],
    identities: NDArray[Any],
    *,
    num_clusters: int,
    num_identities: int,
    min_images: int,
) -> Sets:
    """Return which identities each cluster of images holds: C_i of SLSR eq. 9.

    An identity belongs to every cluster that has at least `min_images` of its images: to several, and with
    more than one image asked for possibly to none. An empty cluster holds nobody.

    Args:
        clusters: (N,) cluster of each real image, 0 to `num_clusters` - 1.
        identities: (N,) 0 to `num_identities` - 1.
        num_clusters: k.
        num_identities: K.
        min_images: 1 in the paper and the release, which has a filter of 5 commented out.

    Returns:
        (k, K) bool.

    Raises:
        ValueError: shapes that differ, a number out of its range, or `min_images` below 1.

    Memory: 8 * k * K bytes, and a few arrays of N numbers.
    """
    if clusters.ndim != 1 or clusters.shape != identities.shape:
        raise ValueError(f"need two arrays of one shape (N,), got {clusters.shape} and {identities.shape}")
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, got {min_images}")
    _check_range(clusters, num_clusters, "clusters")
    _check_range(identities, num_identities, "identities")
    cells = clusters.astype(np.int64) * num_identities + identities
    counts = np.bincount(cells, minlength=num_clusters * num_identities)
    return counts.reshape(num_clusters, num_identities) >= min_images


def sparse(sets: Sets) -> Floats:
    """Return 1 / |C_i| on the identities of C_i and 0 elsewhere (SLSR eq. 9 to 12).

    With one cluster of all images this is `uniform`; a set of one identity gives that identity alone.

    Args:
        sets: (K,) or (k, K), as `identity_sets` returns them; of the clusters that images are generated of
            alone, where others may be empty.

    Returns:
        The same shape, float64.

    Raises:
        ValueError: a set without an identity: there is no distribution over nobody.
    """
    sizes = sets.sum(axis=-1, keepdims=True)
    if not sizes.all():
        empty = np.flatnonzero(sizes == 0).tolist()
        raise ValueError(f"sets {empty} hold no identity: lower min_images, or generate nothing of them")
    return np.asarray(sets / sizes)


def uniform(num_identities: int) -> Floats:
    """Return 1 / K for every identity, (K,): LSRO, and what SLSR's release gives every generated image."""
    return np.full(num_identities, 1 / num_identities)


def all_in_one(num_identities: int) -> Floats:
    """Return the further class of all generated images, (K + 1,): 1 in the last place, 0 for every identity.

    The classifier then has K + 1 outputs, and the real images' distributions K + 1 places.
    """
    return np.append(np.zeros(num_identities), 1.0)


def lsr(identities: NDArray[Any], num_outputs: int, epsilon: float) -> Floats:
    """Return the smoothed labels of real images (LSR, SLSR eq. 8): 1 - eps on the label, eps / K on all.

    The label itself has 1 - eps + eps / K. With eps = 0 it has all: SLSR eq. 7.

    Args:
        identities: (n,) labels, 0 to `num_outputs` - 1.
        num_outputs: K, the outputs of the classifier.
        epsilon: 0 to 1.

    Returns:
        (n, K).

    Raises:
        ValueError: a label or `epsilon` out of its range.
    """
    _check_range(identities, num_outputs, "identities")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon must be 0 to 1, got {epsilon}")
    rows = np.full((len(identities), num_outputs), epsilon / num_outputs)
    rows[np.arange(len(identities)), identities] += 1 - epsilon
    return rows


def permuted_sets(sets: Sets, seed: int) -> Sets:
    """Return a control: every cluster with the identities of another one, no two with the same cluster's.

    It has the sizes of the sets and the number of generated images, but images that say nothing of the
    identities they count for. The clusters form one random cycle, so that none keeps its own set; empty sets
    stay where they are, for nothing is generated there.

    Args:
        sets: (k, K).
        seed: of the cycle.

    Raises:
        ValueError: fewer than two clusters hold anybody: there is no other set to take.
    """
    held = np.flatnonzero(sets.any(axis=1))
    if len(held) < 2:
        raise ValueError("a control needs at least two clusters that hold an identity")
    cycle = np.random.default_rng(seed).permutation(held)
    control = sets.copy()
    control[cycle] = sets[np.roll(cycle, 1)]
    return control


def _check_range(numbers: NDArray[Any], count: int, name: str) -> None:
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < count):
        raise ValueError(f"{name} must be 0 to {count - 1}, got {numbers.min()} to {numbers.max()}")
