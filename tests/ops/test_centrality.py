import numpy as np
import pytest

from raid.ops.centrality import harmonic_centrality, information_nodes
from raid.ops.neighbors import knn


def unit_rows(count, dim, seed):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.standard_normal((count // 5, dim)), 5, axis=0) + 0.5 * rng.standard_normal(
        (count, dim)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reference(features, k, cutoff, include_self):
    distance = np.maximum(1 - features.astype(np.float64) @ features.astype(np.float64).T, 0)
    np.fill_diagonal(distance, 0)
    lists = []
    for i, row in enumerate(distance):
        others = sorted((j for j in range(len(row)) if j != i), key=lambda j: (row[j], j))
        lists.append([row[j] for j in others[: k - 1 if include_self else k]])
    total, places = sum(map(sum, lists)), sum(len(r) + include_self for r in lists)
    mean = total / places
    return np.array([sum(1 / (d + mean) for d in row if cutoff is None or d <= cutoff) for row in lists])


def test_by_hand():
    # cos of neighbours: 0-1 .8, 1-2 .6, 0-2 0; k=2 with self: one real neighbour each, distances .2 .2 .4.
    features = np.array([[1, 0], [0.8, 0.6], [0, 1]])
    mean = 0.8 / 6
    expected = [1 / (0.2 + mean), 1 / (0.2 + mean), 1 / (0.4 + mean)]
    np.testing.assert_allclose(harmonic_centrality(features, num_neighbors=2), expected, rtol=1e-6)
    cut = harmonic_centrality(features, num_neighbors=2, cutoff=0.3)
    np.testing.assert_allclose(cut, [*expected[:2], 0], rtol=1e-6)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("cutoff", [None, 0.5, 0.1])
@pytest.mark.parametrize("k", [1, 4, 15, 40, 100])
def test_equals_the_slow_reference(k, cutoff, include_self):
    features = unit_rows(40, 12, seed=k)
    scores = harmonic_centrality(features, num_neighbors=k, cutoff=cutoff, include_self=include_self)
    if k == 1 and include_self:  # the sample alone: no neighbour, no distance
        np.testing.assert_array_equal(scores, 0)
        return
    np.testing.assert_allclose(scores, reference(features, k, cutoff, include_self), rtol=1e-5)


@pytest.mark.parametrize("include_self", [True, False])
def test_table_of_the_clustering_step_gives_the_same(include_self):
    features = unit_rows(60, 12, seed=4)
    expected = harmonic_centrality(features, include_self=include_self)
    found = harmonic_centrality(features, include_self=include_self, neighbors=knn(features, features, 30))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="neighbors: the tables must be"):
        harmonic_centrality(features, neighbors=knn(features, features, 5))


def test_self_counts_in_the_mean_only_if_included():
    features = unit_rows(40, 12, seed=1)
    with_self = harmonic_centrality(features, num_neighbors=9, cutoff=None)
    without = harmonic_centrality(features, num_neighbors=8, cutoff=None, include_self=False)
    assert (with_self > without).all()  # the same 8 neighbours, but a smaller mean


def test_permuted_samples_give_permuted_scores():
    features = unit_rows(60, 12, seed=2)
    order = np.random.default_rng(0).permutation(60)
    scores = harmonic_centrality(features)
    np.testing.assert_allclose(harmonic_centrality(features[order]), scores[order], rtol=1e-5)


def test_duplicates_score_alike():
    features = np.concatenate([np.repeat(np.eye(4)[:1], 20, axis=0), unit_rows(10, 4, seed=3)])
    scores = harmonic_centrality(features, num_neighbors=6)
    np.testing.assert_array_equal(scores[:20], scores[0])
    assert information_nodes(scores)[:20].all()


@pytest.mark.parametrize("include_self", [True, False])
def test_identical_samples_are_finite_and_none_stands_out(include_self):
    scores = harmonic_centrality(np.tile([0.6, 0.8], (7, 1)), num_neighbors=3, include_self=include_self)
    assert np.isfinite(scores).all()
    assert not information_nodes(scores).any()


def test_tiny_sets():
    assert harmonic_centrality(np.empty((0, 3))).shape == (0,)
    for include_self in (True, False):
        np.testing.assert_array_equal(harmonic_centrality(np.eye(3)[:1], include_self=include_self), [0])
    with pytest.raises(ValueError, match="num_neighbors"):
        harmonic_centrality(np.eye(3), num_neighbors=0)


def test_information_nodes_are_above_the_mean_of_all():
    np.testing.assert_array_equal(information_nodes(np.array([1.0, 2, 3, 6])), [False, False, False, True])
    assert not information_nodes(np.full(3, 0.1)).any()
    assert information_nodes(np.empty(0)).shape == (0,)
