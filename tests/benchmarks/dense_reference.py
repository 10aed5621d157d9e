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


def cmc_ranking(distances, query_identities, query_cameras, gallery_identities, gallery_cameras):
    """CMC (G,), mAP and average precisions (Q,) as published evaluations do it: a full sort a query.

    Distances (Q, G), smaller is better; an item of the query's identity and camera is dropped, queries
    without a match are skipped, average precision is not interpolated.
    """
    num_queries, num_gallery = distances.shape
    cmc, precisions = np.zeros(num_gallery), np.full(num_queries, np.nan)
    for query in range(num_queries):
        order = np.argsort(distances[query], kind="stable")
        same_identity = gallery_identities[order] == query_identities[query]
        kept = ~(same_identity & (gallery_cameras[order] == query_cameras[query]))
        matches = same_identity[kept]
        if not matches.any():
            continue
        found = matches.cumsum()
        cmc[: len(found)] += found > 0
        cmc[len(found) :] += 1  # what was dropped stands behind
        precisions[query] = (found / np.arange(1, len(found) + 1))[matches].mean()
    valid = ~np.isnan(precisions)
    return cmc / valid.sum(), precisions[valid].mean(), precisions


def rerank_dense(query, gallery, *, k1=20, k2=6, weight=0.3, rank=None):
    """Distances (Q, G) after Zhong et al. 2017, with everything N x N in memory (N = Q + G): three tables.

    The lists are the beginning of a full sort of every row, unless they are given as `rank`
    (N, >= max(k1 + 1, k2)).
    """
    features = np.concatenate([query, gallery])
    num_all, num_queries = len(features), len(query)
    distances = features @ features.T
    distances *= -2
    distances += 2
    distances /= distances.max(axis=1, keepdims=True)
    if rank is None:
        width = max(k1 + 1, k2)
        rank = np.stack([np.argsort(row)[:width] for row in distances])
    weights = np.zeros((num_all, num_all), np.float32)
    for row in range(num_all):
        members = _expanded_set(rank, row, k1)
        powers = np.exp(-distances[row, members])
        weights[row, members] = powers / powers.sum()
    if k2 > 1:
        averaged = np.zeros_like(weights)
        for row in range(num_all):
            averaged[row] = weights[rank[row, :k2]].mean(axis=0)
        weights = averaged
    holders = [np.flatnonzero(weights[:, column]) for column in range(num_all)]
    final = np.zeros((num_queries, num_all), np.float32)
    for row in range(num_queries):
        smaller = np.zeros(num_all)
        for column in np.flatnonzero(weights[row]):
            who = holders[column]
            smaller[who] += np.minimum(weights[row, column], weights[who, column])
        jaccard = 1 - smaller / (2 - smaller)
        final[row] = (1 - weight) * jaccard + weight * distances[row]
    return final[:, num_queries:]


def _reciprocal(rank, row, width):
    forward = rank[row, :width]
    return forward[(rank[forward, :width] == row).any(axis=1)]


def _expanded_set(rank, row, k1):
    own = _reciprocal(rank, row, k1 + 1)
    members = own
    for candidate in own:
        half = _reciprocal(rank, candidate, int(np.around(k1 / 2)) + 1)
        if 3 * len(np.intersect1d(half, own)) > 2 * len(half):
            members = np.append(members, half)
    return np.unique(members)
