import numpy as np
import pytest
import torch

from raid.ops import neighbors, top_k
from raid.ops.neighbors import knn, knn_and_least


def reference(features, k):
    products = features @ features.T  # exact: the values below are small whole numbers over a power of two
    index = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(products, index, axis=1), products.min(axis=1)


def few_values(seed, num_rows, dim=5, values=3):
    return (np.random.default_rng(seed).integers(0, values, (num_rows, dim)) / 2).astype(np.float32)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(neighbors, "_TILE_COLUMNS", 30)  # blocks of 50 rows are 30 and 20 columns
    monkeypatch.setattr(top_k, "_CHUNK_ROWS", 20)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("num_rows", [1, 2, 49, 50, 51, 330])
@pytest.mark.parametrize("values", [1, 2, 9])  # all rows equal, many ties, some
@pytest.mark.parametrize("k", [1, 6, 400])
def test_equals_a_stable_sort(num_rows, values, k):
    features, k = few_values(num_rows, num_rows, values=values), min(k, num_rows)
    found = knn_and_least(features, k, block_rows=50)
    for got, expected in zip(
        (found.index, found.similarity, found.least), reference(features, k), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    assert (found.index.dtype, found.similarity.dtype, found.least.dtype) == (
        np.int32,
        np.float32,
        np.float32,
    )


def test_default_blocks_on_real_numbers():
    features = np.random.default_rng(0).standard_normal((2500, 8)).astype(np.float32)
    products = features.astype(np.float64) @ features.T.astype(np.float64)
    found = knn_and_least(features, 30)
    np.testing.assert_allclose(found.similarity, -np.sort(-products, axis=1)[:, :30], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(products, found.index, axis=1), found.similarity, rtol=1e-5)
    np.testing.assert_allclose(found.least, products.min(axis=1), rtol=1e-5)


def test_finds_the_neighbours_of_knn():
    features = np.random.default_rng(2).standard_normal((700, 40)).astype(np.float32)
    similarity, index = knn(features, features, 12)
    found = knn_and_least(features, 12, block_rows=256)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_array_equal(found.similarity, similarity)


@pytest.mark.usefixtures("small_chunks")
def test_any_threads_and_shards_give_the_same_bytes():
    features = few_values(1, 300)

    def backwards(function, items):
        results = {item: function(item) for item in reversed(list(items))}
        return [results[item] for item in sorted(results)]

    def outcome(**options):
        found = knn_and_least(features, 10, block_rows=50, **options)
        return found.index.tobytes() + found.similarity.tobytes() + found.least.tobytes()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome()
        torch.set_num_threads(3)
        assert outcome() == outcome(map_blocks=backwards) == alone
    finally:
        torch.set_num_threads(before)
