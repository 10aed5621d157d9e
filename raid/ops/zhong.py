"""k-reciprocal sets, their weights and the expansion of these, as Zhong et al. (2017) define them.

All functions work on blocks of rows, write to arrays of their own, and are compiled: a row's work does not
depend on any other row's, so neither the cut nor the number of threads changes a bit.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.nearest import LANES, dot
from raid.ops.neighbors import Block

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

_CHUNK_ROWS, _CHUNK_QUERIES = 256, 32  # rows a thread takes at a time


class Sets(NamedTuple):
    """Sets of rows: those of row i are members[i, : sizes[i]], nearest first."""

    members: Indices  # (N, k)
    sizes: Indices  # (N,)


def reciprocal_sets(index: Indices) -> Sets:
    """Return R(i) = {j in N(i): i in N(j)} from a table of neighbours, (N, k).

    Memory: N * k * 4 bytes.
    """
    index = np.ascontiguousarray(index)
    sets = Sets(np.full_like(index, -1), np.zeros(len(index), np.int32))
    over_rows(lambda low, high: _reciprocal(index, low, high, *sets), 0, len(index), chunk_rows=_CHUNK_ROWS)
    return sets


def weights(
    block: Block,
    features: Floats,
    index: Indices,
    similarity: Floats,
    scales: Floats,
    sets: Sets,
    half: Sets,
) -> sp.csr_array:
    """Return the rows `block` of V, (rows, N) float32, every row summing to 1 (or empty).

    V_ij = exp(-scale_i (1 - s_ij)) / sum over the expanded set of i. The expanded set is R(i), and with each
    candidate q in R(i) that has |R_half(q) & R(i)| > 2/3 |R_half(q)| all of R_half(q).

    Args:
        block: rows.
        features: (N, D) unit rows.
        index: (N, k) neighbours.
        similarity: (N, k) their dot products; those of other members of a set are computed.
        scales: (N,): 2 makes it a softmax of the negative squared distances; Zhong et al. divide by a row's
            largest distance.
        sets: R of all rows.
        half: R_half of all rows.

    Memory: k * (1 + k_half) * 8 bytes a row before it is cut to size, 12 bytes a row of all on each thread.
    """
    arrays = (features, index, similarity, scales, *sets, *half)
    pieces = over_rows(lambda low, high: _weights(low, high, *arrays), *block, chunk_rows=_CHUNK_ROWS)
    return _stacked(pieces, len(features))


def expanded(block: Block, matrix: sp.csr_array, index: Indices) -> sp.csr_array:
    """Return the rows `block` of the mean of V over each row's neighbours `index` (N, k2), itself included.

    Memory: as the result, before it is cut to size at worst k2 times a row of V; 12 bytes a row of all on
    each thread.
    """
    arrays = (matrix.indptr, matrix.indices, matrix.data, index)
    pieces = over_rows(lambda low, high: _expanded(low, high, *arrays), *block, chunk_rows=_CHUNK_ROWS)
    return _stacked(pieces, matrix.shape[1])


def blend(
    similarity: Floats, first: int, matrix: sp.csr_array, columns: sp.csc_array, scales: Floats, weight: float
) -> None:
    """Turn dot products into (1 - weight) * Jaccard + weight * scale * (1 - s), in place.

    Jaccard = 1 - m / (2 - m), m_ij = sum_k min(V_ik, V_jk): only items that share a column are touched.

    Args:
        similarity: (R, G) float32, of queries from `first` on with the gallery.
        first: the row of `matrix` and `scales` that the first row belongs to.
        matrix: V of the queries.
        columns: V of the gallery.
        scales: of each query.
        weight: share of the distance of the features.

    Memory: 12 bytes an item of the gallery on each thread.
    """
    arrays = (matrix.indptr, matrix.indices, matrix.data, columns.indptr, columns.indices, columns.data)
    over_rows(
        lambda low, high: _blend(low, high, similarity, first, *arrays, scales, weight),
        0,
        len(similarity),
        chunk_rows=_CHUNK_QUERIES,
    )


_Piece = tuple[NDArray[np.int64], Indices, Floats]


def _stacked(pieces: list[_Piece], num_columns: int) -> sp.csr_array:
    lengths = np.concatenate([np.empty(0, np.int64), *(piece[0] for piece in pieces)])
    indices = np.concatenate([np.empty(0, np.int32), *(piece[1] for piece in pieces)])
    values = np.concatenate([np.empty(0, np.float32), *(piece[2] for piece in pieces)])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_array((values, indices, indptr), shape=(len(lengths), num_columns))


@compiled
def _reciprocal(index: Indices, low: int, high: int, members: Indices, sizes: Indices) -> None:
    for row in range(low, high):
        for other in index[row]:
            for back in index[other]:
                if back == row:
                    members[row, sizes[row]] = other
                    sizes[row] += 1
                    break


@compiled
def _weights(
    low: int,
    high: int,
    features: Floats,
    index: Indices,
    similarity: Floats,
    scales: Floats,
    members: Indices,
    sizes: Indices,
    half_members: Indices,
    half_sizes: Indices,
) -> _Piece:
    widest = members.shape[1] * (1 + half_members.shape[1])
    indices, values = np.empty((high - low) * widest, np.int32), np.empty((high - low) * widest, np.float32)
    lengths = np.empty(high - low, np.int64)
    # A row that was seen in a table or a set carries the number of the row that saw it there.
    listed, seen = np.full(len(index), -1, np.int32), np.full(len(index), -1, np.int32)
    place_of, lanes = np.empty(len(index), np.int32), np.empty(LANES, np.float32)
    end = 0
    for row in range(low, high):
        found = indices[end : end + widest]
        length = _expanded_set(row, members, sizes, half_members, half_sizes, seen, found)
        for place, item in enumerate(index[row]):
            listed[item], place_of[item] = row, place
        total = 0.0
        for place in range(length):
            item = found[place]
            if listed[item] == row:
                product = similarity[row, place_of[item]]
            else:
                product = dot(features[row], features[item], lanes)
            value = np.exp(-scales[row] * max(1.0 - product, 0.0))
            values[end + place] = value
            total += value
        for place in range(end, end + length):
            values[place] /= total
        lengths[row - low] = length
        end += length
    return lengths, indices[:end].copy(), values[:end].copy()


@compiled
def _expanded_set(
    row: int,
    members: Indices,
    sizes: Indices,
    half_members: Indices,
    half_sizes: Indices,
    seen: Indices,
    found: Indices,
) -> Any:
    """Write the expanded set of a row, in no order, and return its size; uses two numbers of `seen` a row."""
    length = sizes[row]
    for place in range(length):
        found[place] = members[row, place]
        seen[found[place]] = 2 * row
    for place in range(sizes[row]):
        candidate = members[row, place]
        half = half_members[candidate, : half_sizes[candidate]]
        shared = 0
        for item in half:
            shared += seen[item] == 2 * row
        if 3 * shared <= 2 * half.size:  # more than 2/3 of it, in integers
            continue
        for item in half:
            if seen[item] < 2 * row:
                seen[item] = 2 * row + 1
                found[length] = item
                length += 1
    return length


@compiled
def _expanded(
    low: int, high: int, indptr: NDArray[Any], indices: Indices, values: Floats, index: Indices
) -> _Piece:
    num_all = len(indptr) - 1
    bound = 0
    for row in range(low, high):
        for neighbor in index[row]:
            bound += indptr[neighbor + 1] - indptr[neighbor]
    found, means = np.empty(bound, np.int32), np.empty(bound, np.float32)
    lengths = np.empty(high - low, np.int64)
    sums = np.zeros(num_all)
    end = 0
    for row in range(low, high):
        start = end
        for neighbor in index[row]:
            for place in range(indptr[neighbor], indptr[neighbor + 1]):
                if sums[indices[place]] == 0.0:
                    found[end] = indices[place]
                    end += 1
                sums[indices[place]] += values[place]
        for place in range(start, end):
            means[place] = sums[found[place]] / index.shape[1]
            sums[found[place]] = 0.0
        lengths[row - low] = end - start
    return lengths, found[:end].copy(), means[:end].copy()


@compiled
def _blend(
    low: int,
    high: int,
    similarity: Floats,
    first: int,
    indptr: NDArray[Any],
    indices: Indices,
    values: Floats,
    column_indptr: NDArray[Any],
    column_indices: Indices,
    column_values: Floats,
    scales: Floats,
    weight: float,
) -> None:
    overlap, touched = np.zeros(similarity.shape[1]), np.empty(similarity.shape[1], np.int32)
    share, one, zero = np.float32(1.0 - weight), np.float32(1.0), np.float32(0.0)
    for row in range(low, high):
        out, own = similarity[row], slice(indptr[first + row], indptr[first + row + 1])
        scale = np.float32(weight * scales[first + row])
        for item in range(out.size):
            out[item] = share + scale * max(one - out[item], zero)
        num_touched = _overlaps(
            indices[own], values[own], column_indptr, column_indices, column_values, overlap, touched
        )
        for item in touched[:num_touched]:
            out[item] -= (1.0 - weight) * overlap[item] / (2.0 - overlap[item])
            overlap[item] = 0.0


@compiled
def _overlaps(
    indices: Indices,
    values: Floats,
    column_indptr: NDArray[Any],
    column_indices: Indices,
    column_values: Floats,
    overlap: NDArray[np.float64],
    touched: Indices,
) -> int:
    """Add m of one row to `overlap`, all zero before, and return how many it touched, listed in `touched`."""
    num_touched = 0
    for column, value in zip(indices, values):  # noqa: B905  # numba knows no strict
        for entry in range(column_indptr[column], column_indptr[column + 1]):
            item = column_indices[entry]
            if overlap[item] == 0.0:
                touched[num_touched] = item
                num_touched += 1
            overlap[item] += min(value, column_values[entry])
    return num_touched
