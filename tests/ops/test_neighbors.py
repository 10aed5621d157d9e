import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from raid.ops.neighbors import knn, row_blocks


def unit(rng, *shape):
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(queries, gallery, k):
    similarity = queries @ gallery.T
    index = np.array([sorted(range(len(gallery)), key=lambda j: (-row[j], j))[:k] for row in similarity])
    return np.take_along_axis(similarity, index, axis=1), index


@pytest.mark.parametrize("k", [1, 7, 60])
def test_equals_a_full_sort(k):
    rng = np.random.default_rng(0)
    queries, gallery = unit(rng, 41, 8), unit(rng, 60, 8)
    similarity, index = knn(queries, gallery, k, block_rows=16)
    expected, expected_index = reference(queries, gallery, k)
    assert similarity.dtype == np.float32
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(similarity, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 11, 29, 30])
def test_ties_go_to_the_lower_index(k):
    # Small integers: every product is exact, so ties are many, inside the k places and across the k-th.
    rng = np.random.default_rng(1)
    gallery = rng.integers(-1, 2, (30, 3)).astype(np.float32)
    similarity, index = knn(gallery, gallery, k, block_rows=7)
    expected, expected_index = reference(gallery, gallery, k)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_array_equal(similarity, expected)


def test_identical_rows_list_the_lowest_indices():
    similarity, index = knn(np.ones((9, 4)), np.ones((9, 4)), 4)
    np.testing.assert_array_equal(index, np.tile(np.arange(4), (9, 1)))
    np.testing.assert_array_equal(similarity, np.full((9, 4), 4.0, np.float32))


@pytest.mark.parametrize("block_rows", [4, 100, 1024])
def test_among_themselves_equals_float64(block_rows):
    features = unit(np.random.default_rng(4), 333, 40)
    similarity, index = knn(features, features, 10, block_rows=block_rows)
    exact = features.astype(np.float64) @ features.astype(np.float64).T
    kth = -np.sort(-exact, axis=1)[:, 9:10]
    chosen = np.zeros(exact.shape, bool)
    np.put_along_axis(chosen, index, True, axis=1)
    assert (chosen.sum(axis=1) == 10).all()
    assert chosen[exact > kth + 1e-6].all()
    assert not chosen[exact < kth - 1e-6].any()
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, index, axis=1), rtol=0, atol=1e-6)
    apart = knn(features, features.copy(), 10, block_rows=block_rows)  # each pair multiplied twice
    np.testing.assert_array_equal(similarity, apart[0])
    np.testing.assert_array_equal(index, apart[1])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dim", [3, 2048])
def test_exact_duplicates_tie_wherever_they_stand(threads, dim):
    rng = np.random.default_rng(5)
    kinds = unit(rng, 7, dim)
    labels = rng.integers(0, 7, 203)
    features = kinds[labels]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        similarity, index = knn(features, features, 40, block_rows=32)
    finally:
        torch.set_num_threads(before)
    for row in range(len(features)):
        alike = np.flatnonzero(labels == labels[row])[:40]
        np.testing.assert_array_equal(index[row, : len(alike)], alike)
    first = np.unique(labels, return_index=True)[1]
    np.testing.assert_array_equal(index, index[first][labels])
    np.testing.assert_array_equal(similarity, similarity[first][labels])


def test_other_layouts_and_types_give_the_same():
    features = unit(np.random.default_rng(6), 90, 12)
    expected = knn(features, features, 7)
    wide = np.zeros((90, 24))
    wide[:, ::2] = features
    for other in (np.asfortranarray(features), features.astype(np.float64), wide[:, ::2]):
        for found, value in zip(knn(other, other, 7), expected, strict=True):
            np.testing.assert_array_equal(found, value)


def test_one_row():
    similarity, index = knn(np.ones((1, 1)), np.ones((1, 1)), 1)
    assert (similarity.item(), index.item()) == (1, 0)


def test_features_that_are_not_finite_are_refused():
    features = np.eye(4)
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        knn(features, features, 2)


def test_permuted_gallery_gives_the_same_neighbours():
    rng = np.random.default_rng(2)
    queries, gallery = unit(rng, 20, 8), unit(rng, 50, 8)
    order = rng.permutation(50)
    _, index = knn(queries, gallery, 5)
    _, permuted = knn(queries, gallery[order], 5)
    np.testing.assert_array_equal(order[permuted], index)


def test_blocks_are_picklable_and_may_run_anywhere():
    rng = np.random.default_rng(3)
    features = unit(rng, 50, 8)
    features.setflags(write=False)  # as from a shared store

    def elsewhere(function, items):
        copy = pickle.loads(pickle.dumps(function))
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(copy, list(items)))

    here = knn(features, features, 6, block_rows=8)
    there = knn(features, features, 6, block_rows=8, map_blocks=elsewhere)
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1], there[1])
    np.testing.assert_array_equal(here[1][:, 0], np.arange(50))


@pytest.mark.filterwarnings("error")
def test_read_only_input_does_not_warn():
    features = np.eye(3, dtype=np.float32)
    features.setflags(write=False)
    knn(features, features, 2)


def test_no_queries():
    similarity, index = knn(np.empty((0, 3)), np.eye(3), 2)
    assert similarity.shape == index.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "gallery", "k"),
    [
        (np.eye(3), np.eye(3), 4),
        (np.eye(3), np.eye(3), 0),
        (np.eye(3), np.eye(4), 1),
        (np.ones(3), np.eye(3), 1),
    ],
)
def test_bad_arguments(queries, gallery, k):
    with pytest.raises(ValueError, match=r"k must|dimensions|shape"):
        knn(queries, gallery, k)


def test_row_blocks():
    assert row_blocks(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert row_blocks(0, 3) == []
    with pytest.raises(ValueError, match="block_rows"):
        row_blocks(7, 0)
