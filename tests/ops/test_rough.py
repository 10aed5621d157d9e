import numpy as np
import pytest
import torch

from raid.data.synthetic import features as simulated
from raid.ops import neighbors, rough
from raid.ops.neighbors import knn_and_least
from raid.ops.rough import fast_nearest


@pytest.fixture(autouse=True)
def small_and_rough(monkeypatch):
    """The rough way on sets of any size and on any processor: torch knows bfloat16 everywhere."""
    monkeypatch.setattr(rough, "_FROM_ROWS", 1)
    monkeypatch.setattr(rough, "_BLOCK_ROWS", 70)
    monkeypatch.setattr(rough, "is_fast", lambda: True)
    monkeypatch.setattr(rough, "_SEARCH_ROWS", 200)
    monkeypatch.setattr(neighbors, "_TILE_COLUMNS", 150)


@pytest.fixture
def searched(monkeypatch):
    """How many rows were searched the long way."""
    counts = []
    plain = rough._search_exactly

    def counted(rows, *arguments):
        counts.append(len(rows))
        plain(rows, *arguments)

    monkeypatch.setattr(rough, "_search_exactly", counted)
    return counts


def check(found, features, k):
    products = features.astype(np.float64) @ features.astype(np.float64).T
    index = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.similarity, np.take_along_axis(products, index, axis=1), atol=1e-6)
    np.testing.assert_allclose(found.least, products.min(axis=1), atol=1e-6)


def test_simulated_features_are_proven(searched):
    people = simulated(0, num_identities=60, images_per_identity=15, dim=200).features
    check(fast_nearest(people, 12), people, 12)
    assert searched[0] < 45  # of 900


@pytest.mark.parametrize("values", [1, 2, 4])  # all rows equal, more equal ones than candidates, some
def test_ties_are_in_the_order_of_the_index(values, searched):
    features = (np.random.default_rng(0).integers(0, values, (450, 6)) / 2).astype(np.float32)
    check(fast_nearest(features, 7), features, 7)
    assert searched[0] > 0  # what cannot be proven is not believed


def test_values_that_bfloat16_cannot_tell_apart(searched):
    base = np.random.default_rng(1).standard_normal(64)
    noise = np.random.default_rng(2).standard_normal((300, 64))
    features = (base + 1e-4 * noise).astype(np.float32)
    exact = knn_and_least(features, 5)
    found = fast_nearest(features, 5)
    np.testing.assert_allclose(found.similarity, exact.similarity, rtol=1e-6)
    np.testing.assert_allclose(found.least, exact.least, rtol=1e-6)
    assert searched == [300]


def test_any_threads_and_shards_give_the_same_bytes():
    people = simulated(1, num_identities=40, images_per_identity=12, dim=64).features

    def backwards(function, items):
        results = {item: function(item) for item in reversed(list(items))}
        return [results[item] for item in sorted(results)]

    def outcome(**options):
        found = fast_nearest(people, 9, **options)
        return found.index.tobytes() + found.similarity.tobytes() + found.least.tobytes()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome()
        torch.set_num_threads(3)
        assert outcome() == outcome(map_blocks=backwards) == alone
    finally:
        torch.set_num_threads(before)


def test_read_only_features():
    people = simulated(2, num_identities=20, images_per_identity=12, dim=64).features
    people.flags.writeable = False
    check(fast_nearest(people, 5), people, 5)


def test_elsewhere_it_is_the_plain_search(monkeypatch):
    monkeypatch.setattr(rough, "is_fast", lambda: False)
    people = simulated(3, num_identities=20, images_per_identity=12, dim=64).features
    np.testing.assert_array_equal(fast_nearest(people, 5).similarity, knn_and_least(people, 5).similarity)
