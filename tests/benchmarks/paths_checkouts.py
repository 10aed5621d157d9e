"""Benchmarks against published programs, from checkouts that environment variables name (see `peers`).

They are left out where their variable is not set (`NEEDS`). `largest_difference` and `differing` say how far
the peer's results are from ours: rows whose neighbours swap by a rounding differ by more than a rounding.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks import peers
from benchmarks.measure import PIECE, in_full_or_scaled, measured
from benchmarks.paths_neighbors import K1, K2, LARGEST_IN_FULL, person_features, record, warm_up
from benchmarks.paths_ranking import People, ranked, reranked, sampled, with_ratio

from raid.ops.jaccard import jaccard_similarity

_ROUNDING = 1e-5
_COMPARED_ROWS = 1_000  # at a time


def bench_jaccard_cluster_contrast(num_rows: int, threads: int) -> dict[str, Any]:
    """Jaccard with its search, k1 = 30, k2 = 6, D = 2048, against Cluster-Contrast's, on the CPU."""
    theirs = peers.compute_jaccard_distance()
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    similarity, ours = measured(lambda: jaccard_similarity(rows, k1=K1, k2=K2))
    distances, peer, extrapolated = in_full_or_scaled(
        lambda count: partial(
            theirs, torch.from_numpy(rows[:count]), K1, K2, print_flag=False, search_option=3
        ),
        num_rows,
        in_full=num_rows <= LARGEST_IN_FULL,
    )
    if extrapolated:
        similarity = jaccard_similarity(rows[: len(distances)], k1=K1, k2=K2)
    starts = range(0, len(distances), _COMPARED_ROWS)
    blocks = (slice(start, start + _COMPARED_ROWS) for start in starts)
    line = record("jaccard", rows, ours, (peer["cpu_seconds"], extrapolated), "Cluster-Contrast")
    line["reference_peak_rss_gib"] = peer["peak_rss_gib"]
    return line | _apart((1 - similarity[block].toarray(), distances[block]) for block in blocks)


def bench_rerank_torchreid(num_rows: int, threads: int) -> dict[str, Any]:
    """Re-ranking from features against torchreid's, with the distances that it has to be given."""
    theirs = peers.re_ranking()
    torch.set_num_threads(threads)
    people = People(num_rows)
    checked, ours = reranked(people.query, people.gallery)

    def first(count: int) -> tuple[np.ndarray, np.ndarray]:
        """As large a part of the queries as of the gallery, `count` rows together."""
        num_queries = people.num_queries * count // len(people.rows)
        return people.query[:num_queries], people.gallery[: count - num_queries]

    def dense(count: int) -> np.ndarray:
        query, gallery = first(count)
        tables = _euclidean(query, gallery), _euclidean(query, query), _euclidean(gallery, gallery)
        return theirs(*tables, k1=20, k2=6, lambda_value=0.3)

    distances, peer, extrapolated = in_full_or_scaled(
        lambda count: partial(dense, count), len(people.rows), in_full=num_rows <= LARGEST_IN_FULL
    )
    if extrapolated:
        checked, _ = reranked(*first(PIECE))
    line = people.line("re-ranking", ours, peer["cpu_seconds"], people.num_queries)
    line |= {"reference": "torchreid, distances by numpy", "extrapolated": extrapolated}
    line["reference_peak_rss_gib"] = peer["peak_rss_gib"]
    return with_ratio(line, None, "") | _apart([(checked, sampled(distances, len(distances)))])


def bench_ranking_fast_reid(num_rows: int, threads: int) -> dict[str, Any]:
    """CMC/mAP from distances in memory against fast-reid's."""
    return _ranking(peers.FAST_REID, "fast-reid", num_rows, threads)


def bench_ranking_torchreid(num_rows: int, threads: int) -> dict[str, Any]:
    """CMC/mAP from distances in memory against torchreid's."""
    return _ranking(peers.TORCHREID, "torchreid", num_rows, threads)


NEEDS = {
    "jaccard_cluster_contrast": peers.CLUSTER_CONTRAST,
    "rerank_torchreid": peers.TORCHREID,
    "ranking_fast_reid": peers.FAST_REID,
    "ranking_torchreid": peers.TORCHREID,
}


def _ranking(variable: str, name: str, num_rows: int, threads: int) -> dict[str, Any]:
    theirs, built = peers.evaluate_rank(variable)
    torch.set_num_threads(threads)
    people = People(num_rows)
    ranking, ours = ranked(people)
    distances = np.concatenate([block.copy() for block in people.distances(people.num_peer)])
    query_identities, query_cameras, gallery_identities, gallery_cameras = people.labels(people.num_peer)
    result, peer = measured(
        lambda: theirs(distances, query_identities, gallery_identities, query_cameras, gallery_cameras)
    )
    scale = people.num_queries / people.num_peer
    line = people.line("CMC/mAP, ranking alone", ours, peer["cpu_seconds"] * scale, people.num_peer)
    line |= {"reference": f"{name}, {built}", "reference_peak_rss_gib": peer["peak_rss_gib"] * scale}
    expected = np.nanmean(ranking.average_precisions[: people.num_peer])
    line["largest_difference"] = float(abs(np.mean(result[1]) - expected))  # of mAP
    return with_ratio(line, None, "")


def _euclidean(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distances of unit rows, with one table in memory."""
    distances = rows @ others.T
    distances *= -2
    distances += 2
    np.maximum(distances, 0, out=distances)
    return np.sqrt(distances, out=distances)


def _apart(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The largest difference of ours and theirs, and the share that is more than a rounding."""
    largest, differing, total = 0.0, 0, 0
    for ours, theirs in pairs:
        apart = np.abs(ours - theirs)
        largest = max(largest, float(apart.max()))
        differing += int((apart > _ROUNDING).sum())
        total += apart.size
    return {"largest_difference": largest, "differing": differing / total}
