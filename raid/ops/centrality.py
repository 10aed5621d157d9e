"""Harmonic centrality of samples, and the information nodes it selects (ICSR eq. 1)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.neighbors import MapBlocks, knn


def harmonic_centrality(
    features: NDArray[Any],
    *,
    num_neighbors: int = 15,
    cutoff: float | None = 0.5,
    include_self: bool = True,
    neighbors: tuple[NDArray[np.float32], NDArray[np.integer]] | None = None,
    block_rows: int = 1024,
    map_blocks: MapBlocks = map,
) -> NDArray[np.float64]:
    """Score each sample by its nearness to its nearest neighbours.

    score(i) = sum over neighbours j != i with dist(i, j) <= cutoff of 1 / (dist(i, j) + mean(dist)), where
    dist is the cosine distance of features, clipped at 0. Eq. 1 has no cutoff; the release has .5. "Mean
    of all distance" is read as the release computes it: over the N x k table of neighbours.

    Args:
        features: (N, D) unit rows, of all cameras.
        num_neighbors: k; what does not exist is left out.
        cutoff: largest distance that counts, None for no limit.
        include_self: whether the k neighbours include the sample (as released: k - 1 real ones), whose
            distance 0 then counts in the mean; otherwise k real neighbours and no self.
        neighbors: what `knn` of the features among themselves returned, of at least the columns needed
            (`num_neighbors`, and one more without self; all N where there are fewer); None: searched here.
        block_rows: rows per block of the search.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Returns:
        (N,) float64. Where all distances are 0 (every sample alike) the mean counts as 1.

    Raises:
        ValueError: `num_neighbors` below 1, features that are not (N, D), or a table of neighbours that does
            not fit.

    Memory: that of `knn` where it searches, and three tables of N * k * 8 bytes.
    """
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}")
    num_samples = len(features)
    width = min(num_neighbors if include_self else num_neighbors + 1, num_samples)
    if num_samples == 0:
        return np.empty(0)
    if neighbors is None:
        neighbors = knn(features, features, width, block_rows=block_rows, map_blocks=map_blocks)
    similarity, index = (_leading(table, num_samples, width) for table in neighbors)
    is_self = _self_places(index)
    distances = np.maximum(1.0 - similarity.astype(np.float64), 0.0)
    distances[is_self] = 0.0
    num_distances = distances.size if include_self else distances.size - num_samples
    mean = distances.sum() / max(1, num_distances)
    terms = 1.0 / (distances + (mean if mean > 0 else 1.0))
    near = ~is_self if cutoff is None else ~is_self & (distances <= cutoff)
    return np.asarray(np.where(near, terms, 0.0).sum(axis=1))


def _leading(table: NDArray[Any], num_samples: int, width: int) -> NDArray[Any]:
    if table.ndim != 2 or len(table) != num_samples or table.shape[1] < width:
        raise ValueError(f"neighbors: the tables must be ({num_samples}, >= {width}), got {table.shape}")
    return table[:, :width]


def _self_places(index: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark each sample's own place in its row; the last one if duplicates crowded it out of the table."""
    places: NDArray[np.bool_] = index == np.arange(len(index))[:, None]
    places[~places.any(axis=1), -1] = True
    return places


def information_nodes(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the samples whose score is above the mean of all scores, (N,) bool."""
    if len(scores) == 0:
        return np.zeros(0, np.bool_)
    # A rounded mean can lie outside the values: equal scores have no node above their mean.
    mean = np.clip(scores.mean(), scores.min(), scores.max())
    return np.asarray(scores > mean)
