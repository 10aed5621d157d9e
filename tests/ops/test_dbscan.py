import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.cluster import DBSCAN

from raid.ops.dbscan import dbscan


def random_similarity(count, seed, values=None):
    """Groups of near samples with chains and samples between them; `values`: only so many, for ties."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((count, 2)) * 2
    dense = np.exp(-np.square(points[:, None] - points).sum(2))
    dense[dense < 0.05] = 0
    if values:
        dense = np.round(dense * values) / values
    return sp.csr_array(((dense + dense.T) / 2).astype(np.float32))


def sklearn_labels(similarity, eps, min_samples):
    distance = 1 - similarity.toarray().astype(np.float64)
    np.fill_diagonal(distance, 0)
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distance).labels_


def plain_labels(similarity, eps, min_samples):
    """The definition, sample by sample."""
    near = 1 - similarity.toarray().astype(np.float64) <= eps
    np.fill_diagonal(near, True)
    core = near.sum(1) >= min_samples
    labels = np.full(len(core), -1)
    for number, start in enumerate(np.flatnonzero(core)):
        if labels[start] < 0:
            reached = {start}
            while more := {j for i in reached for j in np.flatnonzero(near[i] & core)} - reached:
                reached |= more
            labels[list(reached)] = number
    for sample in np.flatnonzero(~core):
        labels[sample] = min(labels[near[sample] & core], default=-1)
    _, labels[labels >= 0] = np.unique(labels[labels >= 0], return_inverse=True)
    return labels


@pytest.mark.parametrize("min_samples", [1, 3, 5])
@pytest.mark.parametrize("eps", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_equals_sklearn_and_the_definition(seed, eps, min_samples):
    similarity = random_similarity(150, seed, values=[None, 10, 20][seed])
    labels = dbscan(similarity, eps=eps, min_samples=min_samples)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, plain_labels(similarity, eps, min_samples))
    # Border samples between two clusters included: see the docstring.
    np.testing.assert_array_equal(labels, sklearn_labels(similarity, eps, min_samples))


def test_border_sample_goes_to_the_lowest_label():
    # 0 is near to one core sample of each of two groups, {1, 2, 3} and {4, 5, 6}.
    dense = np.kron(np.eye(2), np.ones((3, 3)))
    dense = np.block([[np.ones((1, 1)), np.zeros((1, 6))], [np.zeros((6, 1)), dense]])
    dense[0, 4] = dense[4, 0] = dense[0, 3] = dense[3, 0] = 0.9
    similarity = sp.csr_array(dense.astype(np.float32))
    np.testing.assert_array_equal(dbscan(similarity, eps=0.5, min_samples=4), [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(sklearn_labels(similarity, 0.5, 4), [0, 0, 0, 0, 1, 1, 1])


def test_a_distance_of_exactly_eps_is_near():
    for dtype in (np.float32, np.float64):
        for value in np.random.default_rng(0).random(50).astype(dtype):
            similarity = sp.csr_array(np.array([[1, value], [value, 1]], dtype))
            eps = 1.0 - float(value)
            assert list(dbscan(similarity, eps=eps, min_samples=2)) == [0, 0]
            assert list(dbscan(similarity, eps=np.nextafter(eps, 0), min_samples=2)) == [-1, -1]


def test_what_is_far_the_diagonal_and_the_lower_triangle_may_be_left_out():
    similarity = random_similarity(200, seed=7)
    expected = dbscan(similarity, eps=0.4, min_samples=4)
    assert expected.max() == 2
    near = similarity.copy()
    near.data[near.data < 0.6] = 0
    near.setdiag(0)
    near.eliminate_zeros()
    for matrix in (near, sp.csr_array(sp.triu(near)), sp.csr_array(sp.triu(similarity))):
        np.testing.assert_array_equal(dbscan(matrix, eps=0.4, min_samples=4), expected)


def test_a_matrix_on_disk_is_read_in_place(tmp_path):
    similarity = random_similarity(100, seed=5)
    mapped = sp.csr_array(similarity.shape, dtype=np.float32)
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(similarity, name))
        setattr(mapped, name, np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(
        dbscan(mapped, eps=0.4, min_samples=4), dbscan(similarity, eps=0.4, min_samples=4)
    )


def test_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("raid.ops.dbscan._CHUNK_BLOCKS", 3)
    similarity = random_similarity(150, seed=3)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(dbscan(similarity, eps=0.4, min_samples=4))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_permuted_samples_give_the_same_clusters():
    similarity = random_similarity(150, seed=1)
    order = np.random.default_rng(0).permutation(150)
    straight = dbscan(similarity, eps=0.3, min_samples=3)[order]
    permuted = dbscan(sp.csr_array(similarity[order][:, order]), eps=0.3, min_samples=3)
    np.testing.assert_array_equal(straight < 0, permuted < 0)
    # Without border samples, the clusters are the same sets.
    assert len(set(zip(straight, permuted, strict=True))) == straight.max() + 2


def test_all_equal_one_sample_and_none():
    everything = sp.csr_array(np.ones((70, 70), np.float32))
    assert set(dbscan(everything, eps=0.1, min_samples=70)) == {0}
    assert set(dbscan(everything, eps=0.1, min_samples=71)) == {-1}
    one = sp.csr_array((1, 1), dtype=np.float32)
    assert list(dbscan(one, eps=0.5, min_samples=1)) == [0]
    assert list(dbscan(one, eps=0.5, min_samples=2)) == [-1]
    assert dbscan(sp.csr_array((0, 0), dtype=np.float32), eps=0.5, min_samples=1).shape == (0,)


@pytest.mark.parametrize(("eps", "min_samples"), [(0, 2), (1, 2), (-0.5, 2), (np.nan, 2), (0.5, 0)])
def test_parameters_out_of_range(eps, min_samples):
    with pytest.raises(ValueError, match=r"(eps|min_samples) must be"):
        dbscan(random_similarity(5, 0), eps=eps, min_samples=min_samples)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0.9, 0], [0, 1, 0], [0, 0.8, 1]],
        [[1, 0.9], [0.4, 1]],
        [[1, 0], [0.9, 1]],
        [[1, -0.5], [-0.5, 1]],
        [[1, np.nan], [np.nan, 1]],
        [[1, np.inf], [np.inf, 1]],
        [[1, 0, 0.5], [0, 1, 0]],
    ],
)
def test_unusable_similarity(matrix):
    similarity = sp.csr_array(np.array(matrix, np.float32))
    if matrix == [[1, 0.9], [0.4, 1]]:  # only what is near must be symmetric, or above the diagonal
        assert list(dbscan(similarity, eps=0.5, min_samples=2)) == [0, 0]
        return
    with pytest.raises(ValueError, match="similarity must be"):
        dbscan(similarity, eps=0.5, min_samples=2)
