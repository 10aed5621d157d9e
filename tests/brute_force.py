"""The retrieval protocols of methods.md 1.2 in plain loops over one query, one image, one place at a time."""

import numpy as np

from raid.ops.single_shot import draws


def precision(hits, ap):
    """Average precision of matches at `hits`, places from 0."""
    terms = []
    for j, place in enumerate(hits):
        before = j / place if place > 0 else 1.0
        if ap == "mar_official" and j == 0:
            before = 1.0
        here = (j + 1) / (place + 1)
        terms.append(here if ap == "noninterp" else (before + here) / 2)
    return sum(terms) / len(terms)


def order_of(distances, query, gallery):
    """Rows of the gallery that count for a query (identity, camera), by distance, then row."""
    identity, camera = query
    counted = []
    for row, (other, where) in enumerate(gallery):
        if other == -1:
            continue
        if other == identity and camera is not None and where == camera:
            continue
        counted.append(row)
    return sorted(counted, key=lambda row: (distances[row], row))


def standard(distances, queries, gallery, ap):
    """Return mAP, CMC, mINP, the number of valid queries, and AP of every query (NaN: not valid)."""
    firsts, precisions, penalties = [], [], []
    for of_query, query in zip(distances, queries, strict=True):
        order = order_of(of_query, query, gallery)
        hits = [place for place, row in enumerate(order) if gallery[row][0] == query[0]]
        if not hits or query[0] == -1:
            precisions.append(np.nan)
            continue
        precisions.append(precision(hits, ap))
        firsts.append(hits[0])
        penalties.append(len(hits) / (hits[-1] + 1))
    cmc = [np.mean([first <= place for first in firsts]) for place in range(len(gallery))]
    return np.nanmean(precisions), cmc, np.mean(penalties), len(firsts), precisions


def classic(distances, queries, gallery, ap, convention, seed=0):
    """CUHK03's classic protocol with the draws of `raid.ops.single_shot.draws`."""
    repeats = {"sls": 100, "torchreid": 10}[convention]
    firsts, precisions, penalties = [], [], []
    for number, (of_query, query) in enumerate(zip(distances, queries, strict=True)):
        order = order_of(of_query, query, gallery)
        hits = [place for place, row in enumerate(order) if gallery[row][0] == query[0]]
        if not hits or query[0] == -1:
            precisions.append(np.nan)
            continue
        rows_of = {}  # identities in the order of their best places, their rows by place
        for row in order:
            rows_of.setdefault(gallery[row][0], []).append(row)
        counts = np.array([len(rows) for rows in rows_of.values()])
        places = []
        for drawn in draws(counts, repeats=repeats, seed=seed, query=number):
            sampled = {rows[which] for rows, which in zip(rows_of.values(), drawn, strict=True)}
            ranked = [row for row in order if row in sampled]
            assert len(ranked) == len(rows_of)
            places.append(next(place for place, row in enumerate(ranked) if gallery[row][0] == query[0]))
        firsts += places
        if convention == "sls":
            precisions.append(np.mean([precision([place], ap) for place in places]))
            penalties.append(np.mean([1 / (place + 1) for place in places]))
        else:
            precisions.append(precision(hits, ap))
            penalties.append(len(hits) / (hits[-1] + 1))
    people = {identity for identity, _ in gallery if identity != -1}
    cmc = [np.mean([first <= place for first in firsts]) for place in range(len(people))]
    return np.nanmean(precisions), cmc, np.mean(penalties), len(penalties), precisions


def averaged(features, queries, more_features, more):
    """Queries as the mean of the further images of their identity and camera."""
    result = []
    for own, query in zip(features, queries, strict=True):
        rows = [row for row, other in enumerate(more) if other == query]
        result.append(sum(more_features[row].astype(float) for row in rows) / len(rows) if rows else own)
    return np.array(result, np.float32)


def mean_of(forward, backward):
    """The two directions of VIPeR."""
    mean = [(a + b) / 2 for a, b in zip(forward[:3:2], backward[:3:2], strict=True)]
    places = max(len(forward[1]), len(backward[1]))
    curves = [
        [each[1][min(place, len(each[1]) - 1)] for place in range(places)] for each in (forward, backward)
    ]
    cmc = [(a + b) / 2 for a, b in zip(*curves, strict=True)]
    return mean[0], cmc, mean[1], forward[3] + backward[3], [*forward[4], *backward[4]]
