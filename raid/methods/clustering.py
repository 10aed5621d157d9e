"""From features to neighbours and clusters, as a stage's configuration says."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raid.methods.sections import Clustering, Neighbors
from raid.ops.dbscan import dbscan
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.kmeans import kmeans
from raid.ops.linkage import agglomerative
from raid.ops.neighbors import MapBlocks, knn

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """The clusters of N images, and what they were made from.

    Attributes:
        labels: (N,), -1 = outlier.
        similarity: (N, N) sparse Jaccard similarity.
        neighbors: dot products and rows of the nearest neighbours, as `raid.ops.neighbors.knn` gives them.
        notes: what is to be said of the clusters.
    """

    labels: Ints
    similarity: csr_array
    neighbors: tuple[NDArray[np.float32], Ints]
    notes: list[str]


def cluster(
    features: NDArray[np.float32],
    how: Clustering,
    num_clusters: int,
    neighbors: Neighbors,
    *,
    seed: int,
    width: int = 1,
    map_blocks: MapBlocks = map,
) -> Clusters:
    """Group features into clusters.

    Args:
        features: (N, D) float32 unit rows.
        how: the stage's method.
        num_clusters: that are asked for; `dbscan` finds its own number.
        neighbors: of the Jaccard similarity, which `kmeans` does not use; the figures of an epoch do.
        seed: of the starts of `kmeans`.
        width: neighbours that the caller wants found, which may be more than the similarity needs.
        map_blocks: what runs the blocks of rows; same signature as builtin `map` with one iterable.
    """
    k1, k2 = neighbors.of(len(features), num_clusters)
    products, table = knn(features, features, min(max(k1, k2, width), len(features)), map_blocks=map_blocks)
    similarity = jaccard_from_neighbors(features, table, products, k1=k1, k2=k2, map_blocks=map_blocks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        match how.method:
            case "agglomerative":
                labels = agglomerative(similarity, num_clusters=num_clusters)
            case "dbscan":
                labels = dbscan(similarity, eps=how.eps, min_samples=how.min_samples)
            case "kmeans":
                labels = kmeans(features, num_clusters=num_clusters, seed=seed, restarts=how.restarts).labels
    return Clusters(labels, similarity, (products, table), [str(warning.message) for warning in caught])
