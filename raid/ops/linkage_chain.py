"""The nearest-neighbour chain of average linkage, compiled.

Rows of single samples are read where they are, in the caller's matrix. A merged cluster has a row in a pool:
clusters, each once, and the sums of the similarities of their pairs. A merge touches nobody else's row:
rows name clusters as they were when the row was written, and `owner` tells into which these went since.

All in one file: numba looks for changes in the file of the function that is called, and would go on with an
old version of what that calls, or of a number that it takes, elsewhere.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled
from raid.ops.linkage_state import Clusters, Pool, Sums
from raid.ops.symmetric import Matrix

_LISTED = 8  # nearest samples that are listed of every sample
_BLOCK = 32  # entries that are passed over together where none is near enough


@compiled
def run_chain(
    matrix: Matrix,
    clusters: Clusters,
    sums: Sums,
    pool: Pool,
    merges: NDArray[np.int32],
    heights: NDArray[np.float64],
) -> int:
    """Follow the chain until every component is one cluster; return the number of merges."""
    listed, listed_values = _list_nearest(matrix)
    chain, on_chain = np.empty(len(merges), np.int64), np.zeros(len(merges), np.bool_)
    merged = 0
    for begin in range(len(merges)):
        chain[0] = begin
        depth = 1 if clusters.owner[begin] == begin else 0
        while depth > 0:
            tip, before = chain[depth - 1], chain[depth - 2] if depth > 1 else -1
            if not (
                _knows_nearest(tip, clusters)
                or _look_in_list(tip, before, listed[tip], listed_values[tip], clusters)
            ):
                _look_again(tip, matrix, pool, clusters, sums)
            nearest = int(clusters.nearest[tip])
            if nearest < 0:  # a whole component, alone in the chain
                break
            # The nearest neighbours of a chain come ever nearer. If one is on the chain it is where we come
            # from, or as near as that up to rounding: then, too, go back, or a circle of ties has no end.
            if depth == 1 or not (
                on_chain[nearest] or clusters.similarity[tip] <= clusters.similarity[before]
            ):
                chain[depth], on_chain[tip] = nearest, True
                depth += 1
                continue
            on_chain[tip] = on_chain[before] = False
            keep, drop = (tip, before) if clusters.size[tip] >= clusters.size[before] else (before, tip)
            last = chain[depth - 3] if depth > 2 else -1
            pool = _merge(keep, drop, last, 1.0 - clusters.similarity[before], matrix, pool, clusters, sums)
            merges[merged, 0], merges[merged, 1], heights[merged] = keep, drop, clusters.height[keep]
            merged += 1
            depth -= 2
            if depth == 0:
                chain[0], depth = keep, 1
    return merged


@compiled
def _look_again(tip: int, matrix: Matrix, pool: Pool, clusters: Clusters, sums: Sums) -> None:
    """Find the nearest cluster of `tip` by going through its whole row."""
    count = _add_row(tip, 0, matrix, pool, clusters, sums)
    shorter = 4 * count < 3 * clusters.length[tip]
    if shorter:  # so much that it is worth writing it anew, into some of its own pages
        _release(tip, pool, clusters)
        _write(tip, count, pool, clusters, sums)
    _look(tip, count, clusters, sums)


@compiled
def _merge(
    keep: int,
    drop: int,
    last: int,
    height: float,
    matrix: Matrix,
    pool: Pool,
    clusters: Clusters,
    sums: Sums,
) -> Pool:
    """Merge two clusters into `keep`; `last` is what is left at the end of the chain, or -1.

    Returns:
        The pool, perhaps a larger one.
    """
    _join(keep, drop, height, clusters)
    count = _add_row(keep, 0, matrix, pool, clusters, sums)
    count = _add_row(drop, count, matrix, pool, clusters, sums)
    if last >= 0:
        _follow(last, keep, clusters, sums)
    _release(keep, pool, clusters)
    _release(drop, pool, clusters)
    if pool.free[1] * pool.slots.shape[1] < count:
        pool = _grown(pool, count)
    _write(keep, count, pool, clusters, sums)
    _look(keep, count, clusters, sums)
    return pool


@compiled
def _add_row(slot: int, count: int, matrix: Matrix, pool: Pool, clusters: Clusters, sums: Sums) -> int:
    """Add a cluster's row to the `count` slots already in `sums`; return how many there are then."""
    page, left = clusters.page[slot], clusters.length[slot]
    if page < 0:
        row = slice(matrix.indptr[slot], matrix.indptr[slot + 1])
        return _add(matrix.indices[row], matrix.values[row], count, clusters.owner, sums)
    while left > 0:
        used = min(left, pool.slots.shape[1])
        count = _add(pool.slots[page, :used], pool.sums[page, :used], count, clusters.owner, sums)
        page = pool.following[page]
        left -= used
    return count


@compiled
def _add(slots: NDArray[Any], terms: NDArray[Any], count: int, owner: NDArray[np.int32], sums: Sums) -> int:
    for place in range(len(slots)):
        # Unsigned, an index needs no test for counting from the end.
        slot, term = np.uint32(owner[np.uint32(slots[place])]), terms[place]
        # Without a branch, which would be guessed wrong half the time: the place is taken if it is counted.
        sums.slots[np.uint64(count)] = slot
        count += (sums.totals[slot] == 0.0) & (term != 0)
        sums.totals[slot] += term
    return count


@compiled
def _look(own: int, count: int, clusters: Clusters, sums: Sums) -> None:
    """Set the nearest cluster of `own`, and what the others come to, from its row in `sums`; clear that."""
    best, best_total, best_size = -1, 0.0, 1.0
    next_total, next_size = 0.0, 1.0
    for start in range(0, count, _BLOCK):
        part = sums.slots[start : min(start + _BLOCK, count)]
        if not _any_ahead(part, next_total, next_size, clusters, sums):
            continue
        for slot in part:
            total, size = sums.totals[slot], float(clusters.size[slot])
            if total * next_size < next_total * size or slot == own:
                continue
            ahead = total * best_size - best_total * size
            if ahead > 0 or (ahead == 0 and clusters.first[slot] < clusters.first[best]):
                next_total, next_size = best_total, best_size
                best, best_total, best_size = int(slot), total, size
            else:
                next_total, next_size = total, size
    _set_nearest(own, best, best_total / (clusters.size[own] * best_size), clusters)
    clusters.others[own] = next_total / (clusters.size[own] * next_size)
    for place in range(count):
        sums.totals[np.uint32(sums.slots[place])] = 0.0


@compiled
def _any_ahead(slots: NDArray[np.int32], total: float, size: float, clusters: Clusters, sums: Sums) -> bool:
    """Tell whether any cluster's mean is at least `total` / `size`.

    Compared crosswise: no division, and where the sums are exact, so is the tie. A block at a time, for
    nothing in this loop waits for the entry before.
    """
    ahead = 0
    for place in range(len(slots)):
        slot = np.uint32(slots[place])
        ahead += sums.totals[slot] * size >= total * clusters.size[slot]
    return ahead > 0


@compiled
def _set_nearest(own: int, nearest: int, similarity: float, clusters: Clusters) -> None:
    clusters.nearest[own] = nearest
    clusters.nearest_version[own] = clusters.version[nearest] if nearest >= 0 else 0
    clusters.similarity[own] = similarity


@compiled
def _knows_nearest(slot: int, clusters: Clusters) -> bool:
    """Tell whether the nearest cluster is still what it was: then no other has come nearer."""
    seen = clusters.nearest_version[slot]
    nearest = clusters.nearest[slot]
    return bool(seen >= 0 and (nearest < 0 or clusters.version[nearest] == seen))


@compiled
def _list_nearest(matrix: Matrix) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Return the nearest other samples (N, 8), nearest first, ties by index, -1 = none; and similarities."""
    count = len(matrix.indptr) - 1
    samples = np.full((count, _LISTED), -1, np.int32)
    values = np.zeros((count, _LISTED), matrix.values.dtype)
    for row in range(count):
        start, stop = matrix.indptr[row], matrix.indptr[row + 1]
        for block in range(start, stop, _BLOCK):
            part = matrix.values[block : min(block + _BLOCK, stop)]
            larger = 0
            for place in range(len(part)):
                larger += part[place] > values[row, -1]
            if larger > 0:
                _insert(samples[row], values[row], matrix.indices[block : block + len(part)], part, row)
    return samples, values


@compiled
def _insert(
    samples: NDArray[np.int32], values: NDArray[Any], columns: NDArray[Any], part: NDArray[Any], own: int
) -> None:
    for place in range(len(part)):
        value = part[place]
        if value <= values[-1] or columns[place] == own:
            continue
        rank = len(values) - 1
        while rank > 0 and values[rank - 1] < value:
            values[rank], samples[rank] = values[rank - 1], samples[rank - 1]
            rank -= 1
        values[rank], samples[rank] = value, columns[place]


@compiled
def _look_in_list(
    own: int, before: int, samples: NDArray[np.int32], values: NDArray[Any], clusters: Clusters
) -> bool:
    """Try to set the nearest cluster from the list of a single sample alone; tell whether it could be.

    No cluster's mean is above its nearest sample. So what is listed first, past the samples of the cluster
    `before` (-1: none), whose mean is known, bounds all other clusters; if it is a single sample, it attains
    that bound.
    """
    if clusters.page[own] >= 0:
        return False
    known = clusters.similarity[before] if before >= 0 else 0.0
    place = 0
    while place < len(samples) and samples[place] >= 0 and clusters.owner[samples[place]] == before:
        place += 1
    bound = float(values[min(place, len(samples) - 1)])
    if before >= 0 and known > bound:
        _set_nearest(own, before, known, clusters)
        clusters.others[own] = bound
        return True
    if place + 1 < len(samples) and bound > known and clusters.size[samples[place]] == 1:
        _set_nearest(own, int(samples[place]), bound, clusters)
        clusters.others[own] = max(known, values[place + 1])
        return True
    return False


@compiled
def _follow(own: int, merged: int, clusters: Clusters, sums: Sums) -> None:
    """Keep `own`'s nearest cluster, which has just become part of `merged`, if that is still the nearest.

    `sums` holds the row of `merged`.
    """
    mean = sums.totals[own] / (clusters.size[own] * clusters.size[merged])
    if mean > clusters.others[own]:
        _set_nearest(own, merged, mean, clusters)


@compiled
def _join(keep: int, drop: int, height: float, clusters: Clusters) -> None:
    """Make one cluster of two, apart from its row. Relabels `drop`: the smaller, or it takes N^2 in all."""
    sample = drop
    while clusters.owner[sample] != keep:
        clusters.owner[sample] = keep
        sample = clusters.ring[sample]
    clusters.ring[keep], clusters.ring[drop] = clusters.ring[drop], clusters.ring[keep]
    clusters.size[keep] += clusters.size[drop]
    clusters.size[drop] = 0
    clusters.first[keep] = min(clusters.first[keep], clusters.first[drop])
    # Rounding must not put a cluster below its parts.
    clusters.height[keep] = max(height, clusters.height[keep], clusters.height[drop])
    clusters.version[keep] += 1
    clusters.version[drop] += 1


@compiled
def _write(own: int, count: int, pool: Pool, clusters: Clusters, sums: Sums) -> None:
    """Put the row in `sums` into free pages, of which there are enough. `own` may be in it: no harm."""
    clusters.page[own], clusters.length[own] = pool.free[0], count
    page, page_size = pool.free[0], pool.slots.shape[1]
    for start in range(0, count, page_size):
        page = pool.free[0]
        pool.free[0] = pool.following[page]
        pool.free[1] -= 1
        slots, totals = pool.slots[page], pool.sums[page]
        part = sums.slots[start : min(start + page_size, count)]
        for place in range(len(part)):
            slots[place] = part[place]
            totals[place] = sums.totals[np.uint32(part[place])]
    pool.following[page] = -1


@compiled
def _release(own: int, pool: Pool, clusters: Clusters) -> None:
    """Give the pages of a cluster's row back."""
    first = clusters.page[own]
    if first < 0:
        return
    last, pages = first, 1
    while pool.following[last] >= 0:
        last = pool.following[last]
        pages += 1
    pool.following[last] = pool.free[0]
    pool.free[0] = first
    pool.free[1] += pages
    clusters.page[own], clusters.length[own] = -1, 0


@compiled
def _grown(pool: Pool, needed: int) -> Pool:
    """Return a copy that is half as large again, and has free pages for `needed` more entries."""
    old, page_size = pool.slots.shape
    pages = 3 * old // 2 + needed // page_size + 1
    larger = Pool(
        np.empty((pages, page_size), np.int32),
        np.empty((pages, page_size), np.float64),
        np.empty(pages, np.int32),
        np.empty(2, np.int64),
    )
    # In loops: slices that are assigned take numba seconds to compile.
    for page in range(old):
        larger.following[page] = pool.following[page]
        for place in range(page_size):
            larger.slots[page, place] = pool.slots[page, place]
            larger.sums[page, place] = pool.sums[page, place]
    for page in range(old, pages):
        larger.following[page] = page + 1 if page + 1 < pages else pool.free[0]
    larger.free[0], larger.free[1] = old, pool.free[1] + pages - old
    return larger
