"""From features to neighbours and clusters, as a stage's configuration says."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raid.errors import InputError, one_line
from raid.methods.sections import Clustering, Neighbors
from raid.ops import quality
from raid.ops.approximate import approximate_knn
from raid.ops.dbscan import dbscan
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.kmeans import kmeans
from raid.ops.linkage import MergeTree, agglomerative, cut
from raid.ops.neighbors import MapBlocks, knn

Ints = NDArray[np.int64]
Table = tuple[NDArray[np.float32], Ints]
_LOW_RECALL = 0.8


@dataclass(frozen=True)
class Clusters:
    """The clusters of N images, and what they were made from.

    Attributes:
        labels: (N,), -1 = outlier.
        silhouette: of the clusters, by the Jaccard distance.
        neighbors: dot products and rows of the nearest neighbours, as `raid.ops.neighbors.knn` gives them.
        recall: share of the true neighbours among them; None: the search was exact.
        notes: what is to be said of the clusters.
    """

    labels: Ints
    silhouette: float
    neighbors: Table
    recall: float | None
    notes: list[str]


def cluster(
    features: NDArray[np.float32],
    how: Clustering,
    num_clusters: int,
    neighbors: Neighbors,
    *,
    seed: int,
    width: int = 1,
    scratch: Path | None = None,
    map_blocks: MapBlocks = map,
) -> Clusters:
    """Group features into clusters.

    Args:
        features: (N, D) float32 unit rows.
        how: the stage's method.
        num_clusters: that are asked for; `dbscan` finds its own number.
        neighbors: how they are searched; and the Jaccard similarity, which `kmeans` does not use: the
            silhouette does.
        seed: of the starts of `kmeans`, and of the lists of an approximate search.
        width: neighbours that the caller wants found, which may be more than the similarity needs.
        scratch: folder in which a similarity on disk gets a folder of its own, gone when this returns or
            raises; None: the system's for temporary files.
        map_blocks: what runs the blocks of rows; same signature as builtin `map` with one iterable.

    Raises:
        InputError: too few lists are probed to find all neighbours, or the similarity cannot be written.
    """
    k1, k2 = neighbors.of(len(features), num_clusters)
    k = min(max(k1, k2, width), len(features))
    near_alone = neighbors.keep == "within_eps" and how.method == "dbscan"
    table, recall = search(features, k, neighbors, seed, map_blocks)
    products, rows = table
    with similarity_folder(neighbors, scratch) as folder:
        similarity = jaccard_from_neighbors(
            features,
            rows,
            products,
            k1=k1,
            k2=k2,
            min_similarity=1 - how.eps if near_alone else 0.0,
            folder=folder,
            map_blocks=map_blocks,
        )
        labels, notes = labels_of(features, similarity, how, num_clusters, seed)
        silhouette = quality.silhouette(similarity, labels)
        del similarity  # so that what is mapped lets go of its files before they are removed
    if recall is not None and recall < _LOW_RECALL:
        notes.append(f"the search found {recall:.0%} of the true neighbours: raise neighbors.probes")
    return Clusters(labels, silhouette, table, recall, notes)


def search(
    features: NDArray[np.float32], k: int, neighbors: Neighbors, seed: int, map_blocks: MapBlocks = map
) -> tuple[Table, float | None]:
    """Return the table of the k nearest neighbours, and its recall where it is approximate."""
    if neighbors.search == "exact":
        return knn(features, features, k, map_blocks=map_blocks), None
    try:
        products, rows, recall = approximate_knn(
            features, k, seed=seed, num_probes=neighbors.probes, map_blocks=map_blocks
        )
    except ValueError as error:
        raise InputError(
            f"neighbors.probes: {neighbors.probes} lists do not hold {k} neighbours of every image "
            f"({one_line(error)}); raise it, or lower neighbors.k1"
        ) from error
    return (products, rows), recall


@contextmanager
def similarity_folder(neighbors: Neighbors, scratch: Path | None) -> Iterator[Path | None]:
    """Give a folder for the similarity while it is needed; None: it stays in memory."""
    if neighbors.similarity == "memory":
        yield None
        return
    try:
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="similarity_", dir=scratch) as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(
            f"data.cache_folder: {scratch or tempfile.gettempdir()}: the similarity cannot be kept there: "
            f"{one_line(error)}; choose another, or neighbors.similarity=memory"
        ) from error


def labels_of(
    features: NDArray[np.float32],
    similarity: csr_array,
    how: Clustering,
    num_clusters: int,
    seed: int,
    *,
    tree: MergeTree | None = None,
) -> tuple[Ints, list[str]]:
    """Return the labels, and what the method warns of; `tree` is the similarity's, where it is known."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        match how.method:
            case "agglomerative" if tree is not None:
                labels = cut(tree, num_clusters=num_clusters)
            case "agglomerative":
                labels = agglomerative(similarity, num_clusters=num_clusters)
            case "dbscan":
                labels = dbscan(similarity, eps=how.eps, min_samples=how.min_samples)
            case "kmeans":
                labels = kmeans(features, num_clusters=num_clusters, seed=seed, restarts=how.restarts).labels
    return labels, [str(warning.message) for warning in caught]
