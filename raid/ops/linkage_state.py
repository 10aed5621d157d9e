"""What average linkage (`raid.ops.linkage`) knows of its clusters while it merges them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_PAGE = 128  # entries


class Clusters(NamedTuple):
    """Clusters by slot: a cluster lives in the slot of one of its samples. All arrays are (N,).

    Attributes:
        owner: slot of the cluster that a sample is in.
        ring: the next sample of the same cluster, round and round.
        size: samples, 0 once it is part of another; float32 (exact to 16 million), for it only multiplies.
        first: the earliest sample.
        height: distance at which the cluster was merged.
        page: the first page of its row in the pool; -1: it is one sample, its row is in the matrix.
        length: entries of its row in the pool.
        version: merges that the slot has seen.
        nearest: slot of the nearest cluster when last looked for; -1: there is none.
        nearest_version: `version` of that one then; -1: not looked for yet.
        similarity: mean similarity to the nearest.
        others: at least the mean similarity to any other cluster.
    """

    owner: NDArray[np.int32]
    ring: NDArray[np.int32]
    size: NDArray[np.float32]
    first: NDArray[np.int32]
    height: NDArray[np.float64]
    page: NDArray[np.int32]
    length: NDArray[np.int64]
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
    """The rows of merged clusters, in pages that are linked.

    Attributes:
        slots: (pages, page size) clusters as they were when the row was written.
        sums: (pages, page size) of the similarities of the pairs of samples.
        following: (pages,) the next page of the same row, or the next free one; -1 = none.
        free: (2,) the first free page, and the number of free pages.
    """

    slots: NDArray[np.int32]
    sums: NDArray[np.float64]
    following: NDArray[np.int32]
    free: NDArray[np.int64]


def single_samples(count: int, num_entries: int) -> tuple[Clusters, Sums, Pool]:
    """Return the state in which every sample is a cluster; the matrix has `num_entries` entries."""
    every, none = np.arange(count, dtype=np.int32), np.full(count, -1, np.int32)
    clusters = Clusters(
        owner=every.copy(),
        ring=every.copy(),
        size=np.ones(count, np.float32),
        first=every.copy(),
        height=np.zeros(count),
        page=none.copy(),
        length=np.zeros(count, np.int64),
        version=np.zeros(count, np.int32),
        nearest=none.copy(),
        nearest_version=none.copy(),
        similarity=np.zeros(count),
        others=np.zeros(count),
    )
    sums = Sums(np.zeros(count), np.empty(count + 1, np.int32))
    pages = max(1, num_entries // (4 * _PAGE))  # not touched, so no memory until they are used
    pool = Pool(
        slots=np.empty((pages, _PAGE), np.int32),
        sums=np.empty((pages, _PAGE)),
        following=np.append(np.arange(1, pages, dtype=np.int32), np.int32(-1)),
        free=np.array([0, pages]),
    )
    return clusters, sums, pool
