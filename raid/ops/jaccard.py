"""k-reciprocal Jaccard similarity as a sparse matrix (Zhong et al. 2017; as ICSR's release computes it)."""

from bisect import bisect_left
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.neighbors import Block, MapBlocks, as_features, knn, row_blocks
from raid.ops.reciprocal import ONE, expanded_weights, half_width, member_weights
from raid.ops.sparse_rows import Rows, assemble

_GROUP_BITS = 3
_GROUP = 1 << _GROUP_BITS  # neighbouring rows that share a mark "touched"


def jaccard_similarity(
    features: NDArray[Any],
    *,
    k1: int = 30,
    k2: int = 6,
    min_similarity: float = 0.0,
    folder: Path | None = None,
    block_rows: int = 1024,
    map_blocks: MapBlocks = map,
) -> sp.csr_array:
    """Compute 1 - the k-reciprocal Jaccard distance of all pairs, storing what is not zero.

    Differs from Zhong et al. in two ways, both of the release of ICSR: the neighbour lists hold `k1`
    entries *including* the sample itself (Zhong: k1 + 1), and the weights are a softmax of the negative
    squared distances.

    Args:
        features: (N, D) unit rows, computed in float32.
        k1: size of the neighbour lists, self included.
        k2: neighbours, self included, over which weights are averaged (query expansion); 1 = none.
        min_similarity: entries below it are left out, the diagonal never. `dbscan` with `eps` needs those
            from 1 - eps on, and gives the same labels with them; linkage needs all (0).
        folder: where the entries are kept, `columns.bin` and `values.bin`, and mapped back from, read-only:
            they then count as cache that the system may drop, not as memory. None for memory.
        block_rows: rows per block, for the search and for the sets.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Returns:
        (N, N) float32 CSR, bitwise symmetric, indices sorted, diagonal exactly 1; the Jaccard distance is
        1 - this, and exactly 1 where nothing is stored (or less than `min_similarity`).

    Raises:
        ValueError: `k1` or `k2` outside 1..N, or features that are not (N, D).

    Memory: that of `knn`; then its table (N * max(k1, k2) * 12 bytes), two of k1 columns int32, two copies
    of the weights (at worst k1 * k1 * k2 / 2 entries a row, mostly some tens, of 8 bytes), a few blocks,
    and the result, 8 bytes a stored entry (at worst N * N; about 12 % of that at N = 13,000), once, and
    with a folder only there.
    """
    products, neighbors = knn(features, features, max(k1, k2), block_rows=block_rows, map_blocks=map_blocks)
    return jaccard_from_neighbors(
        features,
        neighbors,
        products,
        k1=k1,
        k2=k2,
        min_similarity=min_similarity,
        folder=folder,
        block_rows=block_rows,
        map_blocks=map_blocks,
    )


def jaccard_from_neighbors(
    features: NDArray[Any],
    neighbors: NDArray[np.integer],
    products: NDArray[np.float32] | None = None,
    *,
    k1: int = 30,
    k2: int = 6,
    min_similarity: float = 0.0,
    folder: Path | None = None,
    block_rows: int = 1024,
    map_blocks: MapBlocks = map,
) -> sp.csr_array:
    """Compute the Jaccard similarity from a table of nearest neighbours, exact or approximate.

    Args:
        features: (N, D) unit rows.
        neighbors: (N, >= max(k1, k2)) indices of the nearest neighbours, nearest first, each once, self
            included (an approximate table may lack it).
        products: the dot products of the table, as `knn` returns them; None: computed again.
        k1: see `jaccard_similarity`, as are the others, the result and the memory.
        k2: see `jaccard_similarity`.
        min_similarity: see `jaccard_similarity`.
        folder: see `jaccard_similarity`.
        block_rows: rows per block.
        map_blocks: what runs the blocks.

    Raises:
        ValueError: `k1` or `k2` below 1 or above the width of the table, or a table that does not fit.
    """
    features = as_features(features)
    _validate(features, neighbors, products, k1, k2, min_similarity)
    table: NDArray[np.int32] = np.ascontiguousarray(neighbors, dtype=np.int32)
    if products is not None:
        products = np.ascontiguousarray(products, dtype=np.float32)
    weights = member_weights(
        features,
        table,
        products,
        width=k1,
        half=half_width(k1),
        block_rows=block_rows,
        map_blocks=map_blocks,
    )
    if k2 > 1:
        weights = expanded_weights(weights, table, k2, block_rows=block_rows, map_blocks=map_blocks)
    by_column = weights.tocsc()
    overlap = partial(
        _similarity_block,
        weights=(weights.indptr, weights.indices.view(np.uint32), weights.data),
        by_column=(by_column.indptr, by_column.indices.view(np.uint32), by_column.data),
        least=_least_overlap(min_similarity),
    )
    return assemble(map_blocks(overlap, row_blocks(len(features), block_rows)), len(features), folder)


def _validate(
    features: NDArray[np.float32],
    neighbors: NDArray[np.integer],
    products: NDArray[np.float32] | None,
    k1: int,
    k2: int,
    min_similarity: float,
) -> None:
    if neighbors.ndim != 2 or len(neighbors) != len(features) or len(features) == 0:
        raise ValueError(
            f"neighbors must have shape (N, k) with N = {len(features)} > 0, got {neighbors.shape}"
        )
    if products is not None and products.shape != neighbors.shape:
        raise ValueError(
            f"products must have the shape of neighbors, {neighbors.shape}, got {products.shape}"
        )
    if not (1 <= k1 <= neighbors.shape[1] and 1 <= k2 <= neighbors.shape[1]):
        raise ValueError(f"k1 and k2 must be 1 to {neighbors.shape[1]}, got {k1} and {k2}")
    if not 0 <= min_similarity <= 1:
        raise ValueError(f"min_similarity must be 0 to 1, got {min_similarity}")
    if neighbors.min() < 0 or neighbors.max() >= len(features):  # compiled loops do not look
        raise ValueError(f"neighbors must lie in 0..{len(features) - 1}")


# A sparse matrix as compiled loops take it: starts, indices, values. Unsigned indices are not checked for
# counting from the end.
Arrays = tuple[NDArray[np.integer], NDArray[np.uint32], NDArray[np.int32]]


def _similarity_block(block: Block, weights: Arrays, by_column: Arrays, least: int) -> list[Rows]:
    """Return the rows `block` of m / (2 - m) with m_ij = sum_k min(V_ik, V_jk), for m >= least / ONE."""
    return over_rows(
        lambda first, last: _similarity_rows(*weights, *by_column, least, first, last),
        *block,
        # A chunk clears N counters: in large sets it has more rows to share that.
        chunk_rows=max(64, min(256, (len(weights[0]) - 1) // 256)),
    )


def _least_overlap(min_similarity: float) -> int:
    """Return the least overlap, in units of 1 / ONE, whose similarity as stored is not below the argument."""
    return bisect_left(range(ONE), min_similarity, lo=1, key=_similarity)


@compiled
def _similarity(overlap: int) -> Any:
    shared = overlap / ONE
    return np.float32(min(shared / (2.0 - shared), 1.0))


@compiled
def _similarity_rows(
    starts: NDArray[np.integer],
    columns: NDArray[np.uint32],
    weights: NDArray[np.int32],
    column_starts: NDArray[np.integer],
    rows: NDArray[np.uint32],
    row_weights: NDArray[np.int32],
    least: int,
    first: int,
    last: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Walk, for each row, the columns of V in which it has a weight: only rows that share one are touched."""
    num_rows = len(starts) - 1
    lengths = np.empty(last - first, np.int64)
    # Room for the most there can be; memory is taken only where something is written.
    most = _most_entries(starts, columns, column_starts, first, last) + _GROUP
    others = np.empty(most, np.int32)
    overlaps = np.empty(most, np.int32)
    touched = np.zeros(8 * (num_rows // (8 * _GROUP) + 1), np.uint8)
    overlap = np.zeros(len(touched) * _GROUP, np.int32)
    used = 0
    for row in range(first, last):
        for at in range(starts[row], starts[row + 1]):
            weight = weights[at]
            for place in range(column_starts[columns[at]], column_starts[columns[at] + 1]):
                other = rows[place]
                overlap[other] += min(weight, row_weights[place])
                touched[other >> _GROUP_BITS] = 1
        # Rounding apart its own overlap is 1 already, but where a sample is not its own neighbour.
        overlap[row] = ONE
        touched[row >> _GROUP_BITS] = 1
        before = used
        used = _collect(overlap, touched, least, others, overlaps, used)
        lengths[row - first] = used - before
    values = np.empty(used, np.float32)
    for at in range(used):
        values[at] = _similarity(overlaps[at])
    return lengths, others[:used].copy(), values


@compiled
def _most_entries(
    starts: NDArray[np.integer],
    columns: NDArray[np.uint32],
    column_starts: NDArray[np.integer],
    first: int,
    last: int,
) -> int:
    total = 0
    for row in range(first, last):
        entries = 1
        for at in range(starts[row], starts[row + 1]):
            entries += column_starts[columns[at] + 1] - column_starts[columns[at]]
        total += min(entries, len(starts) - 1)
    return total


@compiled
def _collect(
    overlap: NDArray[np.int32],
    touched: NDArray[np.uint8],
    least: int,
    others: NDArray[np.int32],
    overlaps: NDArray[np.int32],
    used: int,
) -> int:
    """Write what is not below `least`, by rising index, from place `used` on, and clear; return the next."""
    words = touched.view(np.uint64)  # eight groups at a look: in large sets nearly all are untouched
    for word in range(len(words)):
        if words[word] == 0:
            continue
        for group in range(8 * word, 8 * word + 8):
            if touched[group] == 0:
                continue
            for other in range(group << _GROUP_BITS, (group + 1) << _GROUP_BITS):
                # Written always and kept by the count: a branch here would be guessed wrong too often.
                others[used] = other
                overlaps[used] = overlap[other]
                used += overlap[other] >= least
                overlap[other] = 0
        words[word] = 0
    return used
