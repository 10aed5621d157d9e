"""Blocks of dot products turned into re-ranked distances: the Jaccard distance of sparse weights joins in."""

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.reciprocal import ONE

_CHUNK_ROWS = 32  # queries a thread takes at a time


def blend(
    similarity: NDArray[np.float32],
    first: int,
    queries: sp.csr_array,
    columns: sp.csc_array,
    scales: NDArray[np.float32],
    weight: float,
) -> None:
    """Turn dot products s into (1 - weight) * Jaccard + weight * scale * (1 - s), in place.

    Jaccard = 1 - m / (2 - m), m_ij = sum_k min(V_ik, V_jk): only items that share a column are touched. The
    sums are of integers, exact in any order.

    Args:
        similarity: (R, G) float32, of queries from `first` on with the gallery.
        first: the row of `queries` and `scales` that the first row belongs to.
        queries: (Q, N) V of the queries, int32 in units of 1 / ONE.
        columns: (G, N) V of the gallery, likewise.
        scales: (Q,) float32.
        weight: share of the distance of the features.

    Memory: 8 bytes an item of the gallery on each thread.
    """
    # Unsigned indices are not checked for counting from the end.
    of_queries = queries.indptr, queries.indices.view(np.uint32), queries.data
    of_gallery = columns.indptr, columns.indices.view(np.uint32), columns.data
    over_rows(
        lambda low, high: _blend(low, high, similarity, first, *of_queries, *of_gallery, scales, weight),
        0,
        len(similarity),
        chunk_rows=_CHUNK_ROWS,
    )


@compiled
def _blend(
    low: int,
    high: int,
    similarity: NDArray[np.float32],
    first: int,
    indptr: NDArray[Any],
    indices: NDArray[np.uint32],
    values: NDArray[np.int32],
    column_indptr: NDArray[Any],
    column_indices: NDArray[np.uint32],
    column_values: NDArray[np.int32],
    scales: NDArray[np.float32],
    weight: float,
) -> None:
    overlap, touched = np.zeros(similarity.shape[1], np.int32), np.empty(similarity.shape[1], np.uint32)
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
            out[item] -= (1.0 - weight) * overlap[item] / (2.0 * ONE - overlap[item])
            overlap[item] = 0


@compiled
def _overlaps(
    indices: NDArray[np.uint32],
    values: NDArray[np.int32],
    column_indptr: NDArray[Any],
    column_indices: NDArray[np.uint32],
    column_values: NDArray[np.int32],
    overlap: NDArray[np.int32],
    touched: NDArray[np.uint32],
) -> int:
    """Add m of one row to `overlap`, all zero before, and return how many it touched, listed in `touched`."""
    num_touched = 0
    for column, value in zip(indices, values):  # noqa: B905  # numba knows no strict
        for entry in range(column_indptr[column], column_indptr[column + 1]):
            item = column_indices[entry]
            if overlap[item] == 0:
                touched[num_touched] = item
                num_touched += 1
            overlap[item] += min(value, column_values[entry])
    return num_touched
