"""What average linkage (`raid.ops.linkage`) knows of its clusters while it merges them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_FIRST_POOL = 1 << 16  # entries; the pool grows with what it must hold


class Clusters(NamedTuple):
    """Clusters by slot: a cluster lives in the slot of one of its samples. All arrays are (N,).

    Attributes:
        owner: slot of the cluster that a sample is in.
        ring: the next sample of the same cluster, round and round.
        size: samples, 0 once it is part of another; float64, for it only ever multiplies.
        first: the earliest sample.
        height: distance at which the cluster was merged.
        start: where its row is in the pool; -1: it is one sample, its row is in the matrix.
        length: entries of its row in the pool.
        room: places its row may take there.
        version: merges that the slot has seen.
        nearest: slot of the nearest cluster when last looked for; -1: there is none.
        nearest_version: `version` of that one then; -1: not looked for yet.
        similarity: mean similarity to the nearest.
        others: at least the mean similarity to any other cluster.
    """

    owner: NDArray[np.int32]
    ring: NDArray[np.int32]
    size: NDArray[np.float64]
    first: NDArray[np.int32]
    height: NDArray[np.float64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    room: NDArray[np.int64]
    version: NDArray[np.int32]
    nearest: NDArray[np.int32]
    nearest_version: NDArray[np.int32]
    similarity: NDArray[np.float64]
    others: NDArray[np.float64]


class Sums(NamedTuple):
    """A row being added up: `totals` (N,), all 0 between uses, and the slots in it, `slots` (N + 1,)."""

    totals: NDArray[np.float64]
    slots: NDArray[np.int32]


class Pool(NamedTuple):
    """The rows of merged clusters, one after the other, with gaps.

    Attributes:
        slots: (capacity,) clusters as they were when the row was written.
        sums: (capacity,) of the similarities of the pairs of samples.
        log: (N,) whose rows were put here, in the order of their places.
        places: (N,) the places.
        used: (2,) places taken, entries of `log`.
    """

    slots: NDArray[np.int32]
    sums: NDArray[np.float64]
    log: NDArray[np.int32]
    places: NDArray[np.int64]
    used: NDArray[np.int64]


def single_samples(count: int) -> tuple[Clusters, Sums, Pool]:
    """Return the state in which every sample is a cluster."""
    every, none = np.arange(count, dtype=np.int32), np.full(count, -1, np.int32)
    clusters = Clusters(
        owner=every.copy(),
        ring=every.copy(),
        size=np.ones(count),
        first=every.copy(),
        height=np.zeros(count),
        start=np.full(count, -1, np.int64),
        length=np.zeros(count, np.int64),
        room=np.zeros(count, np.int64),
        version=np.zeros(count, np.int32),
        nearest=none.copy(),
        nearest_version=none.copy(),
        similarity=np.zeros(count),
        others=np.zeros(count),
    )
    sums = Sums(np.zeros(count), np.empty(count + 1, np.int32))
    pool = Pool(
        slots=np.empty(_FIRST_POOL, np.int32),
        sums=np.empty(_FIRST_POOL),
        log=none.copy(),
        places=np.zeros(count, np.int64),
        used=np.zeros(2, np.int64),
    )
    return clusters, sums, pool
