from itertools import pairwise

import numpy as np
import pytest
import scipy.cluster.hierarchy as hierarchy
import scipy.sparse as sp
from scipy.spatial.distance import squareform
from sklearn.cluster import AgglomerativeClustering

from raid.data import synthetic
from raid.ops.jaccard import jaccard_similarity
from raid.ops.linkage import agglomerative, cut, merge_tree
from raid.ops.quality import ari


def random_similarity(count, density, seed, dtype=np.float32):
    """Symmetric, connected, without ties. (Mostly float32 and int32: every kind is compiled once.)"""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((count, count)) * (rng.random((count, count)) < density), 1)
    chain = np.arange(count - 1)
    upper[chain, chain + 1] = rng.random(count - 1)
    return sp.csr_array((upper + upper.T + np.eye(count)).astype(dtype))


def by_first_appearance(labels):
    seen = {}
    return np.array([seen.setdefault(label, len(seen)) for label in labels])


def scipy_tree(similarity):
    distance = 1 - similarity.toarray().astype(np.float64)
    np.fill_diagonal(distance, 0)
    return hierarchy.linkage(squareform(distance, checks=False), "average")


def scipy_labels(similarity, num_clusters):
    return by_first_appearance(hierarchy.cut_tree(scipy_tree(similarity), num_clusters)[:, 0])


def naive_labels(similarity, num_clusters):
    """Merge the nearest two clusters, again and again; distances from all pairs of samples."""
    distance = 1 - similarity.toarray().astype(np.float64)
    clusters = [[i] for i in range(len(distance))]
    while len(clusters) > num_clusters:
        pairs = [(i, j) for i in range(len(clusters)) for j in range(i)]
        i, j = min(pairs, key=lambda p: distance[np.ix_(clusters[p[0]], clusters[p[1]])].mean())
        clusters[j] += clusters.pop(i)
    labels = np.empty(len(distance), np.int64)
    for label, members in enumerate(clusters):
        labels[members] = label
    return by_first_appearance(labels)


@pytest.mark.parametrize("num_clusters", [1, 2, 5, 13, 24, 25])
def test_equals_the_naive_algorithm(num_clusters):
    similarity = random_similarity(25, 0.4, seed=0)
    labels = agglomerative(similarity, num_clusters=num_clusters)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, naive_labels(similarity, num_clusters))


@pytest.mark.parametrize("density", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_scipy_and_sklearn(density, seed):
    similarity = random_similarity(150, density, seed)
    distance = 1 - similarity.toarray().astype(np.float64)
    for num_clusters in (1, 2, 10, 60, 149, 150):
        labels = agglomerative(similarity, num_clusters=num_clusters)
        # At distance 1 exactly (no shared entry) merges are ties: only what is nearer is comparable.
        np.testing.assert_array_equal(labels, scipy_labels(similarity, num_clusters))
        other = AgglomerativeClustering(num_clusters, metric="precomputed", linkage="average").fit(distance)
        np.testing.assert_array_equal(labels, by_first_appearance(other.labels_))


def test_one_tree_is_cut_at_any_number_of_clusters():
    similarity = random_similarity(120, 0.1, seed=5)
    tree = merge_tree(similarity)
    assert tree.num_components == 1
    for num_clusters in (1, 2, 7, 50, 119, 120):
        labels = cut(tree, num_clusters=num_clusters)
        np.testing.assert_array_equal(labels, scipy_labels(similarity, num_clusters))
    for num_clusters in (0, 121):
        with pytest.raises(ValueError, match=f"num_clusters must be 1 to 120 .* got {num_clusters}"):
            cut(tree, num_clusters=num_clusters)


def test_tree_of_several_components():
    similarity = sp.csr_array(np.kron(np.eye(4), np.ones((3, 3))).astype(np.float32))
    tree = merge_tree(similarity)
    assert tree.num_components == 4
    with pytest.warns(UserWarning, match=r"2 clusters asked for.* 4 ") as warned:
        labels = cut(tree, num_clusters=2)
    assert warned[0].filename == __file__  # the caller's line, and so in `agglomerative`
    np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 3))


def test_jaccard_of_clear_identities():
    rng = np.random.default_rng(3)
    identities = rng.permutation(np.repeat(np.arange(30), 8))
    features = (3 * rng.standard_normal((30, 32)))[identities] + rng.standard_normal((240, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    similarity = jaccard_similarity(features, k1=15, k2=4)
    labels = agglomerative(similarity, num_clusters=30)
    assert ari(identities, labels) == 1
    np.testing.assert_array_equal(labels, scipy_labels(similarity, 30))


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_float64_values_and_int64_indices(index_type):
    similarity = random_similarity(60, 0.3, seed=2, dtype=np.float64)
    similarity.indices = similarity.indices.astype(index_type)
    labels = agglomerative(similarity, num_clusters=9)
    np.testing.assert_array_equal(labels, scipy_labels(similarity, 9))


def test_equals_scipy_at_8000_samples():
    simulated = synthetic.features(3, num_identities=500, images_per_identity=16, dim=64)
    upper = sp.csr_array(sp.triu(jaccard_similarity(simulated.features, k1=15, k2=4), 1))
    # Jaccard similarities have exact ties (samples with the same neighbours), of which two right algorithms
    # make different trees: 0.1 % of noise leaves none.
    upper.data *= 1 - 1e-3 * np.random.default_rng(0).random(upper.nnz, np.float32)
    similarity = sp.csr_array(upper + upper.T)
    tree = scipy_tree(similarity)
    for num_clusters in (300, 500, 2000):
        labels = agglomerative(similarity, num_clusters=num_clusters)
        assert ari(hierarchy.fcluster(tree, num_clusters, "maxclust"), labels) == 1
        assert labels.max() + 1 == num_clusters


def test_rows_that_outgrow_the_pool():
    # 500 x 500 entries: several times what the pool begins with.
    similarity = random_similarity(500, 0.9, seed=6)
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=40), scipy_labels(similarity, 40))


def test_a_matrix_on_disk_is_read_in_place(tmp_path):
    similarity = random_similarity(80, 0.3, seed=5)
    mapped = sp.csr_array(similarity.shape, dtype=np.float32)
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(similarity, name))
        setattr(mapped, name, np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(
        agglomerative(mapped, num_clusters=11), agglomerative(similarity, num_clusters=11)
    )


def test_rows_out_of_order_are_sorted_in_a_copy():
    similarity = random_similarity(40, 0.4, seed=7)
    shuffled = similarity.copy()
    for start, stop in pairwise(similarity.indptr):
        shuffled.indices[start:stop] = similarity.indices[start:stop][::-1]
        shuffled.data[start:stop] = similarity.data[start:stop][::-1]
    shuffled.has_sorted_indices = False
    before = shuffled.indices.copy()
    np.testing.assert_array_equal(
        agglomerative(shuffled, num_clusters=6), agglomerative(similarity, num_clusters=6)
    )
    np.testing.assert_array_equal(shuffled.indices, before)


def test_permuted_samples_give_the_same_clusters():
    similarity = random_similarity(120, 0.2, seed=9)
    order = np.random.default_rng(0).permutation(120)
    permuted = agglomerative(sp.csr_array(similarity[order][:, order]), num_clusters=17)
    straight = agglomerative(similarity, num_clusters=17)
    np.testing.assert_array_equal(permuted, by_first_appearance(straight[order]))


def test_one_sample_and_no_merge():
    np.testing.assert_array_equal(
        agglomerative(sp.csr_array(np.ones((1, 1), np.float32)), num_clusters=1), [0]
    )
    similarity = random_similarity(6, 1, seed=0)
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=6), np.arange(6))


def test_duplicates_end_up_together():
    groups = np.array([0, 1, 0, 2, 1, 0, 2, 2, 1])
    similarity = sp.csr_array(((groups[:, None] == groups) * 0.7 + 0.3 * np.eye(9) + 0.1).astype(np.float32))
    similarity.data[:] = np.minimum(similarity.data, 1)
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=3), by_first_appearance(groups))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("value", [1.0, 0.3, 0.1])
def test_ends_when_everything_is_tied(value):
    labels = agglomerative(sp.csr_array(np.full((97, 97), value, np.float32)), num_clusters=5)
    assert len(np.unique(labels)) == 5


@pytest.mark.timeout(60)
def test_ends_on_few_values():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        upper = np.triu(rng.integers(0, 3, (60, 60)) / 10, 1).astype(np.float32)
        labels = agglomerative(sp.csr_array(upper + upper.T), num_clusters=7)
        assert len(np.unique(labels)) == 7


def test_ties_are_decided_by_the_order_of_samples():
    # A ring of equal similarities: 0 is as near to 1 as to 5, and takes the earlier.
    ring = np.roll(np.eye(6), 1, axis=1) * 0.5
    similarity = sp.csr_array((ring + ring.T).astype(np.float32))
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=5), [0, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=3), [0, 0, 1, 1, 2, 2])


def test_fewer_clusters_than_components():
    similarity = sp.csr_array(np.kron(np.eye(4), np.ones((3, 3))).astype(np.float32))
    with pytest.warns(UserWarning, match=r"2 clusters asked for.* 4 "):
        labels = agglomerative(similarity, num_clusters=2)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(agglomerative(similarity, num_clusters=4), np.repeat(np.arange(4), 3))


def test_stored_zeros_and_the_diagonal_do_not_matter():
    similarity = random_similarity(40, 0.3, seed=4)
    padded = similarity.tocoo()
    row, column = np.triu_indices(40, 1)
    padded = sp.csr_array(
        (
            np.concatenate([padded.data, np.zeros(2 * len(row), np.float32)]),
            [
                np.concatenate(parts).astype(np.int32)
                for parts in ((padded.row, row, column), (padded.col, column, row))
            ],
        ),
        shape=(40, 40),
    )
    padded.setdiag(0)
    before = padded.copy()
    np.testing.assert_array_equal(
        agglomerative(padded, num_clusters=6), agglomerative(similarity, num_clusters=6)
    )
    np.testing.assert_array_equal(padded.data, before.data)


@pytest.mark.parametrize("num_clusters", [0, -1, 6])
def test_number_of_clusters_out_of_range(num_clusters):
    with pytest.raises(ValueError, match="num_clusters"):
        agglomerative(sp.csr_array(np.eye(5, dtype=np.float32)), num_clusters=num_clusters)


def test_rounding_is_not_asymmetry():
    similarity = random_similarity(40, 0.4, seed=8)
    noisy = similarity.copy()
    noisy.data *= 1 + 1e-6 * np.random.default_rng(0).random(len(noisy.data), np.float32)
    np.testing.assert_array_equal(
        agglomerative(noisy, num_clusters=6), agglomerative(similarity, num_clusters=6)
    )


def test_no_samples():
    with pytest.raises(ValueError, match="num_clusters must be 1 to 0"):
        agglomerative(sp.csr_array((0, 0), dtype=np.float32), num_clusters=1)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0.5, 0], [0, 1, 0], [0, 0, 1]],
        [[1, -0.5], [-0.5, 1]],
        [[1, np.nan], [np.nan, 1]],
        [[1, 0.5], [0.4, 1]],
        [[1, 0.5], [0.5, np.inf]],
        [[1, 0, 0.5], [0, 1, 0]],
        [[0, 0.5, 0], [0, 0, 0.5], [0.5, 0, 0]],
    ],
)
def test_unusable_similarity(matrix):
    with pytest.raises(ValueError, match="similarity must be"):
        agglomerative(sp.csr_array(np.array(matrix, np.float32)), num_clusters=1)
