"""Clustering against the best that can be installed: time, CPU time and memory, on simulated features.

Every function makes its own data, compiles beforehand, and runs ours and the peer in one process. Run each in
a fresh process for a true peak. Above `_LARGEST_PEER` rows a peer that needs all pairs runs on as many rows
and is scaled by their square ("extrapolated").
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from benchmarks.measure import limit, measured

from raid.data import synthetic
from raid.ops.dbscan import dbscan
from raid.ops.jaccard import jaccard_similarity
from raid.ops.kmeans import kmeans
from raid.ops.linkage import agglomerative
from raid.ops.quality import silhouette

DIM = 2048
NUM_CLUSTERS = {12_936: 800, 32_621: 1200}  # of the paper, at these sizes; else 17 images a cluster
EPS, MIN_SAMPLES = 0.5, 4
_LARGEST_PEER = {"fastcluster": 33_000, "sklearn": 13_000}
_WARM_UP = 500


def bench_linkage(num_rows: int, threads: int) -> dict[str, Any]:
    """Average linkage against fastcluster on the condensed distances (its own memory not copied)."""
    import fastcluster

    return _linkage(
        num_rows,
        threads,
        peer="fastcluster",
        prepare=condensed,
        run=lambda distances: fastcluster.linkage(distances, "average", preserve_input=False),
    )


def bench_linkage_sklearn(num_rows: int, threads: int) -> dict[str, Any]:
    """Average linkage against scikit-learn on the dense distances."""
    from sklearn.cluster import AgglomerativeClustering

    model = AgglomerativeClustering(clusters_at(num_rows), metric="precomputed", linkage="average")
    return _linkage(num_rows, threads, peer="sklearn", prepare=dense, run=model.fit_predict)


def _linkage(
    num_rows: int, threads: int, *, peer: str, prepare: Callable[..., Any], run: Callable[..., Any]
) -> dict[str, Any]:
    limit(threads)
    similarity = jaccard_similarity(rows_of(num_rows).features)
    agglomerative(_corner(similarity, _WARM_UP), num_clusters=50)
    _, ours = measured(lambda: agglomerative(similarity, num_clusters=clusters_at(num_rows)))
    peer_rows = min(num_rows, _LARGEST_PEER[peer])
    distances = prepare(_corner(similarity, peer_rows))
    _, theirs = measured(lambda: run(distances))
    return _line("linkage", num_rows, threads, ours, peer, theirs, (num_rows / peer_rows) ** 2)


def bench_dbscan(num_rows: int, threads: int) -> dict[str, Any]:
    """DBSCAN against scikit-learn, both on the sparse graph."""
    from sklearn.cluster import DBSCAN

    limit(threads)
    similarity = jaccard_similarity(rows_of(num_rows).features)
    dbscan(_corner(similarity, _WARM_UP), eps=EPS, min_samples=MIN_SAMPLES)
    labels, ours = measured(lambda: dbscan(similarity, eps=EPS, min_samples=MIN_SAMPLES))
    distances = similarity.copy()
    np.subtract(1, distances.data, out=distances.data)
    model = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=threads)
    expected, theirs = measured(lambda: model.fit_predict(distances))
    line = _line("dbscan", num_rows, threads, ours, "sklearn", theirs)
    return line | {"equal": bool((labels == expected).all()), "entries_per_row": similarity.nnz / num_rows}


def bench_kmeans(num_rows: int, threads: int) -> dict[str, Any]:
    """k-means of 3 clusters and 10 starts against scikit-learn, and how their inertias compare."""
    from sklearn.cluster import KMeans

    limit(threads)
    features = rows_of(num_rows).features
    kmeans(features[:_WARM_UP], num_clusters=3, seed=0, restarts=2)
    result, ours = measured(lambda: kmeans(features, num_clusters=3, seed=0, restarts=10))
    model = KMeans(3, n_init=10, random_state=0)
    _, theirs = measured(lambda: model.fit(features))
    line = _line("kmeans", num_rows, threads, ours, "sklearn", theirs)
    return line | {"inertia_ratio": result.inertia / float(model.inertia_)}


def bench_silhouette(num_rows: int, threads: int) -> dict[str, Any]:
    """The silhouette of the linkage's clusters against scikit-learn on the dense distances."""
    from sklearn.metrics import silhouette_score

    limit(threads)
    similarity = jaccard_similarity(rows_of(num_rows).features)
    labels = agglomerative(similarity, num_clusters=clusters_at(num_rows))
    silhouette(_corner(similarity, _WARM_UP), np.arange(min(_WARM_UP, num_rows)) % 7)
    score, ours = measured(lambda: silhouette(similarity, labels))
    peer_rows = min(num_rows, _LARGEST_PEER["sklearn"])
    distances = dense(_corner(similarity, peer_rows))
    expected, theirs = measured(lambda: silhouette_score(distances, labels[:peer_rows], metric="precomputed"))
    line = _line("silhouette", num_rows, threads, ours, "sklearn", theirs, (num_rows / peer_rows) ** 2)
    return line | ({"difference": score - float(expected)} if peer_rows == num_rows else {})


def rows_of(num_rows: int) -> synthetic.SimulatedFeatures:
    """Simulate `num_rows` images of six cameras, 17 an identity."""
    sizes = np.bincount(np.arange(num_rows) % 6, minlength=6)
    return synthetic.features(1, num_identities=max(1, num_rows // 17), camera_sizes=list(sizes), dim=DIM)


def clusters_at(num_rows: int) -> int:
    return NUM_CLUSTERS.get(num_rows, max(1, num_rows // 17))


def dense(similarity: sp.csr_array) -> np.ndarray:
    """Return the distances (N, N), float32."""
    distances = similarity.toarray()
    np.subtract(1, distances, out=distances)
    np.fill_diagonal(distances, 0)
    return distances


def condensed(similarity: sp.csr_array) -> np.ndarray:
    """Return the distances of the pairs i < j, (N (N - 1) / 2,) float64, without an N x N matrix."""
    count = similarity.shape[0]
    distances = np.ones(count * (count - 1) // 2)
    end = 0
    for row in range(count - 1):
        start, stop = similarity.indptr[row], similarity.indptr[row + 1]
        above = similarity.indices[start:stop] > row
        distances[end + similarity.indices[start:stop][above] - row - 1] -= similarity.data[start:stop][above]
        end += count - row - 1
    return distances


def _corner(similarity: sp.csr_array, count: int) -> sp.csr_array:
    if count >= similarity.shape[0]:
        return similarity
    return sp.csr_array(similarity[:count, :count])


def _line(
    path: str,
    num_rows: int,
    threads: int,
    ours: dict[str, float],
    peer: str,
    theirs: dict[str, float],
    scale: float = 1.0,
) -> dict[str, Any]:
    reference = theirs["cpu_seconds"] * scale
    return {
        "path": path,
        "n": num_rows,
        "d": DIM,
        "threads": threads,
        **ours,
        "reference": peer,
        "reference_cpu_seconds": reference,
        "reference_peak_rss_gib": theirs["peak_rss_gib"] * scale,
        "ratio": reference / ours["cpu_seconds"],
        "extrapolated": scale != 1.0,
    }
