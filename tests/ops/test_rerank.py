import pickle

import numpy as np
import pytest
import torch
from benchmarks.dense_reference import rerank_dense

from raid.data.synthetic import features as simulated
from raid.ops import rerank as module
from raid.ops.neighbors import knn_and_least
from raid.ops.ranking import rank, rank_blocks
from raid.ops.rerank import rerank


def problem(seed, queries=60, gallery=300):
    people = simulated(seed, num_identities=24, images_per_identity=15, dim=32).features
    return people[:queries], people[queries : queries + gallery]


def whole(*arguments, **options):
    return np.concatenate(list(rerank(*arguments, **options)))


@pytest.mark.parametrize(
    ("k1", "k2", "weight"),
    [(20, 6, 0.3), (20, 1, 0.0), (5, 3, 1.0), (6, 30, 0.5), (7, 2, 0.3), (1, 1, 0.3), (90, 6, 0.3)],
)
def test_equals_the_dense_reference_given_the_same_neighbours(k1, k2, weight):
    query, gallery = problem(k1)
    options = {"k1": k1, "k2": k2, "weight": weight}
    table = knn_and_least(np.concatenate([query, gallery]), max(k1 + 1, k2))
    expected = rerank_dense(query, gallery, rank=table.index.astype(np.int64), **options)
    distances = whole(query, gallery, **options, block_rows=25)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(distances < 1 - weight, expected < 1 - weight)


def test_equals_the_dense_reference_with_neighbours_of_its_own():
    query, gallery = problem(0)
    expected = rerank_dense(query, gallery)
    np.testing.assert_allclose(whole(query, gallery), expected, rtol=0, atol=1e-6)


def test_ties_and_duplicates_equal_the_dense_reference():
    rng = np.random.default_rng(0)
    corners = (rng.integers(0, 2, (200, 4)) - 0.5).astype(np.float32)  # unit rows, products exact
    table = knn_and_least(corners, 21)
    expected = rerank_dense(corners[:50], corners[50:], rank=table.index.astype(np.int64))
    np.testing.assert_allclose(whole(corners[:50], corners[50:]), expected, rtol=0, atol=1e-6)


def test_by_hand():
    """Two people, seen from afar: 1 - weight where nothing is shared, and no distance to a twin."""
    query = np.array([[1, 0], [0, 1]], np.float32)
    distances = whole(query, query, k1=1, k2=1)
    np.testing.assert_allclose(distances, [[0, 1], [1, 0]], atol=1e-7)


def test_it_helps():
    people = simulated(1, num_identities=40, images_per_identity=15, dim=64, noise=0.7)
    query, gallery = np.arange(100), np.arange(100, 600)
    labels = [values[side] for side in (query, gallery) for values in (people.identities, people.cameras)]
    plain = rank(people.features[query], *labels[:2], people.features[gallery], *labels[2:])
    better = rank_blocks(rerank(people.features[query], people.features[gallery], k1=10), *labels)
    assert better.mAP > plain.mAP + 0.02


def test_order_of_the_rows_does_not_matter():
    query, gallery = problem(2)
    rng = np.random.default_rng(0)
    queries, items = rng.permutation(len(query)), rng.permutation(len(gallery))
    expected = whole(query, gallery)[queries][:, items]
    np.testing.assert_allclose(whole(query[queries], gallery[items]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("equal", [True, False])
def test_any_threads_and_shards_give_the_same_bytes(equal):
    rng = np.random.default_rng(1)
    corners = (rng.integers(0, 2, (400, 4)) - 0.5).astype(np.float32)
    if equal:
        corners[:] = corners[0]

    def elsewhere(function, items):
        results = {item: pickle.loads(pickle.dumps(function))(item) for item in reversed(list(items))}
        return [results[item] for item in sorted(results)]

    def outcome(**options):
        return whole(corners[:150], corners[150:], block_rows=40, **options).tobytes()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome()
        torch.set_num_threads(3)
        assert outcome() == outcome(map_blocks=elsewhere) == alone
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("queries", "gallery"), [(1, 1), (1, 4), (5, 1), (3, 8)])
def test_fewer_rows_than_neighbours(queries, gallery):
    rows = np.random.default_rng(3).standard_normal((queries + gallery, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query, gallery_rows = rows[:queries], rows[queries:]
    expected = rerank_dense(query, gallery_rows)
    np.testing.assert_allclose(whole(query, gallery_rows), expected, rtol=0, atol=1e-6)


def test_alike_rows_are_at_no_original_distance():
    rows = np.full((30, 7), 1 / 7**0.5, np.float32)  # products that are not exactly 1
    assert (whole(rows[:10], rows[10:], weight=1.0) == 0).all()


def test_nothing_to_rerank():
    none, some = np.empty((0, 4), np.float32), np.eye(4, dtype=np.float32)
    assert list(rerank(none, some)) == list(rerank(none, none)) == []
    assert [block.shape for block in rerank(some, none, block_rows=3)] == [(3, 0), (1, 0)]


def test_blocks_come_one_after_the_other(monkeypatch):
    monkeypatch.setattr(module, "_IN_FLIGHT", 2)
    query, gallery = problem(4)
    sizes = []

    def eager(function, items):
        items = list(items)
        sizes.append(len(items))
        return [function(item) for item in items]

    blocks = rerank(query, gallery, block_rows=10, map_blocks=eager)
    assert next(blocks).shape == (10, 300)
    assert sizes == [1, 1, 1, 2]  # the search, V, its expansion, the first blocks
    assert len(list(blocks)) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"k1": 0},
        {"k2": 0},
        {"weight": -0.1},
        {"weight": 1.1},
        {"block_rows": 0},
        {"query_features": np.zeros((3, 4))},
        {"query_features": np.zeros(32)},
        {"gallery_features": np.full((3, 32), np.nan)},
    ],
)
def test_bad_arguments_are_refused_at_once(change):
    query, gallery = problem(0)
    with pytest.raises(ValueError, match=r"must|dimensions|finite"):
        rerank(**{"query_features": query, "gallery_features": gallery, **change})
