"""k-means: Lloyd's algorithm on all starts at once, begun in few dimensions.

Most of the way to a minimum is gone in a projection of the features on 64 principal directions, where a step
costs next to nothing and the sum of squares is nearly that of the full space (Cohen et al. 2015,
"Dimensionality reduction for k-means clustering"). Lloyd's algorithm in the full space then goes on from each
start's clusters until nothing changes: the result is its fixed point, whatever the projection left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.labels import by_first_appearance
from raid.ops.neighbors import as_features, row_blocks
from raid.ops.products import as_tensor, multiply

_BLOCK_ROWS = 1024  # a fixed cut: the bits of a matrix product change with the height of a block
_COLUMNS = 256  # that are summed together
_DIRECTIONS = 64
_SAMPLE = 2048  # rows from which the principal directions are found

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]  # (N, starts)


@dataclass(frozen=True, eq=False)
class KMeans:
    """A partition around means.

    Attributes:
        labels: (N,) int64, numbered by first appearance.
        centroids: (K, D) float32, the means of the clusters.
        inertia: sum of the squared distances of the samples to their centroids.
    """

    labels: NDArray[np.int64]
    centroids: Floats
    inertia: float


def kmeans(features: NDArray[Any], *, num_clusters: int, seed: int, restarts: int) -> KMeans:
    """Partition samples into `num_clusters` clusters of least inertia, the best of several starts.

    Starts are those of greedy k-means++ (Arthur & Vassilvitskii 2007; of 2 + log K candidates the one that
    lowers the inertia most, as in scikit-learn), drawn in the projection. No cluster is empty: one that would
    be takes the sample that is farthest from its centroid, of equally far ones the first. Lloyd's algorithm
    ends when the inertia, in float64, falls no more; distances are float32.

    Every start has random numbers of its own, so more restarts never give a worse result but for what the
    projection leaves out. The same bytes for any number of threads: blocks of rows are fixed, and sums are
    cut by columns. (Where torch lacks oneDNN, a matrix product's last bits may depend on the threads.)

    Args:
        features: (N, D), computed in float32.
        num_clusters: 1 to N.
        seed: 0 or more.
        restarts: starts, 1 or more.

    Raises:
        ValueError: an argument out of range (thus also no samples), or features that are not (N, D) and
            finite.

    Memory: restarts * K * D * 16 bytes of sums and centroids, 4 * N * (64 + restarts * 2 (2 + log K)) bytes
    of the projection and for seeding, and a block of 1024 rows times restarts * K distances.
    """
    points = as_features(features)
    if not 1 <= num_clusters <= len(points):
        raise ValueError(f"num_clusters must be 1 to {len(points)} (the samples), got {num_clusters}")
    if restarts < 1 or seed < 0:
        raise ValueError(f"restarts must be at least 1 and seed at least 0, got {restarts} and {seed}")
    if not all(np.isfinite(points[a:b]).all() for a, b in row_blocks(len(points), _BLOCK_ROWS)):
        raise ValueError("features must be finite")
    projected = _projected(points, seed)
    labels = _seeded(projected, num_clusters, seed, restarts)
    labels, gains = _lloyd(projected, labels, num_clusters)
    if projected is not points:
        labels, gains = _lloyd(points, _distinct(labels), num_clusters)
    return _result(points, labels[:, int(gains.argmax())])


def _projected(points: Floats, seed: int) -> Floats:
    """Return the points in the principal directions of a sample, (N, 64); themselves, if D is not larger.

    Randomised: one step of subspace iteration from random directions (Halko et al. 2011).
    """
    if points.shape[1] <= 2 * _DIRECTIONS:
        return points
    rng = np.random.default_rng((seed, 0))
    sample = torch.from_numpy(points[np.sort(rng.permutation(len(points))[:_SAMPLE])])
    random = torch.from_numpy(rng.standard_normal((_DIRECTIONS, points.shape[1]), np.float32))
    stretched = multiply(multiply(random, sample), sample.T.contiguous())
    basis = torch.from_numpy(_orthonormal(stretched.numpy()))
    return torch.cat([multiply(rows, basis) for _, rows in _blocks(points)]).numpy()


def _orthonormal(rows: Floats) -> Floats:
    """Return an orthonormal basis of the span of `rows` (R, D); zero rows for what is linearly dependent.

    Gram-Schmidt, twice for its rounding, and by einsum: the bits of LAPACK's QR depend on the threads.
    """
    basis = rows.astype(np.float64)
    for number, row in enumerate(basis):
        length = np.sqrt(np.einsum("d,d->", row, row))
        for _ in range(2):
            row -= np.einsum("k,kd->d", np.einsum("kd,d->k", basis[:number], row), basis[:number])
        left = np.sqrt(np.einsum("d,d->", row, row))
        row *= 1.0 / left if left > 1e-6 * length else 0.0
    return basis.astype(np.float32)


def _blocks(points: Floats) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield which rows a block holds, and the rows."""
    rows = as_tensor(points)
    for start, stop in row_blocks(len(points), _BLOCK_ROWS):
        yield slice(start, stop), rows[start:stop]


def _distinct(labels: Labels) -> Labels:
    """Keep one of the starts that have come to the same clusters."""
    renumbered = [by_first_appearance(start)[0].astype(np.int32) for start in labels.T]
    different = {start.tobytes(): start for start in renumbered}
    return np.stack(list(different.values()), axis=1)


def _seeded(points: Floats, num_clusters: int, seed: int, restarts: int) -> Labels:
    """Return the clusters around the first centroids of every start."""
    trials = 2 + int(np.log(num_clusters))
    draws = np.stack(
        [np.random.default_rng((seed, 1 + start)).random((num_clusters, trials)) for start in range(restarts)]
    )
    starts = np.arange(restarts)
    norms = np.square(points).sum(1)
    chosen = np.empty((restarts, num_clusters), np.int64)
    chosen[:, 0] = draws[:, 0, 0] * len(points)
    closest = _distances(points, norms, chosen[:, 0])
    for cluster in range(1, num_clusters):
        edges = closest.cumsum(1, np.float64)
        candidates = np.stack(
            [np.searchsorted(edges[s], draws[s, cluster] * edges[s, -1], "right") for s in starts]
        ).clip(max=len(points) - 1)
        distances = _distances(points, norms, candidates.ravel()).reshape(restarts, trials, -1)
        np.minimum(distances, closest[:, None], out=distances)
        best = distances.sum(2).argmin(1)
        chosen[:, cluster], closest = candidates[starts, best], distances[starts, best]
    labels, distances = _assign(points, points[chosen])
    _fill_empty(labels, distances, num_clusters, points)
    return labels


def _distances(points: Floats, norms: Floats, chosen: NDArray[np.int64]) -> Floats:
    """Return the squared distances (C, N) of all points to the chosen ones."""
    centres = torch.from_numpy(points[chosen])
    squared = torch.cat([multiply(centres, rows) for _, rows in _blocks(points)], 1).numpy()
    squared *= -2
    squared += norms
    squared += norms[chosen, None]
    np.maximum(squared, 0, out=squared)
    return np.asarray(squared)


def _lloyd(points: Floats, labels: Labels, num_clusters: int) -> tuple[Labels, NDArray[np.float64]]:
    """Move samples to the nearest centroid until that gains nothing.

    Returns:
        Labels, and by how much each start's inertia is below that of the origin as the only centroid.
    """
    labels = labels.copy()
    sums = np.zeros((labels.shape[1], num_clusters, points.shape[1]))
    active = np.arange(labels.shape[1])
    _move(points, np.full_like(labels, -1), labels, active, sums)
    centroids, gains = _means(sums, active, labels)
    while len(active):
        new, distances = _assign(points, centroids)
        _fill_empty(new, distances, num_clusters, points)
        _move(points, labels[:, active], new, active, sums)
        labels[:, active] = new
        centroids, after = _means(sums, active, new)
        better = after > gains[active]
        gains[active] = after
        active, centroids = active[better], centroids[better]
    return labels, gains


def _means(
    sums: NDArray[np.float64], active: NDArray[np.int64], labels: Labels
) -> tuple[Floats, NDArray[np.float64]]:
    """Return the active starts' centroids (starts, K, D) and gains: sum over clusters of n |centroid|^2."""
    centroids, gains = np.empty((len(active), *sums.shape[1:]), np.float32), np.empty(len(active))
    for place, start in enumerate(active):
        counts = np.bincount(labels[:, place], minlength=sums.shape[1])
        means = sums[start] / counts[:, None]
        centroids[place] = means
        gains[place] = np.einsum("kd,kd->", means, sums[start])  # not BLAS: the same bits on any threads
    return centroids, gains


def _assign(points: Floats, centroids: Floats) -> tuple[Labels, Floats]:
    """Return the nearest centroid of each start (N, starts), and half its squared distance less |x|^2 / 2."""
    starts, num_clusters, dim = centroids.shape
    flat = torch.from_numpy(centroids.reshape(-1, dim))
    offsets = flat.square().sum(1) / 2
    labels = np.empty((len(points), starts), np.int32)
    distances = np.empty((len(points), starts), np.float32)
    for block, rows in _blocks(points):
        scores = torch.sub(offsets, multiply(rows, flat)).view(-1, starts, num_clusters)
        least, index = scores.min(2)
        labels[block], distances[block] = index.numpy(), least.numpy()
    return labels, distances


def _fill_empty(labels: Labels, distances: Floats, num_clusters: int, points: Floats) -> None:
    """Give every empty cluster the sample farthest from its centroid, in place."""
    for start in range(labels.shape[1]):
        counts = np.bincount(labels[:, start], minlength=num_clusters)
        empty = np.flatnonzero(counts == 0)
        if not len(empty):
            continue
        farthest = iter(np.argsort(-(distances[:, start] + np.square(points).sum(1) / 2), kind="stable"))
        for cluster in empty:
            sample = next(s for s in farthest if counts[labels[s, start]] > 1)
            counts[labels[sample, start]] -= 1
            labels[sample, start] = cluster


def _move(
    points: Floats, before: Labels, after: Labels, active: NDArray[np.int64], sums: NDArray[np.float64]
) -> None:
    """Bring the sums (starts, K, D) of the active starts from the labels `before` to those `after`."""
    add = partial(_move_columns, _read_only(points), before, after, active, sums)
    over_rows(add, 0, points.shape[1], chunk_rows=_COLUMNS)


@compiled
def _move_columns(
    points: Floats,
    before: Labels,
    after: Labels,
    active: NDArray[np.int64],
    sums: NDArray[np.float64],
    first: int,
    last: int,
) -> None:
    for row in range(len(points)):
        values = points[row, first:last]
        for place in range(len(active)):
            old, new = before[row, place], after[row, place]
            if old == new:
                continue
            target = sums[active[place], new, first:last]
            for column in range(len(values)):
                target[column] += values[column]
            if old >= 0:
                target = sums[active[place], old, first:last]
                for column in range(len(values)):
                    target[column] -= values[column]


def _result(points: Floats, labels: Labels) -> KMeans:
    """Number the clusters, and take their means and the inertia in float64."""
    numbered, first = by_first_appearance(labels)
    sums = np.zeros((1, len(first), points.shape[1]))
    column = np.ascontiguousarray(numbered[:, None], np.int32)
    _move(points, np.full_like(column, -1), column, np.zeros(1, np.int64), sums)
    centroids = sums[0] / np.bincount(numbered)[:, None]
    add = partial(_inertia, _read_only(points), centroids, numbered)
    inertia = sum(over_rows(add, 0, len(points), chunk_rows=_BLOCK_ROWS))
    return KMeans(numbered, centroids.astype(np.float32), inertia)


@compiled
def _inertia(
    points: Floats, centroids: NDArray[np.float64], labels: NDArray[np.int64], first: int, last: int
) -> float:
    total = 0.0
    for row in range(first, last):
        values, centroid = points[row], centroids[labels[row]]
        for column in range(len(values)):
            total += (values[column] - centroid[column]) ** 2
    return total


def _read_only(points: Floats) -> Floats:
    view = np.asarray(points).view()
    view.flags.writeable = False  # one kind of array, so that it is compiled once
    return view
