import pickle

import numpy as np
import pytest
import torch
from benchmarks.dense_reference import jaccard_from_rank

from raid.ops.jaccard import jaccard_from_neighbors, jaccard_similarity
from raid.ops.neighbors import knn


def sin_matrix(rows, columns, phase):
    i, j = np.arange(rows)[:, None], np.arange(columns)[None, :]
    matrix = np.sin(1.7 * i + 0.37 * j**2 + 0.11 * i * j + phase)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def people(num_people, images, dim, spread, seed):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.standard_normal((num_people, dim)), images, axis=0)
    rows = (rows + spread * rng.standard_normal(rows.shape)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference_distance(features, neighbors, k1, k2):
    """The text of methods.md 2.4, one sample after the other, dense."""
    count = len(features)

    def reciprocal(i, k):
        return {j for j in neighbors[i, :k] if i in neighbors[j, :k]}

    weights = np.zeros((count, count))
    for i in range(count):
        own = reciprocal(i, k1)
        members = set(own)
        for candidate in own:
            half = reciprocal(candidate, int(np.around(k1 / 2)) + 1)
            if len(half & own) > 2 / 3 * len(half):
                members |= half
        members = sorted(members)
        powers = np.exp(-(2 - 2 * features[members].astype(np.float64) @ features[i].astype(np.float64)))
        weights[i, members] = powers / powers.sum()
    if k2 > 1:
        weights = np.stack([weights[neighbors[i, :k2]].mean(axis=0) for i in range(count)])
    shared = np.array([np.minimum(row, weights).sum(axis=1) for row in weights])
    return np.maximum(1 - shared / (2 - shared), 0)


def test_golden_values_of_the_release():
    distance = 1 - jaccard_similarity(sin_matrix(12, 6, 0), k1=6, k2=3).toarray().astype(np.float64)
    row = [0, 0.637398, 0.959540, 0.443163, 0.637398, 0.959540]
    row += [0.650855, 0.488020, 0.967034, 0.683141, 0.228542, 0.967034]
    np.testing.assert_allclose(distance[0], row, atol=1e-6)
    assert distance.sum() == pytest.approx(95.316620, abs=2e-5)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 1), (3, 2), (5, 5), (6, 1), (7, 3), (20, 6), (9, 20)])
@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_equals_the_slow_reference_on_the_same_table(k1, k2, spread):
    features = people(12, 9, 16, spread, seed=k1)
    _, neighbors = knn(features, features, max(k1, k2))
    before = neighbors.copy()
    similarity = jaccard_from_neighbors(features, neighbors, k1=k1, k2=k2, block_rows=17)
    np.testing.assert_array_equal(neighbors, before)
    expected = reference_distance(features, neighbors, k1, k2)
    np.testing.assert_allclose(1 - similarity.toarray(), expected, atol=2e-6)
    whole = jaccard_similarity(features, k1=k1, k2=k2)
    np.testing.assert_allclose(whole.toarray(), similarity.toarray(), atol=1e-6)


def test_equals_the_published_dense_algorithm():
    features = people(200, 15, 64, 0.9, seed=1)
    products, neighbors = knn(features, features, 30)
    similarity = jaccard_from_neighbors(features, neighbors, products).toarray()
    expected = 1 - jaccard_from_rank(features.astype(np.float64), neighbors, 30, 6)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(similarity > 0, expected > 0)


@pytest.mark.parametrize("min_similarity", [0.0, 0.3, 1.0])
def test_low_entries_left_out_and_the_rest_in_a_folder(tmp_path, min_similarity):
    features = people(40, 8, 32, 1.0, seed=0)
    whole = jaccard_similarity(features, k1=20, k2=6)
    part = jaccard_similarity(features, k1=20, k2=6, min_similarity=min_similarity, folder=tmp_path)
    dense = whole.toarray()
    np.testing.assert_array_equal(part.toarray(), np.where(dense >= min_similarity, dense, 0))
    assert isinstance(part.data.base, np.memmap) or isinstance(part.data, np.memmap)
    assert part.nnz == (dense >= max(min_similarity, 1e-30)).sum()
    assert (part @ np.ones(320, np.float32)).shape == (320,)


def test_least_similarity_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="min_similarity must be 0 to 1"):
        jaccard_similarity(np.eye(5), k1=2, k2=1, min_similarity=1.5)


def test_table_that_lacks_the_sample_itself():
    features = people(12, 9, 16, 0.3, seed=3)
    _, neighbors = knn(features, features, 9)
    neighbors[::3] = np.roll(neighbors[::3], -1, axis=1)  # as an approximate search may: itself comes last
    neighbors[::3, -1] = neighbors[::3, 0] % 5 + np.where(neighbors[::3, :1] < 50, 100, 0)[:, 0]
    similarity = jaccard_from_neighbors(features, neighbors, k1=8, k2=3).toarray()
    expected = 1 - reference_distance(features, neighbors, 8, 3)
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(similarity, expected, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_bits(threads):
    features = people(60, 10, 16, 0.8, seed=6)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        similarity = jaccard_similarity(features, k1=10, k2=4)
    finally:
        torch.set_num_threads(before)
    torch.set_num_threads(1)
    try:
        alone = jaccard_similarity(features, k1=10, k2=4)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(similarity.indices, alone.indices)
    np.testing.assert_array_equal(similarity.data, alone.data)


def test_one_row():
    assert jaccard_similarity(np.ones((1, 2)), k1=1, k2=1).toarray().tolist() == [[1]]


def test_read_only_columns_apart_and_float64():
    features = people(12, 9, 16, 0.6, seed=2)
    expected = jaccard_similarity(features, k1=8, k2=3)
    for other in (np.asfortranarray(features), features.astype(np.float64)):
        other.setflags(write=False)
        found = jaccard_similarity(other, k1=8, k2=3)
        np.testing.assert_array_equal(found.data, expected.data)


def test_form_of_the_result():
    similarity = jaccard_similarity(people(40, 8, 32, 1.0, seed=0), k1=20, k2=6)
    assert similarity.dtype == np.float32
    assert similarity.has_sorted_indices
    assert (
        np.diff(similarity.indices)[np.diff(np.repeat(np.arange(320), np.diff(similarity.indptr))) == 0] > 0
    ).all()
    assert (similarity.diagonal() == 1).all()
    assert similarity.data.min() > 0
    assert similarity.data.max() == 1
    turned = similarity.T.tocsr()  # bitwise symmetric
    np.testing.assert_array_equal(similarity.indices, turned.indices)
    np.testing.assert_array_equal(similarity.data, turned.data)


def test_permuted_samples_give_the_permuted_matrix():
    features = people(15, 6, 16, 0.8, seed=5)
    order = np.random.default_rng(0).permutation(len(features))
    straight = jaccard_similarity(features, k1=10, k2=4).toarray()
    permuted = jaccard_similarity(features[order], k1=10, k2=4).toarray()
    np.testing.assert_allclose(permuted, straight[np.ix_(order, order)], atol=1e-6)


def test_duplicates_keep_a_diagonal_of_one():
    # More equal rows than places: some samples are not among their own neighbours.
    similarity = jaccard_similarity(np.repeat(np.eye(3), 8, axis=0), k1=4, k2=2)
    assert (similarity.diagonal() == 1).all()
    assert np.isfinite(similarity.data).all()
    dense = similarity.toarray()
    np.testing.assert_array_equal(dense, dense.T)
    groups = np.repeat(np.arange(3), 8)
    assert (dense[groups[:, None] != groups] == 0).all()


def test_blocks_are_picklable_and_do_not_change_the_bits():
    features = people(20, 6, 16, 0.8, seed=6)
    _, neighbors = knn(features, features, 10)

    def elsewhere(function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in items]

    here = jaccard_from_neighbors(features, neighbors, k1=10, k2=4, block_rows=25)
    there = jaccard_from_neighbors(features, neighbors, k1=10, k2=4, block_rows=25, map_blocks=elsewhere)
    one = jaccard_from_neighbors(features, neighbors, k1=10, k2=4, block_rows=1000)
    for other in (there, one):
        np.testing.assert_array_equal(here.indices, other.indices)
        np.testing.assert_array_equal(here.data, other.data)


@pytest.mark.parametrize(("k1", "k2"), [(0, 1), (1, 0), (6, 1), (3, 6)])
def test_neighbourhoods_larger_than_the_set_are_refused(k1, k2):
    with pytest.raises(ValueError, match=r"k must|k1 and k2"):
        jaccard_similarity(np.eye(5), k1=k1, k2=k2)


def test_table_of_another_size_is_refused():
    with pytest.raises(ValueError, match="neighbors must have shape"):
        jaccard_from_neighbors(np.eye(5), np.zeros((4, 2), np.int64), k1=2, k2=1)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_indices_outside_the_set_are_refused(wrong):
    table = np.zeros((5, 2), np.int64)
    table[3, 1] = wrong
    with pytest.raises(ValueError, match=r"neighbors must lie in 0\.\.4"):
        jaccard_from_neighbors(np.eye(5), table, k1=2, k2=1)


def test_products_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="products must have the shape"):
        jaccard_from_neighbors(
            np.eye(5), np.zeros((5, 2), np.int64), np.zeros((5, 3), np.float32), k1=2, k2=1
        )
