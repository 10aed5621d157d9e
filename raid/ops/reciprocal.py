"""k-reciprocal neighbour sets and the weights of their members (Zhong et al. 2017, section 3.2 and 3.3)."""

from functools import partial

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.neighbors import Block, MapBlocks, row_blocks
from raid.ops.sparse_rows import Rows, assemble

# Weights are integers, in units of 2 ** -30: sums are exact, so their order does not matter, and half the
# size of float64, with an error (5e-10) below that of float32.
ONE = 1 << 30

_CHUNK_ROWS = 256
_GROUP = 8  # neighbouring columns that share a mark "touched"


def half_width(k1: int) -> int:
    """Return how many columns of the lists the half sets of Zhong et al. are made of, 1 to `k1`."""
    # np.around rounds halves to even: k1 = 5 gives 2 + 1 columns, k1 = 6 gives 3 + 1, k1 = 7 gives 4 + 1.
    return int(np.around(k1 / 2)) + 1


def reciprocal_table(neighbors: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Return the k-reciprocal neighbours for k = `width`: j of row i where each lists the other.

    Args:
        neighbors: (N, K) indices, nearest first.
        width: k, at most K.

    Returns:
        (N, width) int32; each row its members in the order of `neighbors`, then -1.
    """
    table = np.full((len(neighbors), width), -1, np.int32)
    over_rows(
        lambda first, last: _reciprocal_rows(neighbors, table, first, last),
        0,
        len(neighbors),
        chunk_rows=_CHUNK_ROWS,
    )
    return table


@compiled
def _reciprocal_rows(neighbors: NDArray[np.int32], table: NDArray[np.int32], first: int, last: int) -> None:
    width = table.shape[1]
    for row in range(first, last):
        size = 0
        for place in range(width):
            other = neighbors[row, place]
            lists_row = 0
            for back in range(width):  # to the end, without a branch: compiled to vector compares
                lists_row += neighbors[other, back] == row
            if lists_row > 0:
                table[row, size] = other
                size += 1


def member_weights(
    features: NDArray[np.float32],
    neighbors: NDArray[np.int32],
    similarity: NDArray[np.float32] | None,
    *,
    width: int,
    half: int,
    scales: NDArray[np.float32] | None = None,
    block_rows: int,
    map_blocks: MapBlocks,
) -> sp.csr_array:
    """Return V: for each sample the softmax of -scale (1 - s) over its expanded reciprocal set.

    The set R(i) is expanded by R_half(q) of each q in R(i) more than 2/3 of which lie in R(i).

    Args:
        features: (N, D) unit rows.
        neighbors: (N, K) indices, nearest first, self included.
        similarity: (N, K) dot products s of the table; None to compute those that are needed.
        width: columns of the lists that R is made of, at most K.
        half: columns of the lists that R_half is made of, at most K.
        scales: (N,) of each row; None for 2, with which it is the softmax of -(squared distance).
        block_rows: rows per block.
        map_blocks: what runs the blocks.

    Returns:
        (N, N) CSR int32 in units of 1 / ONE, columns rising. A sample that is not in its own reciprocal
        set may have an empty row.

    Memory: the result, at worst N * width * (1 + half) entries of 8 bytes, and before it is cut to size
    that much of 256 rows on each thread, beside 5 bytes a row of all; both tables of R, N * (width + half)
    * 4 bytes.
    """
    weigh = partial(
        _member_weights_block,
        features=features,
        neighbors=neighbors,
        similarity=similarity,
        scales=np.full(len(features), 2, np.float32) if scales is None else scales,
        reciprocal=reciprocal_table(neighbors, width),
        half=reciprocal_table(neighbors, half),
    )
    return assemble(map_blocks(weigh, row_blocks(len(features), block_rows)), len(features))


def _member_weights_block(
    block: Block,
    features: NDArray[np.float32],
    neighbors: NDArray[np.int32],
    similarity: NDArray[np.float32] | None,
    scales: NDArray[np.float32],
    reciprocal: NDArray[np.int32],
    half: NDArray[np.int32],
) -> list[Rows]:
    if similarity is None:
        neighbors, similarity = neighbors[:, :0], np.empty((len(features), 0), np.float32)
    known, products = neighbors, similarity
    return over_rows(
        lambda first, last: _member_weights_rows(
            features, known, products, scales, reciprocal, half, first, last
        ),
        *block,
        chunk_rows=_CHUNK_ROWS,
    )


@compiled
def _member_weights_rows(
    features: NDArray[np.float32],
    known: NDArray[np.int32],
    products: NDArray[np.float32],
    scales: NDArray[np.float32],
    reciprocal: NDArray[np.int32],
    half: NDArray[np.int32],
    first: int,
    last: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    most = reciprocal.shape[1] * (1 + half.shape[1])
    lengths = np.empty(last - first, np.int64)
    columns = np.empty((last - first) * most, np.int32)
    weights = np.empty((last - first) * most, np.int32)
    state = np.zeros(len(features), np.uint8)  # 1 a reciprocal neighbour, 2 added by expansion
    place = np.full(len(features), -1, np.int32)  # in the row's list of neighbours
    logits = np.empty(most, np.float64)
    used = 0
    for row in range(first, last):
        members = columns[used : used + most]
        size = _members(row, reciprocal, half, state, members)
        members[:size].sort()
        for at in range(known.shape[1]):
            place[known[row, at]] = at
        for at in range(size):
            member = members[at]
            state[member] = 0
            if place[member] >= 0:
                product = products[row, place[member]]
            else:
                product = np.dot(features[row], features[member])
            logits[at] = scales[row] * (product - 1.0)
        for at in range(known.shape[1]):
            place[known[row, at]] = -1
        _softmax(logits[:size], weights[used : used + size])
        lengths[row - first] = size
        used += size
    return lengths, columns[:used].copy(), weights[:used].copy()


@compiled
def _members(
    row: int,
    reciprocal: NDArray[np.int32],
    half: NDArray[np.int32],
    state: NDArray[np.uint8],
    members: NDArray[np.int32],
) -> int:
    """Write the expanded reciprocal set of one row into `members` and `state`; return its size."""
    size = 0
    for member in reciprocal[row]:
        if member >= 0:
            state[member] = 1
            members[size] = member
            size += 1
    for candidate in members[:size].copy():
        total = shared = 0
        for member in half[candidate]:
            if member >= 0:
                total += 1
                shared += state[member] == 1
        if 3 * shared > 2 * total:  # more than 2/3, in integers
            for member in half[candidate]:
                if member >= 0 and state[member] == 0:
                    state[member] = 2
                    members[size] = member
                    size += 1
    return size


@compiled
def _softmax(logits: NDArray[np.float64], weights: NDArray[np.int32]) -> None:
    largest = -np.inf
    for logit in logits:
        largest = max(largest, logit)
    total = 0.0
    for at in range(len(logits)):
        logits[at] = np.exp(logits[at] - largest)
        total += logits[at]
    for at in range(len(logits)):
        weights[at] = max(1, round(logits[at] / total * ONE))


def expanded_weights(
    weights: sp.csr_array,
    neighbors: NDArray[np.int32],
    k2: int,
    *,
    block_rows: int,
    map_blocks: MapBlocks,
) -> sp.csr_array:
    """Return the mean of V over each sample's first `k2` neighbours (query expansion); like `weights`."""
    average = partial(
        _expanded_block,
        starts=weights.indptr,
        columns=weights.indices,
        weights=weights.data,
        neighbors=np.ascontiguousarray(neighbors[:, :k2]),
    )
    return assemble(map_blocks(average, row_blocks(len(neighbors), block_rows)), len(neighbors))


def _expanded_block(
    block: Block,
    starts: NDArray[np.integer],
    columns: NDArray[np.int32],
    weights: NDArray[np.int32],
    neighbors: NDArray[np.int32],
) -> list[Rows]:
    return over_rows(
        lambda first, last: _expanded_rows(starts, columns, weights, neighbors, first, last),
        *block,
        chunk_rows=_CHUNK_ROWS,
    )


@compiled
def _expanded_rows(
    starts: NDArray[np.integer],
    columns: NDArray[np.int32],
    weights: NDArray[np.int32],
    neighbors: NDArray[np.int32],
    first: int,
    last: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    most = 0
    for row in range(first, last):
        for other in neighbors[row]:
            most += starts[other + 1] - starts[other]
    lengths = np.empty(last - first, np.int64)
    new_columns = np.empty(most, np.int32)
    new_weights = np.empty(most, np.int32)
    touched = np.zeros(8 * (len(neighbors) // (8 * _GROUP) + 1), np.uint8)
    sums = np.zeros(len(touched) * _GROUP, np.int64)
    words = touched.view(np.uint64)  # eight groups at a look: nearly all are untouched
    k2 = neighbors.shape[1]
    used = 0
    for row in range(first, last):
        for other in neighbors[row]:
            for at in range(starts[other], starts[other + 1]):
                sums[columns[at]] += weights[at]
                touched[columns[at] // _GROUP] = 1
        before = used
        for word in range(len(words)):
            if words[word] == 0:
                continue
            words[word] = 0
            for column in range(8 * _GROUP * word, 8 * _GROUP * (word + 1)):
                if sums[column] > 0:
                    new_columns[used] = column
                    new_weights[used] = max(1, (sums[column] + k2 // 2) // k2)
                    sums[column] = 0
                    used += 1
        lengths[row - first] = used - before
    return lengths, new_columns[:used].copy(), new_weights[:used].copy()
