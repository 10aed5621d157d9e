"""The nearest-neighbour chain of average linkage, compiled.

Rows of single samples are read where they are, in the caller's matrix. A merged cluster has a row in a pool:
other clusters, each once, and the sums of the similarities of their pairs. A merge touches nobody else's row:
rows name clusters as they were when the row was written, and `owner` tells into which these went since.

All in one file: numba looks for changes in the file of the function that is called, and would go on with an
old version of what that calls elsewhere.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled
from raid.ops.linkage_state import Clusters, Pool, Sums
from raid.ops.symmetric import Matrix

_LISTED = 8  # nearest samples that are listed of every sample


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
    _look(tip, count, clusters, sums)
    _rewrite(tip, count, pool, clusters, sums)
    _clear(count, sums)


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
    """Merge two clusters into `keep`; `last` is what is left at the end of the chain, or -1."""
    _join(keep, drop, height, clusters)
    count = _add_row(keep, 0, matrix, pool, clusters, sums)
    count = _add_row(drop, count, matrix, pool, clusters, sums)
    _look(keep, count, clusters, sums)
    if last >= 0:
        _follow(last, keep, clusters, sums)
    pool = _place(keep, drop, count, pool, clusters, sums)
    _clear(count, sums)
    return pool


@compiled
def _add_row(slot: int, count: int, matrix: Matrix, pool: Pool, clusters: Clusters, sums: Sums) -> int:
    """Add a cluster's row to the `count` slots already in `sums`; return how many there are then."""
    start = clusters.start[slot]
    if start < 0:
        row = slice(matrix.indptr[slot], matrix.indptr[slot + 1])
        return _add(matrix.indices[row], matrix.values[row], count, clusters.owner, sums)
    row = slice(start, start + clusters.length[slot])
    return _add(pool.slots[row], pool.sums[row], count, clusters.owner, sums)


@compiled
def _add(slots: NDArray[Any], terms: NDArray[Any], count: int, owner: NDArray[np.int32], sums: Sums) -> int:
    for place in range(len(slots)):
        slot, term = owner[slots[place]], terms[place]
        # Without a branch, which would be guessed wrong half the time: the place is taken if it is counted.
        sums.slots[count] = slot
        count += (sums.totals[slot] == 0.0) & (term != 0)
        sums.totals[slot] += term
    return count


@compiled
def _clear(count: int, sums: Sums) -> None:
    """Make `sums` ready for the next row."""
    for place in range(count):
        sums.totals[sums.slots[place]] = 0.0


@compiled
def _look(own: int, count: int, clusters: Clusters, sums: Sums) -> None:
    """Set the nearest cluster of `own`, and what the others come to, from its row in `sums`."""
    best, best_total, best_size = -1, 0.0, 1.0
    next_total, next_size = 0.0, 1.0
    for place in range(count):
        slot = int(sums.slots[place])
        total, size = sums.totals[slot], clusters.size[slot]
        # Means compared crosswise: no division, and where the sums are exact, so is the tie.
        if total * next_size < next_total * size or slot == own:
            continue
        ahead = total * best_size - best_total * size
        if ahead > 0 or (ahead == 0 and clusters.first[slot] < clusters.first[best]):
            next_total, next_size = best_total, best_size
            best, best_total, best_size = slot, total, size
        else:
            next_total, next_size = total, size
    _set_nearest(own, best, best_total / (clusters.size[own] * best_size), clusters)
    clusters.others[own] = next_total / (clusters.size[own] * next_size)


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
        for block in range(start, stop, 32):
            part = matrix.values[block : min(block + 32, stop)]
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
    if clusters.start[own] >= 0:
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
def _rewrite(own: int, count: int, pool: Pool, clusters: Clusters, sums: Sums) -> None:
    """Bring the row of `own` in the pool up to date, from `sums`, if that makes it much shorter."""
    if clusters.start[own] >= 0 and 4 * count < 3 * clusters.length[own]:
        _write(own, count, pool, clusters, sums)


@compiled
def _place(keep: int, drop: int, count: int, pool: Pool, clusters: Clusters, sums: Sums) -> Pool:
    """Put the row in `sums` of a cluster just merged into the pool; return the pool, perhaps a larger one."""
    clusters.start[drop], clusters.length[drop], clusters.room[drop] = -1, 0, 0
    if clusters.start[keep] < 0 or clusters.room[keep] < count:
        clusters.start[keep], clusters.length[keep], clusters.room[keep] = -1, 0, 0
        if pool.used[0] + count > len(pool.slots):
            pool = _compacted(pool, count, clusters)
        clusters.start[keep], clusters.room[keep] = pool.used[0], count
        pool.log[pool.used[1]], pool.places[pool.used[1]] = keep, pool.used[0]
        pool.used[0] += count
        pool.used[1] += 1
    _write(keep, count, pool, clusters, sums)
    return pool


@compiled
def _write(own: int, count: int, pool: Pool, clusters: Clusters, sums: Sums) -> None:
    end = clusters.start[own]
    for rank in range(count):
        slot = sums.slots[rank]
        pool.slots[end], pool.sums[end] = slot, sums.totals[slot]
        end += slot != own
    clusters.length[own] = end - clusters.start[own]


@compiled
def _compacted(pool: Pool, needed: int, clusters: Clusters) -> Pool:
    """Close the gaps, in place; if that leaves little room, in a pool half as large again."""
    live = clusters.length.sum() + needed
    target = pool
    if 5 * live > 4 * len(pool.slots):
        capacity = 3 * live // 2
        slots, sums = np.empty(capacity, np.int32), np.empty(capacity, np.float64)
        target = Pool(slots, sums, pool.log, pool.places, pool.used)
    end, kept = 0, 0
    for entry in range(pool.used[1]):
        slot = pool.log[entry]
        start, length = clusters.start[slot], clusters.length[slot]
        if start != pool.places[entry]:  # merged into another slot, or grown and put at a later place
            continue
        for offset in range(length):
            target.slots[end + offset] = pool.slots[start + offset]
            target.sums[end + offset] = pool.sums[start + offset]
        clusters.start[slot], clusters.room[slot] = end, length
        pool.log[kept], pool.places[kept] = slot, end
        end += length
        kept += 1
    pool.used[0], pool.used[1] = end, kept
    return target
