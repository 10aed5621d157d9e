import pickle

import numpy as np
import pytest
import torch

from raid.data.synthetic import features as simulated
from raid.ops import approximate
from raid.ops.approximate import approximate_knn
from raid.ops.neighbors import knn


@pytest.fixture(scope="module")
def features():
    return simulated(0, num_identities=120, images_per_identity=17, dim=64).features


def test_all_lists_probed_is_exact(features):
    similarity, index, recall = approximate_knn(features, 12, seed=0, list_rows=64, num_probes=1000)
    expected = knn(features, features, 12)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_array_equal(similarity, expected[0])
    assert recall == 1


def test_recall_is_that_of_the_table(features):
    _, index, recall = approximate_knn(features, 12, seed=0, list_rows=32, num_probes=8, recall_rows=5000)
    _, exact = knn(features, features, 12)
    held = np.mean([np.isin(row, own).mean() for row, own in zip(exact, index, strict=True)])
    assert recall == pytest.approx(held, abs=1e-9)
    assert 0.6 < recall < 1
    assert (index[:, 0] == np.arange(len(features))).all()
    more = approximate_knn(features, 12, seed=0, list_rows=32, num_probes=24)[2]
    assert recall < more


@pytest.mark.parametrize("threads", [1, 3])
def test_same_for_any_shards_chunks_and_threads(features, threads, monkeypatch):
    def elsewhere(function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in items]

    here = approximate_knn(features, 12, seed=3, list_rows=32, num_probes=8)
    monkeypatch.setattr(approximate, "_CHUNK_ROWS", 300)
    monkeypatch.setattr(approximate, "_TILE_ROWS", 70)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        there = approximate_knn(features, 12, seed=3, list_rows=32, num_probes=8, map_blocks=elsewhere)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1], there[1])
    assert here[2] == there[2]


def test_all_rows_equal():
    _, index, recall = approximate_knn(np.tile([0.6, 0.8], (50, 1)), 4, seed=0, list_rows=5, num_probes=3)
    np.testing.assert_array_equal(index, np.tile(np.arange(4), (50, 1)))
    assert recall == 1


def test_one_row():
    similarity, index, recall = approximate_knn(np.ones((1, 1)), 1, seed=0)
    assert (similarity.item(), index.item(), recall) == (1, 0, 1)


@pytest.mark.parametrize("changed", [{"k": 0}, {"k": 2041}, {"num_probes": 0}, {"list_rows": 0}])
def test_numbers_out_of_range_are_refused(features, changed):
    with pytest.raises(ValueError, match="must be"):
        approximate_knn(features, **({"k": 3, "seed": 0} | changed))


def test_too_few_candidates_are_refused(features):
    with pytest.raises(ValueError, match="fewer than k"):
        approximate_knn(features, 200, seed=0, list_rows=16, num_probes=1)
