"""Benchmarks of nearest neighbours, Jaccard and centrality against the dense reference, one function a path.

Each makes its own data, measures in this process, and returns one flat record. A ratio compares CPU-seconds
of one process run; run each in a process of its own for the memory.
"""

from functools import partial

import torch
from benchmarks import dense_reference
from benchmarks.measure import PIECE, in_full_or_scaled, measured
from threadpoolctl import threadpool_limits

from raid.data.synthetic import features
from raid.ops.centrality import harmonic_centrality
from raid.ops.jaccard import jaccard_from_neighbors, jaccard_similarity
from raid.ops.neighbors import knn

K1, K2 = 30, 6
LARGEST_IN_FULL = 12_936  # rows of the dense reference


def person_features(num_rows, dim=2048, images=16, num_cameras=6):
    """Return (N, dim) simulated unit rows, as clear as those of a trained network.

    That is: about 12 % of all pairs have a Jaccard similarity at 12,936 rows, as performance.md's have.
    """
    made = features(
        0,
        num_identities=-(-num_rows // images),
        images_per_identity=images,
        num_cameras=num_cameras,
        dim=dim,
        noise=0.57,
        camera_shift=0.4,
    )
    return made.features[:num_rows]


def record(path, rows, cost, reference=None, peer="dense numpy"):
    """Put a line together; `reference` is (CPU-seconds, whether scaled from fewer rows) or None."""
    line = {"path": path, "n": len(rows), "d": rows.shape[1], **cost}
    if reference is not None:
        seconds, extrapolated = reference
        ratio = seconds / cost["cpu_seconds"]
        line |= {"reference": peer, "reference_cpu_seconds": seconds, "ratio": ratio}
        line |= {"extrapolated": extrapolated}
    return line


def dense_cost(rows, function, prepare=lambda piece: ()):
    """Return CPU-seconds of `function(rows, *prepare(rows))` on one thread, and whether they are scaled."""
    with threadpool_limits(1, user_api="blas"):
        _, cost, extrapolated = in_full_or_scaled(
            lambda count: partial(function, rows[:count], *prepare(rows[:count])),
            len(rows),
            in_full=len(rows) <= LARGEST_IN_FULL,
        )
    return cost["cpu_seconds"], extrapolated


def ranks_of(rows):
    """Return the table of neighbours that the dense reference is given."""
    return (knn(rows, rows, K1)[1],)


def warm_up(rows):
    """Compile, or load what is compiled, outside the measurement."""
    jaccard_similarity(rows[:200], k1=5, k2=2)


def bench_knn(num_rows, threads):
    """Exact k-NN, k = 30, D = 2048."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    _, cost = measured(lambda: knn(rows, rows, K1))
    return record("knn", rows, cost, dense_cost(rows, lambda x: dense_reference.jaccard_rank(x, K1)))


def faiss_cost(rows):
    """Return CPU-seconds of faiss IndexFlatIP on one thread, of 2,000 queries scaled to all rows."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    _, cost = measured(lambda: index.search(rows[:PIECE], K1))
    return cost["cpu_seconds"] * max(1.0, len(rows) / PIECE), len(rows) > PIECE


def bench_knn_faiss(num_rows, threads):
    """The same against what Cluster-Contrast and ICSR search with on a CPU."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    _, cost = measured(lambda: knn(rows, rows, K1))
    return record("knn", rows, cost, faiss_cost(rows), "faiss IndexFlatIP")


def bench_jaccard(num_rows, threads):
    """Jaccard with its search, k1 = 30, k2 = 6, D = 2048; the reference ranks by numpy products."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    similarity, cost = measured(lambda: jaccard_similarity(rows, k1=K1, k2=K2))
    cost |= {"entries_a_row": similarity.nnz / len(rows)}
    del similarity
    reference = dense_cost(rows, lambda x: dense_reference.jaccard_distance(x, K1, K2))
    return record("jaccard", rows, cost, reference)


def bench_jaccard_faiss(num_rows, threads):
    """The same against a reference that searches as Cluster-Contrast and ICSR do, with faiss."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    similarity, cost = measured(lambda: jaccard_similarity(rows, k1=K1, k2=K2))
    cost |= {"entries_a_row": similarity.nnz / len(rows)}
    del similarity
    seconds, extrapolated = dense_cost(
        rows, lambda x, ranks: dense_reference.jaccard_from_rank(x, ranks, K1, K2), ranks_of
    )
    search, search_extrapolated = faiss_cost(rows)
    reference = seconds + search, extrapolated or search_extrapolated
    return record("jaccard", rows, cost, reference, "dense numpy, search by faiss")


def bench_jaccard_without_search(num_rows, threads):
    """Jaccard from a table of neighbours, on both sides."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    products, table = knn(rows, rows, K1)
    similarity, cost = measured(lambda: jaccard_from_neighbors(rows, table, products, k1=K1, k2=K2))
    cost |= {"entries_a_row": similarity.nnz / len(rows)}
    del similarity
    reference = dense_cost(
        rows, lambda x, ranks: dense_reference.jaccard_from_rank(x, ranks, K1, K2), ranks_of
    )
    return record("jaccard_without_search", rows, cost, reference)


def bench_centrality(num_rows, threads):
    """Harmonic centrality from the table that the Jaccard step has searched; no reference."""
    torch.set_num_threads(threads)
    rows = person_features(num_rows)
    warm_up(rows)
    table = knn(rows, rows, K1)
    _, cost = measured(lambda: harmonic_centrality(rows, neighbors=table))
    return record("centrality_from_table", rows, cost)
