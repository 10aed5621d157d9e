"""DBSCAN on a sparse similarity: connected components of core samples (Ester et al. 1996)."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.symmetric import arrays_of, pair_hash

_BLOCK = 64  # entries that are skipped together where none is near
_CHUNK_BLOCKS = 1 << 16


def dbscan(similarity: sp.csr_array, *, eps: float, min_samples: int) -> NDArray[np.int64]:
    """Join samples that have many near neighbours, and what is near to them.

    The distance of two samples is 1 - similarity, 1 where nothing is stored. They are near at a distance of
    at most `eps`. A core sample has at least `min_samples` near samples, itself among them, whatever the
    diagonal says. Clusters are the connected components of core samples; a sample near to core samples of
    several clusters goes to the one with the lowest label.

    Equal to scikit-learn's `DBSCAN(eps, min_samples, metric="precomputed")` on the dense distances, numbers
    and border samples included: it numbers clusters by their first core sample, too, and it completes a
    cluster before it begins the next, so a border sample is reached by the lowest label first.

    Args:
        similarity: (N, N) symmetric, or its upper triangle alone, each entry once; values 0 to 1. Entries
            below 1 - eps may be left out. It may be read-only or mapped from a file: values are read once,
            front to back, and again where near ones are.
        eps: above 0 and below 1, where all samples would be near each other.
        min_samples: 1 or more.

    Returns:
        Labels (N,) int64, numbered by the first core sample; -1 = outlier. Empty if N = 0. The same for any
        number of threads.

    Raises:
        ValueError: `eps` or `min_samples` out of range, or a similarity that is not square, finite,
            non-negative, and symmetric in what is near.

    Memory: about 20 bytes a sample, and 1 byte for 64 entries.
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps must be above 0 and below 1, got {eps}")
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    indptr, indices, values = arrays_of(similarity)
    threshold = _least_similarity(eps, values.dtype)
    busy = np.zeros(-(-len(values) // _BLOCK), np.bool_)
    over_rows(
        lambda first, last: _find_busy(values, threshold, busy, first, last),
        0,
        len(busy),
        chunk_rows=_CHUNK_BLOCKS,
    )
    counts = np.ones(similarity.shape[0], np.int64)
    fault = _count_near(indptr, indices, values, threshold, busy, counts)
    if fault == _NOT_A_SIMILARITY:
        raise ValueError("similarity must be finite and non-negative")
    if fault == _ASYMMETRIC:
        raise ValueError("similarity must be symmetric, or an upper triangle")
    return _labels(indptr, indices, values, threshold, busy, counts >= min_samples)


def _least_similarity(eps: float, dtype: np.dtype[Any]) -> Any:
    """Return the smallest value of `dtype` whose distance, computed in float64, is at most `eps`."""
    value = dtype.type(1.0 - eps)
    while 1.0 - float(value) > eps:
        value = np.nextafter(value, dtype.type(2))
    while 1.0 - float(np.nextafter(value, dtype.type(-1))) <= eps:
        value = np.nextafter(value, dtype.type(-1))
    return value


@compiled
def _find_busy(values: NDArray[Any], threshold: Any, busy: NDArray[np.bool_], first: int, last: int) -> None:
    """Mark the blocks of entries in which something is near, or is no similarity (NaN, negative)."""
    for block in range(first, last):
        quiet = 0
        part = values[block * _BLOCK : (block + 1) * _BLOCK]
        for value in part:
            quiet += (value >= 0) & (value < threshold)
        busy[block] = quiet < len(part)


@compiled
def _next_near(values: NDArray[Any], threshold: Any, busy: NDArray[np.bool_], start: int, stop: int) -> int:
    """Return the next position from `start` that is not far, or `stop`."""
    while start < stop:
        if not busy[start // _BLOCK]:
            start += _BLOCK - start % _BLOCK
        elif values[start] >= 0 and values[start] < threshold:
            start += 1
        else:
            return start
    return stop


_NOT_A_SIMILARITY, _ASYMMETRIC = 1, 2


@compiled
def _count_near(
    indptr: NDArray[np.int64],
    indices: NDArray[Any],
    values: NDArray[Any],
    threshold: Any,
    busy: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> int:
    """Add to `counts` the near samples of each sample, from the upper triangle; return a fault or 0.

    The lower triangle must be empty or hold the same pairs. Sums of 64-bit hashes of the pairs tell, in one
    pass and no memory; two different sets of pairs agree by chance once in 2^64.
    """
    above, below = np.uint64(0), np.uint64(0)
    for row in range(len(counts)):
        stop = indptr[row + 1]
        position = _next_near(values, threshold, busy, indptr[row], stop)
        while position < stop:
            if not (values[position] >= 0 and values[position] < np.inf):
                return _NOT_A_SIMILARITY
            column = indices[position]
            if column > row:
                counts[row] += 1
                counts[column] += 1
                above += pair_hash(row, column, 0)
            elif column < row:
                below += pair_hash(column, row, 0)
            position = _next_near(values, threshold, busy, position + 1, stop)
    return 0 if below == 0 or below == above else _ASYMMETRIC


@compiled
def _labels(
    indptr: NDArray[np.int64],
    indices: NDArray[Any],
    values: NDArray[Any],
    threshold: Any,
    busy: NDArray[np.bool_],
    core: NDArray[np.bool_],
) -> NDArray[np.int64]:
    parent = np.arange(len(core))
    for row in range(len(core)):
        stop = indptr[row + 1]
        position = _next_near(values, threshold, busy, indptr[row], stop)
        while position < stop:
            column = indices[position]
            if column > row and core[row] and core[column]:
                _unite(parent, row, column)
            position = _next_near(values, threshold, busy, position + 1, stop)
    labels = _number(parent, core)
    border = np.full(len(core), len(core))
    for row in range(len(core)):
        stop = indptr[row + 1]
        position = _next_near(values, threshold, busy, indptr[row], stop)
        while position < stop:
            column = indices[position]
            if column > row and core[row] != core[column]:
                inside, outside = (row, column) if core[row] else (column, row)
                border[outside] = min(border[outside], labels[inside])
            position = _next_near(values, threshold, busy, position + 1, stop)
    for row in range(len(core)):
        if border[row] < len(core):
            labels[row] = border[row]
    return labels


@compiled
def _root(parent: NDArray[np.int64], sample: int) -> int:
    while parent[sample] != sample:
        parent[sample] = parent[parent[sample]]
        sample = parent[sample]
    return sample


@compiled
def _unite(parent: NDArray[np.int64], one: int, other: int) -> None:
    """Join two sets. The root of a set is its lowest sample, by which clusters are numbered."""
    one, other = _root(parent, one), _root(parent, other)
    parent[max(one, other)] = min(one, other)


@compiled
def _number(parent: NDArray[np.int64], core: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return labels of the core samples by rising root; -1 for the rest."""
    labels = np.full(len(core), -1)
    num_clusters = 0
    for sample in range(len(core)):
        root = _root(parent, sample)
        if core[sample] and root == sample:
            labels[sample] = num_clusters
            num_clusters += 1
        elif core[sample]:
            labels[sample] = labels[root]
    return labels
