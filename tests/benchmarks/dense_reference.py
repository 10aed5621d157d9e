"""The published dense algorithms in plain numpy: what `raid.ops` is compared with, in results and in cost.

Written from the papers' text. Whole N x N matrices, a full ranking, loops over samples: as the systems in
use do it.
"""

import numpy as np


def jaccard_rank(features, k):
    """Return the indices (N, k) of the k nearest rows, nearest first, self included, from all distances."""
    distances = 2.0 - 2.0 * (features @ features.T)
    nearest = np.argpartition(distances, min(k, len(features) - 1), axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(distances, nearest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)


def jaccard_weights(features, rank, k1):
    """Return V (N, N) float32: softmax of negative squared distances over the expanded reciprocal sets."""
    num_half = int(np.around(k1 / 2)) + 1
    reciprocal = [jaccard_reciprocal(rank, row, k1) for row in range(len(rank))]
    half = [jaccard_reciprocal(rank, row, num_half) for row in range(len(rank))]
    weights = np.zeros((len(rank), len(rank)), np.float32)
    for row, own in enumerate(reciprocal):
        members = own
        for candidate in own:
            shared = np.intersect1d(half[candidate], own, assume_unique=True)
            if len(shared) > 2 / 3 * len(half[candidate]):
                members = np.append(members, half[candidate])
        members = np.unique(members)
        powers = np.exp(-(2.0 - 2.0 * (features[members] @ features[row])))
        weights[row, members] = powers / powers.sum()
    return weights


def jaccard_reciprocal(rank, row, k):
    """Return the samples among the first k of `row` that have `row` among their first k."""
    listed = rank[row, :k]
    return listed[(rank[listed, :k] == row).any(axis=1)]


def jaccard_expanded(weights, rank, k2):
    """Return the mean of V over the first k2 neighbours of each sample."""
    if k2 == 1:
        return weights
    expanded = np.empty_like(weights)
    for row in range(len(rank)):
        expanded[row] = weights[rank[row, :k2]].mean(axis=0)
    return expanded


def jaccard_distances(weights):
    """Return the Jaccard distance (N, N) float32, one row after the other over the non-zeros of V."""
    having = [np.flatnonzero(weights[:, column]) for column in range(len(weights))]
    distances = np.empty_like(weights)
    for row in range(len(weights)):
        overlap = np.zeros(len(weights), np.float32)
        for column in np.flatnonzero(weights[row]):
            others = having[column]
            overlap[others] += np.minimum(weights[row, column], weights[others, column])
        distances[row] = 1.0 - overlap / (2.0 - overlap)
    return np.maximum(distances, 0.0)


def jaccard_from_rank(features, rank, k1, k2):
    """Return the Jaccard distance (N, N) float32 given the neighbours (N, >= max(k1, k2))."""
    return jaccard_distances(jaccard_expanded(jaccard_weights(features, rank, k1), rank, k2))


def jaccard_distance(features, k1, k2):
    """Return the Jaccard distance (N, N) float32 of unit rows (N, D)."""
    return jaccard_from_rank(features, jaccard_rank(features, max(k1, k2)), k1, k2)
