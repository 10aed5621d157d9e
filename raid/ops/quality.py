"""How good a clustering is: against true identities, against cameras, and by itself.

Everything is computed from sparse contingency tables. `truth` is taken as it is: leave samples without a
known identity out before calling. Pseudo labels of -1 (outliers, discarded) are left out
(`noise="drop"`: as ICSR plots refined labels, so recall and expansion are optimistic) or count as clusters
of one (`noise="singletons"`: honest about what was thrown away).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.symmetric import Matrix, arrays_of

_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Quality:
    """Agreement of clusters with identities.

    Attributes:
        precision: 0 to 1.
        recall: 0 to 1.
        f: harmonic mean of the two.
        expansion: mean over identities of the number of clusters it is spread over; 1 or more, 0 if empty.
    """

    precision: float
    recall: float
    f: float
    expansion: float


def pairwise(truth: NDArray[Any], labels: NDArray[Any], *, noise: str = "drop") -> Quality:
    """Compare the pairs of samples that share a cluster with those that share an identity.

    Precision = (sum n_gp^2 - N) / (sum_p n_p^2 - N), recall = (sum n_gp^2 - N) / (sum_g n_g^2 - N), with
    n_gp the samples of identity g in cluster p. 0 where there is no such pair.

    Args:
        truth: (N,) identities.
        labels: (N,) pseudo labels, -1 = noise.
        noise: `drop` or `singletons`.

    Raises:
        ValueError: shapes that differ, or an unknown `noise`.

    Memory: a few arrays of N numbers.
    """
    table = _contingency(*_kept(truth, labels, noise))
    total = float(table.sum())
    same_both = float(np.square(table.data).sum()) - total
    same_cluster = float(np.square(table.sum(axis=0)).sum()) - total
    same_identity = float(np.square(table.sum(axis=1)).sum()) - total
    return _quality(_ratio(same_both, same_cluster), _ratio(same_both, same_identity), table)


def bcubed(truth: NDArray[Any], labels: NDArray[Any], *, noise: str = "drop") -> Quality:
    """Average over samples how pure its cluster, and how complete its identity, is (B-cubed).

    Precision = 1/N sum n_gp^2 / n_p, recall = 1/N sum n_gp^2 / n_g, F of these averages: the figure of the
    ICSR paper. Arguments, errors and memory as in `pairwise`.
    """
    table = _contingency(*_kept(truth, labels, noise))
    total = float(table.sum())
    squares = np.square(table.data)
    per_cluster = float((squares / table.sum(axis=0)[table.col]).sum())
    per_identity = float((squares / table.sum(axis=1)[table.row]).sum())
    return _quality(_ratio(per_cluster, total), _ratio(per_identity, total), table)


def nmi(truth: NDArray[Any], labels: NDArray[Any], *, noise: str = "drop") -> float:
    """Return the mutual information over the arithmetic mean of the entropies; as `pairwise` otherwise."""
    from sklearn.metrics import normalized_mutual_info_score

    truth, labels = _kept(truth, labels, noise)
    return float(normalized_mutual_info_score(truth, labels)) if len(truth) else 0.0


def ari(truth: NDArray[Any], labels: NDArray[Any], *, noise: str = "drop") -> float:
    """Return the Rand index adjusted for chance; as `pairwise` otherwise."""
    from sklearn.metrics import adjusted_rand_score

    truth, labels = _kept(truth, labels, noise)
    return float(adjusted_rand_score(truth, labels)) if len(truth) else 0.0


def coverage(labels: NDArray[Any]) -> float:
    """Return the share of samples whose label is not -1; 0 if there are none. Memory: N bytes."""
    return float((labels != -1).mean()) if len(labels) else 0.0


def camera_purity(labels: NDArray[Any], cameras: NDArray[Any]) -> float:
    """Return how far clusters are made of one camera, 0 to 1; 0 if nothing is kept.

    The mean over kept samples of the share of the sample's cluster that its most frequent camera holds:
    sum_p max_c n_pc / N. Near 1, clustering has found cameras rather than people (or only singletons).

    Args:
        labels: (N,) pseudo labels, -1 = noise.
        cameras: (N,).

    Raises:
        ValueError: shapes that differ.

    Memory: a few arrays of N numbers.
    """
    table = _contingency(*_kept(cameras, labels, "drop"))
    if table.nnz == 0:
        return 0.0
    return _ratio(float(table.tocsc().max(axis=0).sum()), float(table.sum()))


def silhouette(similarity: sp.csr_array, labels: NDArray[Any]) -> float:
    """Return the mean silhouette of the distance 1 - similarity (1 where nothing is stored).

    Equal to scikit-learn's on the dense distances. Samples of label -1 are left out, singletons score 0,
    fewer than two clusters give 0. The same bits for any number of threads.

    Args:
        similarity: (N, N), values 0 to 1; the diagonal is not looked at. It may be read-only or mapped from
            a file, and is read front to back.
        labels: (N,) pseudo labels, -1 = noise.

    Raises:
        ValueError: shapes that do not fit.

    Memory: 24 bytes a sample, and for each thread 12 bytes a cluster.
    """
    if similarity.shape != (len(labels), len(labels)):
        raise ValueError(f"similarity {similarity.shape} does not fit labels {labels.shape}")
    kept = labels != -1
    clusters, numbers = np.unique(labels[kept], return_inverse=True)
    if len(clusters) < 2:
        return 0.0
    own = np.full(len(labels), -1, np.int64)
    own[kept] = numbers
    scores = np.zeros(len(labels))
    score = partial(_silhouettes, arrays_of(similarity), own, np.bincount(numbers).astype(np.float64), scores)
    over_rows(score, 0, len(labels), chunk_rows=_CHUNK_ROWS)
    return float(scores.sum() / kept.sum())


@compiled
def _silhouettes(
    matrix: Matrix,
    own: NDArray[np.int64],
    sizes: NDArray[np.float64],
    scores: NDArray[np.float64],
    first: int,
    last: int,
) -> None:
    """Set (b - a) / max(a, b) of the rows that are not noise; leave 0 for singletons and for 0 / 0."""
    sums = np.zeros(len(sizes) + 1)  # similarities to each cluster; the last one, -1, is noise
    for row in range(first, last):
        mates = sizes[own[row]] - 1
        if own[row] < 0 or mates == 0:
            continue
        columns = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        values = matrix.values[matrix.indptr[row] : matrix.indptr[row + 1]]
        for place in range(len(columns)):
            if columns[place] != row:
                sums[own[columns[place]]] += values[place]
        a = 1.0 - sums[own[row]] / mates
        sums[own[row]] = 0.0
        nearest = 0.0  # similarity 0 to any cluster that does not appear
        for place in range(len(columns)):
            cluster = own[columns[place]]
            if cluster >= 0:
                nearest = max(nearest, sums[cluster] / sizes[cluster])
            sums[cluster] = 0.0
        b = 1.0 - nearest
        if max(a, b) > 0:
            scores[row] = (b - a) / max(a, b)


def _kept(truth: NDArray[Any], labels: NDArray[Any], noise: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if labels.ndim != 1 or truth.shape != labels.shape:
        raise ValueError(f"need two arrays of one shape (N,), got {truth.shape} and {labels.shape}")
    outliers = labels == -1
    if noise == "drop":
        return truth[~outliers], labels[~outliers]
    if noise != "singletons":
        raise ValueError(f"noise must be 'drop' or 'singletons', got {noise!r}")
    singletons = labels.astype(np.int64)
    singletons[outliers] = singletons.max(initial=-1) + 1 + np.arange(outliers.sum())
    return truth, singletons


def _contingency(truth: NDArray[Any], labels: NDArray[Any]) -> sp.coo_array:
    """Return n_gp: how many samples of each identity are in each cluster, float64."""
    identities, rows = np.unique(truth, return_inverse=True)
    clusters, columns = np.unique(labels, return_inverse=True)
    table = sp.coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(identities), len(clusters)))
    table.sum_duplicates()
    return table


def _quality(precision: float, recall: float, table: sp.coo_array) -> Quality:
    f = _ratio(2 * precision * recall, precision + recall)
    return Quality(precision, recall, f, _ratio(float(table.nnz), float(table.shape[0])))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
