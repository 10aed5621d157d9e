"""k-reciprocal Jaccard similarity as a sparse matrix (Zhong et al. 2017; as ICSR's release computes it)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.neighbors import Block, MapBlocks, as_features, knn, row_blocks


def jaccard_similarity(
    features: NDArray[Any], *, k1: int = 30, k2: int = 6, block_rows: int = 1024, map_blocks: MapBlocks = map
) -> sp.csr_array:
    """Compute 1 - the k-reciprocal Jaccard distance of all pairs, storing what is not zero.

    Differs from Zhong et al. in two ways, both of the release of ICSR: the neighbour lists hold `k1`
    entries *including* the sample itself (Zhong: k1 + 1), and the weights are a softmax of the negative
    squared distances.

    Args:
        features: (N, D) unit rows, computed in float32.
        k1: size of the neighbour lists, self included.
        k2: neighbours, self included, over which weights are averaged (query expansion); 1 = none.
        block_rows: rows per block, for the search and for the sets.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Returns:
        (N, N) float32 CSR, bitwise symmetric, indices sorted, diagonal exactly 1; the Jaccard distance is
        1 - this, and exactly 1 where nothing is stored.

    Raises:
        ValueError: `k1` or `k2` outside 1..N, or features that are not (N, D).

    Memory: the result, 8 bytes a stored entry (at worst N * N; about 12 % of that at N = 13,000), twice
    while it is put together, plus the search's blocks and two copies of the weights (tens of entries a row).
    """
    _, neighbors = knn(features, features, max(k1, k2), block_rows=block_rows, map_blocks=map_blocks)
    return jaccard_from_neighbors(
        features, neighbors, k1=k1, k2=k2, block_rows=block_rows, map_blocks=map_blocks
    )


def jaccard_from_neighbors(
    features: NDArray[Any],
    neighbors: NDArray[np.int64],
    *,
    k1: int = 30,
    k2: int = 6,
    block_rows: int = 1024,
    map_blocks: MapBlocks = map,
) -> sp.csr_array:
    """Compute the Jaccard similarity from a table of nearest neighbours.

    Args:
        features: (N, D) unit rows.
        neighbors: (N, >= max(k1, k2)) indices of the nearest neighbours, nearest first, self included.
        k1: see `jaccard_similarity`, as are the others, the result and the memory.
        k2: see `jaccard_similarity`.
        block_rows: rows per block.
        map_blocks: what runs the blocks.

    Raises:
        ValueError: `k1` or `k2` below 1 or above the width of the table, or shapes that do not fit.
    """
    features = as_features(features)
    if neighbors.ndim != 2 or len(neighbors) != len(features) or len(features) == 0:
        raise ValueError(
            f"neighbors must have shape (N, k) with N = {len(features)} > 0, got {neighbors.shape}"
        )
    if not (1 <= k1 <= neighbors.shape[1] and 1 <= k2 <= neighbors.shape[1]):
        raise ValueError(f"k1 and k2 must be 1 to {neighbors.shape[1]}, got {k1} and {k2}")
    weights = _expanded_weights(features, neighbors, k1, k2, block_rows, map_blocks)
    overlap = partial(_similarity_block, weights=weights, columns=weights.tocsc())
    return _stack(map_blocks(overlap, row_blocks(len(features), block_rows)))


def _expanded_weights(
    features: NDArray[np.float32],
    neighbors: NDArray[np.int64],
    k1: int,
    k2: int,
    block_rows: int,
    map_blocks: MapBlocks,
) -> sp.csr_array:
    """Return V after query expansion, (N, N) float64 CSR; every row sums to 1 (or is empty)."""
    reciprocal = _reciprocal(neighbors[:, :k1])
    # np.around rounds halves to even: k1 = 5 gives 2 + 1 columns, k1 = 6 gives 3 + 1, k1 = 7 gives 4 + 1.
    half = _reciprocal(neighbors[:, : int(np.around(k1 / 2)) + 1])
    weigh = partial(_weights_block, features=features, reciprocal=reciprocal, half=half)
    weights = _stack(map_blocks(weigh, row_blocks(len(features), block_rows)))
    if k2 == 1:
        return weights
    expanded = sp.csr_array(_table(neighbors[:, :k2], np.float64) @ weights / k2)
    expanded.sort_indices()
    return expanded


def _table(neighbors: NDArray[np.int64], dtype: type[Any]) -> sp.csr_array:
    """Return the (N, N) matrix with a one where a row lists a column."""
    rows, width = neighbors.shape
    ones = np.ones(rows * width, dtype)
    # A copy (`flatten`): sorting in place must not reach the caller's table.
    table = sp.csr_array((ones, neighbors.flatten(), np.arange(rows + 1) * width), shape=(rows, rows))
    table.sort_indices()
    return table


def _reciprocal(neighbors: NDArray[np.int64]) -> sp.csr_array:
    """Return R with R[i, j] = 1 where i lists j and j lists i."""
    listed = _table(neighbors, np.int32)
    return sp.csr_array(listed.multiply(listed.T.tocsr()))


def _weights_block(
    block: Block, features: NDArray[np.float32], reciprocal: sp.csr_array, half: sp.csr_array
) -> sp.csr_array:
    """Return the rows `block` of V: softmax of the negative squared distances over the expanded sets."""
    start, stop = block
    own = reciprocal[start:stop]
    overlap = sp.csr_array(own.multiply(own @ half.T)).tocoo()
    sizes = np.diff(half.indptr)
    # overlap > 2/3 |R_half(q)|, in integers.
    accepted = 3 * overlap.data > 2 * sizes[overlap.col]
    chosen = sp.csr_array(
        (np.ones(accepted.sum(), np.int32), (overlap.row[accepted], overlap.col[accepted])), shape=own.shape
    )
    members = sp.csr_array(own + chosen @ half)
    members.sort_indices()
    weights = np.empty(members.nnz)
    for row, (low, high) in enumerate(zip(members.indptr[:-1], members.indptr[1:], strict=True)):
        if low < high:
            similarity = features[members.indices[low:high]] @ features[start + row]
            weights[low:high] = _softmax(2.0 * similarity.astype(np.float64) - 2.0)
    return sp.csr_array((weights, members.indices, members.indptr), shape=own.shape)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _similarity_block(block: Block, weights: sp.csr_array, columns: sp.csc_array) -> sp.csr_array:
    """Return the rows `block` of m / (2 - m) with m_ij = sum_k min(V_ik, V_jk), float32."""
    num_rows = len(columns.indptr) - 1
    indices, values, lengths = [], [], []
    for row in range(*block):
        overlap = _overlap_row(row, weights, columns)
        overlap[row] = 1.0  # rounding apart it is 1 already, but where a sample is not its own neighbour
        touched = np.flatnonzero(overlap)
        indices.append(touched.astype(np.int32))
        values.append(np.minimum(overlap[touched] / (2.0 - overlap[touched]), 1.0).astype(np.float32))
        lengths.append(len(touched))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    shape = (block[1] - block[0], num_rows)
    return sp.csr_array((np.concatenate(values), np.concatenate(indices), indptr), shape=shape)


def _overlap_row(row: int, weights: sp.csr_array, columns: sp.csc_array) -> NDArray[np.float64]:
    """Return m of one row, dense (N,), touching only rows that share a column with it.

    Both m_ij and m_ji add the same terms in the order of rising columns: bitwise symmetric.
    """
    low, high = weights.indptr[row], weights.indptr[row + 1]
    shared = weights.indices[low:high]
    starts, stops = columns.indptr[shared], columns.indptr[shared + 1]
    lengths = stops - starts
    # The positions of the slices starts[c]:stops[c], one after the other.
    positions = np.repeat(stops - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
    terms = np.minimum(np.repeat(weights.data[low:high], lengths), columns.data[positions])
    return np.asarray(np.bincount(columns.indices[positions], terms, weights.shape[0]), np.float64)


def _stack(blocks: Iterable[sp.csr_array]) -> sp.csr_array:
    stacked: sp.csr_array = sp.vstack(list(blocks), format="csr")
    return stacked
