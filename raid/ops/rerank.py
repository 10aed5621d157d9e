"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), sparse and streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.blend import blend
from raid.ops.neighbors import Block, MapBlocks, Nearest, knn_and_least, row_blocks, similarity_rows
from raid.ops.ranking import query_and_gallery
from raid.ops.reciprocal import expanded_weights, half_width, member_weights

_SET_ROWS = 4096  # rows whose sets one worker computes at a time
_IN_FLIGHT = 8  # blocks of distances that `map_blocks` is given at once: what it may have to hold
# Where 1 - s is nowhere above this in a row, all rows are alike up to rounding.
_ALIKE = 1e-6


def rerank(
    query_features: NDArray[Any],
    gallery_features: NDArray[Any],
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> Iterator[NDArray[np.float32]]:
    """Yield the re-ranked distances of the queries to the gallery, block of rows by block of rows.

    distance = (1 - weight) * Jaccard + weight * d, smaller = nearer; `raid.ops.ranking.rank_blocks` scores
    them. With all queries and the gallery in one set of N = Q + G rows (Zhong et al. 2017, and the authors'
    code where the paper is silent):

      - d(i, j) is the squared Euclidean distance, 2 - 2 s, over the largest of row i *among all N rows*. The
        original divides every column by its maximum and transposes the result: row i by its own maximum.
      - The neighbour lists hold `k1` + 1 rows, the row itself among them; R_half is made of
        around(k1 / 2) + 1 of them (halves to even).
      - V(i, j) = exp(-d(i, j)) over the expanded set of i, divided by its sum; then the mean over the `k2`
        nearest rows, itself included; Jaccard = 1 - sum min(V_i, V_j) / sum max(V_i, V_j).

    Lists longer than N are cut to N. Where the rows are alike up to rounding, d is 0.

    Args:
        query_features: (Q, D) unit rows, computed in float32. Rows that are not unit (averaged queries) are
            taken as SLSR's release takes them: d from 2 - 2 s.
        gallery_features: (G, D) unit rows.
        k1: neighbours of the k-reciprocal sets, without the row itself.
        k2: rows that weights are averaged over, the row itself included; 1 = no query expansion.
        weight: lambda, the share of the original distance, 0 to 1.
        block_rows: queries per block of the result.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable. It is called
            several times, and for the result with a few blocks at a time, so that one that runs ahead does
            not have to hold all of them.

    Returns:
        An iterator of arrays (block_rows, G) float32, the last one shorter; the work up to V is done when
        the first one is asked for.

    Raises:
        ValueError: at once; `k1`, `k2`, `block_rows` below 1, `weight` outside 0..1, features of other
            shapes or not finite.

    Memory: a copy of the features, N * D * 4 bytes; that of `knn`; block_rows * G * 4 bytes a block that
    runs or waits (a lazy `map_blocks` holds one, any other up to 8); N * (k1 + 1) * 40 bytes of lists; V
    twice, 8 bytes an entry (about 60 entries a row after expansion; at worst
    min(N, k2 * (k1 + 1) * (k1 / 2 + 2))).
    """
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 and k2 must be at least 1, got {k1} and {k2}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be 0 to 1, got {weight}")
    features = np.concatenate(query_and_gallery(query_features, gallery_features))
    blocks = row_blocks(len(query_features), block_rows)

    def distances() -> Iterator[NDArray[np.float32]]:
        if blocks:
            width = min(max(k1 + 1, k2), len(features))
            table = knn_and_least(features, width, map_blocks=map_blocks)
            yield from _distances(features, table, blocks, k1, k2, weight, map_blocks)

    return distances()


@dataclass(frozen=True)
class _Encoded:
    """What the blocks of the result need.

    Attributes:
        features: (Q + G, D), the queries first.
        queries: (Q, N) V of the queries, as `member_weights` gives it.
        columns: (G, N) V of the gallery, by columns.
        scales: (Q,), see `_scales`.
    """

    features: NDArray[np.float32]
    queries: sp.csr_array
    columns: sp.csc_array
    scales: NDArray[np.float32]


def _distances(
    features: NDArray[np.float32],
    table: Nearest,
    blocks: list[Block],
    k1: int,
    k2: int,
    weight: float,
    map_blocks: MapBlocks,
) -> Iterator[NDArray[np.float32]]:
    """Yield the distances, from a table of neighbours and the least similarities of all rows."""
    num_queries = blocks[-1][1]
    encoded = _encode(features, table, num_queries, k1, k2, map_blocks)
    blended = partial(_block, encoded=encoded, weight=weight)
    for first in range(0, len(blocks), _IN_FLIGHT):
        yield from map_blocks(blended, blocks[first : first + _IN_FLIGHT])


def _encode(
    features: NDArray[np.float32], table: Nearest, num_queries: int, k1: int, k2: int, map_blocks: MapBlocks
) -> _Encoded:
    """Compute V of the queries and of the gallery."""
    width = table.index.shape[1]  # of small sets less than is asked for
    scales = _scales(table.least)
    matrix = member_weights(
        features,
        table.index,
        table.similarity,
        width=min(k1 + 1, width),
        half=min(half_width(k1), width),
        scales=scales,
        block_rows=_SET_ROWS,
        map_blocks=map_blocks,
    )
    if k2 > 1:
        matrix = expanded_weights(
            matrix, table.index, min(k2, width), block_rows=_SET_ROWS, map_blocks=map_blocks
        )
    columns = sp.csc_array(matrix[num_queries:])
    return _Encoded(features, matrix[:num_queries], columns, scales[:num_queries])


def _scales(least: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what makes 1 - s into d: one over its largest value in each row; 0 where all rows are alike."""
    farthest = 1.0 - least
    apart = farthest > _ALIKE
    return np.where(apart, 1.0 / np.where(apart, farthest, 1.0), 0.0).astype(np.float32)


def _block(block: Block, encoded: _Encoded, weight: float) -> NDArray[np.float32]:
    num_queries = encoded.queries.shape[0]
    queries, gallery = encoded.features[:num_queries], encoded.features[num_queries:]
    distances = similarity_rows(block, queries, gallery).numpy()
    blend(distances, block[0], encoded.queries, encoded.columns, encoded.scales, weight)
    return distances
