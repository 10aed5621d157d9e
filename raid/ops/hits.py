"""Where the matches of queries stand in their rankings: counted, not sorted.

A ranking's figures need only the positions of a query's few matches. The position of a match is the number
of gallery items before it, so a row of distances is read once for every match, at the speed of the cache:
for the dozens of matches of person re-identification less work than a binary search for every item.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows

Ints = NDArray[np.int64]
_CHUNK_ROWS = 32  # queries a thread takes at a time
_TILE = 4096  # items of a row that stay in the first cache while they are compared with every match
# Above so many matches, sorting all items costs less than comparing each with every match.
_MANY_MATCHES = 2048


@dataclass(frozen=True)
class Rules:
    """What counts for each of Q queries among G gallery items, from the labels alone.

    Attributes:
        order: (G,) rows of the gallery by identity, then row.
        first: (Q,) where the query's identity begins in `order`.
        last: (Q,) one after its end; `first` if nothing has it, or if the query's identity is -1.
        junk: (J,) rows of identity -1.
        query_cameras: (Q,) numbers of the cameras, or a number that no item has.
        gallery_cameras: (G,).
    """

    order: Ints
    first: Ints
    last: Ints
    junk: Ints
    query_cameras: Ints
    gallery_cameras: Ints

    @classmethod
    def of(
        cls,
        query_identities: NDArray[Any],
        query_cameras: NDArray[Any] | None,
        gallery_identities: NDArray[Any],
        gallery_cameras: NDArray[Any] | None,
    ) -> "Rules":
        """Apply the protocol: an item of the query's identity *and* camera does not count, nor does junk.

        Raises:
            ValueError: labels of one side that differ in shape, or cameras of one side only.
        """
        if (query_cameras is None) != (gallery_cameras is None):
            raise ValueError("give cameras of both queries and gallery, or of neither")
        _check("query", query_identities, query_cameras)
        _check("gallery", gallery_identities, gallery_cameras)
        order = np.argsort(gallery_identities, kind="stable")
        ordered = gallery_identities[order]
        first = np.searchsorted(ordered, query_identities, side="left")
        last = np.searchsorted(ordered, query_identities, side="right")
        last = np.where(query_identities == -1, first, last)
        cameras = _numbered(query_cameras, len(query_identities), gallery_cameras, len(gallery_identities))
        return cls(order, first, last, order[ordered == -1], *cameras)

    def counted(self, query: int) -> NDArray[np.bool_]:
        """Mark what counts for one query, (G,); nothing for a query of identity -1."""
        counted = np.ones(len(self.order), np.bool_)
        counted[self.junk] = False
        mates = self.order[self.first[query] : self.last[query]]
        counted[mates[self.gallery_cameras[mates] == self.query_cameras[query]]] = False
        return counted


def hit_positions(distances: NDArray[Any], first_query: int, rules: Rules) -> tuple[Ints, Ints]:
    """Return the positions of the matches of some queries, when what counts is sorted.

    The order is by rising distance, then by row of the gallery.

    Args:
        distances: (R, G) float32 or float64, of the queries from `first_query` on.
        first_query: number of the first one.
        rules: of all queries.

    Returns:
        Positions (H,) from 0, rising within a query, one query after the other; and how many each query
        has, (R,).

    Raises:
        ValueError: a distance that is not a number.

    Memory: a few numbers a match, and on each thread a few numbers a junk item; 9 bytes an item of the
    gallery for a query with many matches.
    """
    distances = np.ascontiguousarray(distances)
    queries = np.arange(first_query, first_query + len(distances))
    sizes = rules.last[queries] - rules.first[queries]
    places = np.cumsum(sizes) - sizes  # where a query's hits begin, with room for those of its own camera
    hits, counts = np.empty(sizes.sum(), np.int64), np.zeros(len(queries), np.int64)
    table = (rules.order, rules.first, rules.last, rules.junk, rules.query_cameras, rules.gallery_cameras)
    nan = over_rows(
        lambda low, high: _count(low, high, distances, first_query, *table, places, hits, counts),
        0,
        len(distances),
        chunk_rows=_CHUNK_ROWS,
    )
    if any(nan):
        raise ValueError("a distance is not a number (NaN): it has no place in an order")
    for row in np.flatnonzero(sizes > _MANY_MATCHES):
        found = _sort(distances[row], queries[row], rules)
        hits[places[row] : places[row] + len(found)], counts[row] = found, len(found)
    owner = np.repeat(np.arange(len(queries)), sizes)
    used = np.arange(len(hits)) - places[owner] < counts[owner]
    hits, owner = hits[used], owner[used]
    return hits[np.lexsort((hits, owner))], counts


def _sort(distances: NDArray[Any], query: int, rules: Rules) -> Ints:
    """Return the positions of one query's matches, from the whole order."""
    counted = rules.counted(query)
    match = np.zeros(len(counted), np.bool_)
    match[rules.order[rules.first[query] : rules.last[query]]] = True
    order = np.argsort(distances, kind="stable")
    return np.flatnonzero(match[order[counted[order]]])


def _check(name: str, identities: NDArray[Any], cameras: NDArray[Any] | None) -> None:
    if identities.ndim != 1:
        raise ValueError(f"{name}_identities must have shape (N,), got {identities.shape}")
    if cameras is not None and cameras.shape != identities.shape:
        raise ValueError(f"{name}_cameras must have shape {identities.shape}, got {cameras.shape}")


def _numbered(
    query: NDArray[Any] | None, num_queries: int, gallery: NDArray[Any] | None, num_gallery: int
) -> tuple[Ints, Ints]:
    """Return one int64 number a camera, on both sides the same; without cameras no two are equal."""
    if query is None or gallery is None:
        return np.full(num_queries, -1), np.zeros(num_gallery, np.int64)
    _, numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)
    return numbers[:num_queries], numbers[num_queries:]


@compiled
def _count(
    low: int,
    high: int,
    distances: NDArray[Any],
    first_query: int,
    order: Ints,
    first: Ints,
    last: Ints,
    junk: Ints,
    query_cameras: Ints,
    gallery_cameras: Ints,
    places: Ints,
    hits: Ints,
    counts: Ints,
) -> bool:
    """Write hits, in no order, and counts of the rows from `low` to `high` but for those with many matches.

    Returns whether a distance of a query with matches is NaN.
    """
    matches, dropped = np.empty(_MANY_MATCHES, np.int64), np.empty(len(junk) + _MANY_MATCHES, np.int64)
    dropped[: len(junk)] = junk
    nan = False
    for row in range(low, high):
        of_row, query = distances[row], first_query + row
        if last[query] == first[query]:
            continue
        nan = nan or _num_nan(of_row) > 0
        if last[query] - first[query] > _MANY_MATCHES:
            continue
        num_matches, num_dropped = 0, len(junk)
        for item in order[first[query] : last[query]]:
            if gallery_cameras[item] == query_cameras[query]:
                dropped[num_dropped] = item
                num_dropped += 1
            else:
                matches[num_matches] = item
                num_matches += 1
        found = hits[places[row] : places[row] + num_matches]
        _count_each(of_row, matches[:num_matches], dropped[:num_dropped], found)
        counts[row] = num_matches
    return nan


@compiled
def _num_nan(row: NDArray[Any]) -> Any:
    num = np.uint32(0)
    for item in range(row.size):
        num += np.uint32(row[item] != row[item])
    return num


@compiled
def _count_each(row: NDArray[Any], matches: Ints, dropped: Ints, before: Ints) -> None:
    """Count what counts before each match: equal items only from lower places."""
    before[:] = 0
    for start in range(0, len(row), _TILE):
        stop = min(start + _TILE, len(row))
        for number, match in enumerate(matches):
            middle = min(max(match, start), stop)
            before[number] += _num_up_to(row[start:middle], row[match])
            before[number] += _num_below(row[middle:stop], row[match])
    values = row[dropped]
    for number, match in enumerate(matches):
        limit = row[match]
        for place in range(len(dropped)):
            before[number] -= (values[place] < limit) | ((values[place] == limit) & (dropped[place] < match))


# Loops over an index and counters of 32 bits, as wide as a distance: only so they become vector code.
@compiled
def _num_up_to(values: NDArray[Any], limit: float) -> Any:
    num = np.uint32(0)
    for item in range(values.size):
        num += np.uint32(values[item] <= limit)
    return num


@compiled
def _num_below(values: NDArray[Any], limit: float) -> Any:
    num = np.uint32(0)
    for item in range(values.size):
        num += np.uint32(values[item] < limit)
    return num
