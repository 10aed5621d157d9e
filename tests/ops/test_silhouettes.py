import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.decomposition import PCA

from raid.ops.kmeans import kmeans
from raid.ops.silhouettes import SilhouetteRow, principal_plane, silhouette_table, silhouettes


def groups(rows=120, dim=16, num_groups=6, seed=0, *, spread=0.5, offset=0.0):
    """Features around the means of a few groups, and the groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, num_groups, rows)
    means = rng.standard_normal((num_groups, dim))
    return (means[group] + spread * rng.standard_normal((rows, dim)) + offset).astype(np.float32), group


def plain_silhouette(features, labels):
    """Sample by sample, cluster by cluster."""
    features, scores = features.astype(np.float64), []
    for i, label in enumerate(labels):
        if label == -1:
            continue
        means = {}
        for other in set(labels.tolist()) - {-1}:
            rows = [j for j in range(len(labels)) if labels[j] == other and j != i]
            if rows:
                means[other] = np.mean([np.sqrt(np.square(features[i] - features[j]).sum()) for j in rows])
        if label not in means:
            scores.append(0.0)
            continue
        a, b = means.pop(label), min(means.values())
        scores.append((b - a) / max(a, b))
    return np.mean(scores)


def sklearn_silhouette(features, labels):
    kept = labels != -1
    return metrics.silhouette_score(features[kept].astype(np.float64), labels[kept])


@pytest.mark.parametrize("block_rows", [512, 7])
@pytest.mark.parametrize("dim", [2, 16, 1500])
def test_equals_sklearn(dim, block_rows, monkeypatch):
    monkeypatch.setattr("raid.ops.silhouettes._BLOCK_ROWS", block_rows)
    features, group = groups(dim=dim)
    rng = np.random.default_rng(1)
    labelings = [group, rng.integers(0, 2, 120), rng.integers(-1, 9, 120), 7 * rng.integers(3, 60, 120)]
    expected = [sklearn_silhouette(features, labels) for labels in labelings]
    assert silhouettes(features, labelings) == pytest.approx(expected, abs=1e-6)


def test_equals_the_plain_one_with_singletons_and_noise():
    features, _ = groups(rows=30)
    labels = np.random.default_rng(1).integers(-1, 4, 30)
    labels[[3, 8]] = [10, 11]
    assert silhouettes(features, [labels]) == pytest.approx([plain_silhouette(features, labels)], abs=1e-6)


def test_order_names_translation_and_scale_do_not_matter():
    features, group = groups()
    expected, order = silhouettes(features, [group])[0], np.random.default_rng(1).permutation(120)
    for points, labels in (
        (features[order], group[order]),
        (features, 100 - group),
        (features + 64, group),
        (3 * features, group),
    ):
        assert silhouettes(points, [labels])[0] == pytest.approx(expected, abs=1e-6)


def test_far_from_the_origin_it_stays_exact():
    features, group = groups(spread=0.1, offset=500)
    assert silhouettes(features, [group])[0] == pytest.approx(sklearn_silhouette(features, group), abs=1e-5)


def test_duplicates_are_at_no_distance():
    features, _ = groups(rows=9, dim=1500)
    assert silhouettes(np.tile(features, (4, 1)), [np.tile(np.arange(9), 4)]) == [1]
    assert silhouettes(np.ones((6, 3)), [np.arange(6) % 2]) == [0]


@pytest.mark.parametrize(
    "labels", [np.zeros(5, int), np.full(5, -1), np.array([-1, 3, 3, 3, -1]), np.arange(5)]
)
def test_nothing_to_compare_is_zero(labels):
    assert silhouettes(np.eye(5), [labels]) == [0]


def test_no_labelings():
    assert silhouettes(np.eye(5), []) == []


def test_the_same_bits_for_any_number_of_threads():
    features, group = groups(rows=600, dim=40)
    before, found = torch.get_num_threads(), set()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.add(silhouettes(features, [group])[0])
    torch.set_num_threads(before)
    assert len(found) == 1


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"labels \(5,\)"):
        silhouettes(np.eye(5), [np.zeros(5, int), np.zeros(4, int)])
    for broken in (np.full((5, 2), np.nan), np.full((5, 2), np.inf)):
        for figure in (lambda points: silhouettes(points, [np.arange(5) % 2]), principal_plane):
            with pytest.raises(ValueError, match="finite"):
                figure(broken)
    for few in (np.zeros((5, 1)), np.zeros((1, 5)), np.zeros(5)):
        with pytest.raises(ValueError, match="at least"):
            principal_plane(few)


@pytest.mark.parametrize(("rows", "dim"), [(120, 16), (20, 50), (700, 2)])
def test_plane_equals_sklearns_up_to_signs(rows, dim):
    features, _ = groups(rows, dim, offset=3)
    found, expected = principal_plane(features), PCA(2).fit_transform(features.astype(np.float64))
    assert found.shape == (rows, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert found[:, 0].var() > found[:, 1].var()


def test_the_signs_of_the_plane_are_settled():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((50, 4)) * [1, 5, 0.1, 3]
    plane = principal_plane(features)
    assert np.corrcoef(plane[:, 0], features[:, 1])[0, 1] > 0.9
    assert np.corrcoef(plane[:, 1], features[:, 3])[0, 1] > 0.9
    np.testing.assert_allclose(principal_plane(-features), -plane, atol=1e-5)


def test_table():
    features, _ = groups(num_groups=3, spread=0.2)
    table = silhouette_table(features, [2, 3, 5], seed=4, restarts=3)
    assert [row.num_clusters for row in table] == [2, 3, 5]
    plane = principal_plane(features)
    for row in table:
        for points, found in ((features, row.features), (plane, row.plane)):
            labels = kmeans(points, num_clusters=row.num_clusters, seed=4, restarts=3).labels
            assert found == pytest.approx(sklearn_silhouette(points, labels), abs=1e-6)
    assert max(table, key=lambda row: row.features).num_clusters == 3
    assert table == silhouette_table(features, [2, 3, 5], seed=4, restarts=3)


def test_table_of_one_cluster():
    assert silhouette_table(np.eye(4), [1], seed=0, restarts=1) == [SilhouetteRow(1, 0.0, 0.0)]
    with pytest.raises(ValueError, match="num_clusters"):
        silhouette_table(np.eye(4), [5], seed=0, restarts=1)
