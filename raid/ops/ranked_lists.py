"""The first places of a query-gallery ranking, for the eye: the rules are those of `raid.ops.ranking`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.hits import Ints, Rules
from raid.ops.neighbors import Block, MapBlocks, row_blocks, similarity_rows
from raid.ops.ranking import checked_rules, query_and_gallery


@dataclass(frozen=True)
class RankedLists:
    """The first P places of the ranking of each of Q queries.

    Attributes:
        rows: (Q, P) int64 rows of the gallery, best first; -1 where fewer items count.
        similarity: (Q, P) float32, falling; NaN where there is no item.
        right: (Q, P) bool, whether the item has the query's identity.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]
    right: NDArray[np.bool_]


def ranked_lists(
    query_features: NDArray[Any],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_features: NDArray[Any],
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    num_places: int,
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> RankedLists:
    """Return the first `num_places` places of what `raid.ops.ranking.rank` scores.

    Args and memory as in `rank`; a query of identity -1 has an empty list.

    Raises:
        ValueError: as in `rank`, but for queries without a match, or `num_places` below 1.
    """
    if num_places < 1:
        raise ValueError(f"num_places must be at least 1, got {num_places}")
    queries, gallery = query_and_gallery(query_features, gallery_features)
    rules = checked_rules(
        query_identities, query_cameras, len(queries), gallery_identities, gallery_cameras, len(gallery)
    )
    junk_queries = query_identities == -1
    search = partial(
        _list_block, queries=queries, gallery=gallery, rules=rules, empty=junk_queries, num_places=num_places
    )
    parts = list(map_blocks(search, row_blocks(len(queries), block_rows)))
    rows = np.concatenate([np.empty((0, num_places), np.int64), *(part[0] for part in parts)])
    similarity = np.concatenate([np.empty((0, num_places), np.float32), *(part[1] for part in parts)])
    right = (rows >= 0) & (gallery_identities[rows] == query_identities[:, None])
    return RankedLists(rows, similarity, right)


def _list_block(
    block: Block,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    rules: Rules,
    empty: NDArray[np.bool_],
    num_places: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows of the gallery and similarities, (rows, num_places), of the queries of the block."""
    similarity = similarity_rows(block, queries, gallery).numpy()
    rows = np.full((len(similarity), num_places), -1, np.int64)
    values = np.full(rows.shape, np.nan, np.float32)
    for place, query in enumerate(range(*block)):
        if not empty[query]:
            first = first_places(-similarity[place], np.flatnonzero(rules.counted(query)), num_places)
            rows[place, : len(first)], values[place, : len(first)] = first, similarity[place, first]
    return rows, values


def first_places(distances: NDArray[Any], counted: Ints, num_places: int) -> Ints:
    """Return the first places by rising distance, then row, sorting only what reaches them.

    Args:
        distances: (G,), no NaN.
        counted: (C,) rows that count, rising.
        num_places: how many are wanted.

    Returns:
        (P,) rows, P the smaller of C and `num_places`.
    """
    values = distances[counted]
    if num_places < len(values):
        reach = values <= np.partition(values, num_places - 1)[num_places - 1]
        counted, values = counted[reach], values[reach]
    return counted[np.argsort(values, kind="stable")[:num_places]]
