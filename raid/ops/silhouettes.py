"""Silhouettes of clusters in Euclidean space, and how they go with the number of clusters (SLSR Table 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.kmeans import kmeans
from raid.ops.neighbors import as_features, row_blocks
from raid.ops.products import as_slices, as_tensor, products

PLANE_DIRECTIONS = 12  # that are followed to find the first two
_BLOCK_ROWS = 512
_MOST_PASSES, _PLANE_TOLERANCE = 100, 1e-7

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SilhouetteRow:
    """Silhouettes of the k-means clusters of one number.

    Attributes:
        num_clusters: k.
        features: of the clusters of the features, among the features.
        plane: of the clusters of the features' two principal components, among these: the paper's Table 1,
            as its code has it. They are other clusters, and a plane flatters them: compare k, not the two.
    """

    num_clusters: int
    features: float
    plane: float


def silhouette_table(
    features: NDArray[Any],
    numbers: Sequence[int],
    *,
    seed: int,
    restarts: int,
    plane: Floats | None = None,
) -> list[SilhouetteRow]:
    """Return the silhouettes of k-means for each number of clusters (SLSR Table 1: 2 to 5).

    The clusters of the features are those of `raid.ops.kmeans` with the same seed and restarts.

    Args:
        features: (N, D), computed in float32; D at least 2.
        numbers: numbers of clusters, each 1 to N.
        seed: of the starts of k-means, 0 or more.
        restarts: starts of k-means, 1 or more.
        plane: the features' `principal_plane`, where it is known already.

    Raises:
        ValueError: arguments out of range, or features that are not (N, D) and finite.

    Memory: that of `kmeans`, of `silhouettes` and of `principal_plane`, one after the other.
    """
    columns = []
    for points in (as_features(features), principal_plane(features) if plane is None else plane):
        found = [kmeans(points, num_clusters=k, seed=seed, restarts=restarts).labels for k in numbers]
        columns.append(silhouettes(points, found))
    return [SilhouetteRow(*row) for row in zip(numbers, *columns, strict=True)]


def silhouettes(features: NDArray[Any], labelings: Sequence[NDArray[Any]]) -> list[float]:
    """Return the mean silhouette of each labeling, with Euclidean distances (Rousseeuw 1987).

    (b - a) / max(a, b), a being a sample's mean distance to the others of its cluster, b the least of its
    mean distances to another cluster. As scikit-learn's: singletons score 0. Samples of label -1 are left
    out; fewer than two clusters give 0.

    Every distance is computed once, for all labelings. They are float32, of features around their mean:
    errors are up to 3e-4 of a feature's length where two nearly coincide, 1e-7 of it elsewhere, 0 between
    duplicates. The same bits for any number of threads.

    Args:
        features: (N, D), computed in float32.
        labelings: (N,) pseudo labels each, -1 = noise.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.

    Memory: two copies of the features, 8 bytes a sample and cluster of each labeling, and 512 * N distances
    twice. Time: N = 12,936, D = 2048, four labelings: 6 seconds of one core; scikit-learn takes 19 for each.
    """
    points = as_features(features)
    if not np.isfinite(points).all():
        raise ValueError("features must be finite")
    if any(labels.shape != (len(points),) for labels in labelings):
        raise ValueError(f"need labels ({len(points)},), got {[labels.shape for labels in labelings]}")
    members = [_members(labels) for labels in labelings]
    sums = _sums(points, np.concatenate([np.empty((0, len(points)), np.float32), *members]))
    parts = np.split(sums, np.cumsum([len(rows) for rows in members]), axis=1)
    return [_mean_silhouette(part, rows) for part, rows in zip(parts, members, strict=False)]


def principal_plane(features: NDArray[Any]) -> Floats:
    """Return the two principal components of every sample, (N, 2), around 0, the larger one first.

    Found by subspace iteration with products in float64, from directions that are always the same: in as
    many dimensions as the flattened maps of a network have, a covariance would not fit. Each direction points
    to where its largest entry is positive. Where the variances of several directions are nearly equal, as in
    noise, no plane is better than another, and the iteration ends with one of them.

    Args:
        features: (N, D), D and N at least 2.

    Raises:
        ValueError: fewer samples or dimensions, or features that are not finite.

    Memory: D * 500 bytes, and a block of 512 rows in float64. Time: 6 to 100 passes over the features, 40 *
    N * D operations each.
    """
    if features.ndim != 2 or min(features.shape) < 2:
        raise ValueError(f"need features (N, D), N and D at least two, got {features.shape}")
    blocks = row_blocks(len(features), _BLOCK_ROWS)
    mean = sum(features[a:b].sum(axis=0, dtype=np.float64) for a, b in blocks) / len(features)
    if not np.isfinite(mean).all():
        raise ValueError("features must be finite")
    axes = _leading_directions(features, mean)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return np.concatenate([((features[a:b] - mean) @ axes).astype(np.float32) for a, b in blocks])


def _leading_directions(features: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two directions of largest variance, (D, 2) float64 orthonormal columns."""
    width = min(*features.shape, PLANE_DIRECTIONS)
    start = np.random.default_rng(0).standard_normal((features.shape[1], width))
    basis = np.linalg.qr(start).Q
    for _ in range(_MOST_PASSES):
        scattered = np.zeros_like(basis)
        for first, last in row_blocks(len(features), _BLOCK_ROWS):
            centred = features[first:last] - mean
            scattered += centred.T @ (centred @ basis)
        values, turned = np.linalg.eigh(basis.T @ scattered)
        scattered, basis = scattered @ turned, basis @ turned  # the largest are last
        missing = np.linalg.norm(scattered - basis * values, axis=0)
        if missing[-2:].max() <= _PLANE_TOLERANCE * values[-1]:
            break
        basis = np.linalg.qr(scattered[:, ::-1]).Q[:, ::-1]
    return basis[:, :-3:-1]


def _members(labels: NDArray[Any]) -> Floats:
    """Return which samples each cluster has, (clusters, N), 1 or 0."""
    return np.asarray(np.unique(labels[labels != -1])[:, None] == labels, np.float32)


def _sums(points: Floats, members: Floats) -> Floats:
    """Return the sum of each sample's distances to each cluster, (N, clusters).

    |x|^2 is taken from the product that gives x . y: duplicates are at 0 exactly.
    """
    centred = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
    columns, clusters = as_slices(centred), as_slices(members)
    blocks = [slice(*block) for block in row_blocks(len(centred), _BLOCK_ROWS)]
    norms = np.concatenate([_squares(centred[block]) for block in blocks])
    sums = np.empty((len(points), len(members)), np.float32)
    for block in blocks:
        distances = torch.from_numpy(products(as_slices(centred[block]), columns)).mul_(-2)
        distances += as_tensor(norms)
        distances += as_tensor(norms[block, None])
        distances.clamp_(min=0).sqrt_()
        sums[block] = products(as_slices(distances.numpy()), clusters)
    return sums


def _squares(rows: Floats) -> Floats:
    slices = as_slices(rows)
    return products(slices, slices).diagonal().copy()


def _mean_silhouette(sums: Floats, members: Floats) -> float:
    """Return the mean over the samples that have a cluster, in float64."""
    kept, sizes = members.any(axis=0), members.sum(axis=1, dtype=np.float64)
    if len(sizes) < 2:
        return 0.0
    own = members.argmax(axis=0)[kept]
    means, mates = sums[kept] / sizes, sizes[own] - 1
    at = np.arange(len(own)), own
    a = means[at] * sizes[own] / np.maximum(mates, 1)
    means[at] = np.inf
    b = means.min(axis=1)
    largest = np.maximum(a, b)
    scores = np.divide(b - a, largest, out=np.zeros_like(a), where=(largest > 0) & (mates > 0))
    return float(scores.mean())
