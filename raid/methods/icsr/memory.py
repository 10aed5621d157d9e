"""Bytes that a clustering holds at its peak, by the docstrings of `raid.ops`, and how to need fewer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from raid.methods.fitting import changes_that_fit
from raid.methods.icsr.config import IcsrConfig
from raid.methods.sections import Clustering, Neighbors

LIST_ROWS = 256  # of an approximate search, as are the next
_CHUNK_ROWS = 1 << 14  # that a thread searches at a time
_THREADS = 4  # that do so side by side, at most, in these estimates
_BLOCK_ROWS = 1024
# From so many images on, average linkage outgrows the room that it begins with, a quarter of the entries: on
# simulated features it takes 0.16 of them at 13,000 images, 0.19 at 33,000, 0.25 to 0.38 from 100,000 on.
_LARGE = 40_000
_MIB = 2.0**20


@dataclass(frozen=True)
class ClusterTask:
    """A clustering that is to be reckoned.

    Attributes:
        stage: whose it is.
        num_images: N.
        dimensions: D of the features.
        num_clusters: that are asked for.
        how: the stage's method.
        neighbors: their search, and where the similarity is kept.
        width: neighbours that the stage wants, beside those of the similarity.
    """

    stage: Literal["intra", "inter"]
    num_images: int
    dimensions: int
    num_clusters: int
    how: Clustering
    neighbors: Neighbors
    width: int

    @staticmethod
    def intra(config: IcsrConfig, num_images: int, dimensions: int) -> "ClusterTask":
        """Return the clustering of a camera of `num_images` images."""
        clusters = config.intra.clusters_of(num_images)
        return ClusterTask("intra", num_images, dimensions, clusters, config.intra, config.neighbors, width=1)

    @staticmethod
    def inter(config: IcsrConfig, num_images: int, dimensions: int) -> "ClusterTask":
        """Return the clustering of all `num_images` images."""
        clusters, width = config.inter.num_clusters, config.refine.num_neighbors + 1
        return ClusterTask("inter", num_images, dimensions, clusters, config.inter, config.neighbors, width)

    @property
    def sizes(self) -> tuple[int, int]:
        """k1 and k2."""
        return self.neighbors.of(self.num_images, self.num_clusters)

    @property
    def table_width(self) -> int:
        """Neighbours that are searched."""
        return min(max(*self.sizes, self.width), self.num_images)

    def stored(self, entries_per_row: float) -> float:
        """Return the entries a row that are kept of the similarity."""
        if self.neighbors.keep == "within_eps" and self.how.method == "dbscan":
            return min(entries_per_row, 2.0 * self.sizes[0])
        return entries_per_row

    @property
    def num_lists(self) -> int:
        """Lists of an approximate search."""
        return -(-self.num_images // LIST_ROWS)

    @property
    def probes(self) -> int:
        """Lists that an approximate search compares an image with."""
        return min(self.neighbors.probes, self.num_lists)


def cluster_bytes(task: ClusterTask, entries_per_row: float) -> float:
    """Return the peak of a clustering: features, and the most of search, similarity and method.

    Args:
        task: what is clustered, and how.
        entries_per_row: that the Jaccard similarity stores, see `usual_entries`.
    """
    rows, (k1, k2) = task.num_images, task.sizes
    entries_per_row = task.stored(entries_per_row)
    stored = 0.0 if task.neighbors.similarity == "disk" else 8.0 * rows * entries_per_row
    stored += 16.0 * rows  # row starts
    table = 12.0 * rows * task.table_width
    blocks = 4 * 8.0 * min(rows, _BLOCK_ROWS) * entries_per_row  # one waits while the next is made
    weights = 2 * 8.0 * rows * k1 * (1 + k2 / 3)  # as measured: query expansion adds a third each
    similarity = table + 4.0 * rows * task.table_width + weights + stored + blocks
    method = table + stored + _method_bytes(task, entries_per_row)
    searched, left = _search_bytes(task)
    return 4.0 * rows * task.dimensions + max(searched, max(similarity, method) + left) + 48 * _MIB


def _search_bytes(task: ClusterTask) -> tuple[float, float]:
    """Return what the search holds at its peak, and what the allocator keeps of it (as measured)."""
    rows, table = task.num_images, 8.0 * task.num_images * task.table_width
    if task.neighbors.search == "exact":
        return 3 * table, 0.0  # the result, and the tables of two blocks
    chunk = min(rows, _CHUNK_ROWS)
    chunks = min(_THREADS, -(-rows // _CHUNK_ROWS)) * chunk * (28.0 * task.probes + 4.0 * task.dimensions)
    sample = 4.0 * min(rows, 32 * task.num_lists) * task.dimensions
    return max(sample, 2 * table + chunks), chunks / 2


def _method_bytes(task: ClusterTask, entries_per_row: float) -> float:
    rows = task.num_images
    match task.how.method:
        case "agglomerative":
            pool = 0.25 if rows < _LARGE else 0.25 + 0.375  # half as large again, and copied
            return 300.0 * rows + 12.0 * pool * rows * entries_per_row
        case "dbscan":
            return 20.0 * rows + rows * entries_per_row / 64
        case "kmeans":
            centroids = task.how.restarts * task.num_clusters
            seeds = 2 * task.how.restarts * (2 + math.log(task.num_clusters))
            distances = 4 * 4.0 * _BLOCK_ROWS * centroids
            return 16.0 * centroids * task.dimensions + 4.0 * rows * (64 + seeds) + distances + 128 * _MIB


def disk_bytes(task: ClusterTask, entries_per_row: float) -> float:
    """Return what the similarity takes on disk while it is needed; 0 where it is in memory."""
    if task.neighbors.similarity == "memory":
        return 0.0
    return 8.0 * task.num_images * task.stored(entries_per_row)


def usual_entries(num_rows: int, k1: int) -> float:
    """Return the entries a row that Jaccard similarities of trained features have: about 1.6 k1^2.

    Beyond 13,000 rows they grow with the cube root of the rows, as measured on simulated features at k1 = 30:
    1,350 at 13,000 rows, 1,900 at 33,000, 3,150 at 100,000, 5,350 at a million.
    """
    growth: float = max(1.0, num_rows / 13_000) ** (1 / 3)
    return min(float(num_rows), 1.6 * k1**2 * growth)


def dense_bytes(num_rows: int) -> float:
    """Return what the published way holds: two N x N matrices in float32 (distances and weights)."""
    return 8.0 * num_rows**2


def what_would_fit(task: ClusterTask, entries_per_row: float, available: float) -> str:
    """Return, in words, with what change to the configuration a clustering fits into `available` bytes."""
    needed = partial(cluster_bytes, entries_per_row=entries_per_row)
    return changes_that_fit(task, _changes(task), needed, available)


def _changes(task: ClusterTask) -> dict[str, Callable[[ClusterTask], ClusterTask]]:
    """Return what could be changed, by the override that does it."""

    def on_disk(task: ClusterTask) -> ClusterTask:
        return replace(task, neighbors=replace(task.neighbors, similarity="disk"))

    def by_dbscan(task: ClusterTask) -> ClusterTask:
        return replace(task, how=replace(task.how, method="dbscan"))

    def approximate(task: ClusterTask) -> ClusterTask:
        return replace(task, neighbors=replace(task.neighbors, search="approximate"))

    def within_eps(task: ClusterTask) -> ClusterTask:
        return replace(task, neighbors=replace(task.neighbors, keep="within_eps"))

    changes: dict[str, Callable[[ClusterTask], ClusterTask]] = {
        "neighbors.similarity=disk": on_disk,
        "neighbors.search=approximate": approximate,
    }
    if task.neighbors.k1 != "auto":  # a share of a cluster's images, which DBSCAN does not know
        changes[f"{task.stage}.method=dbscan"] = by_dbscan
        changes["neighbors.keep=within_eps"] = within_eps  # of use with dbscan alone
    return changes
