"""Plain dense numpy versions of published algorithms: what the fast paths are compared with."""

import numpy as np


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


def rerank_dense(query, gallery, *, k1=20, k2=6, weight=0.3, rank=None, num_rows=None):
    """Distances (Q, G) after Zhong et al. 2017, with everything N x N in memory (N = Q + G).

    The order of all rows of all lists is a full sort, unless the first places are given as `rank`
    (N, >= max(k1 + 1, k2)). Only the first `num_rows` rows are ranked, encoded and compared where it is
    given: the cost of a share of the rows (their values are then not meaningful).
    """
    features = np.concatenate([query, gallery])
    num_all, num_queries = len(features), len(query)
    rows = range(num_all if num_rows is None else num_rows)
    distances = 2 - 2 * (features[: len(rows)] @ features.T)
    distances /= distances.max(axis=1, keepdims=True)
    if rank is None:
        width = min(max(k1 + 1, k2), num_all)
        rank = np.zeros((num_all, width), np.int64)
        for row in rows:
            rank[row] = np.argsort(distances[row])[:width]
    weights = np.zeros((num_all, num_all), np.float32)
    for row in rows:
        members = _expanded_set(rank, row, k1)
        powers = np.exp(-distances[row, members])
        weights[row, members] = powers / powers.sum()
    if k2 > 1:
        averaged = np.zeros_like(weights)
        for row in rows:
            averaged[row] = weights[rank[row, :k2]].mean(axis=0)
        weights = averaged
    holders = [np.flatnonzero(weights[:, column]) for column in range(num_all)]
    final = np.zeros((num_queries, num_all), np.float32)
    for row in range(min(num_queries, len(rows))):
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
