import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans
from threadpoolctl import threadpool_limits

from raid.data import synthetic
from raid.ops.kmeans import _fill_empty, _orthonormal, kmeans
from raid.ops.quality import ari


def inertia_of(features, labels):
    features = features.astype(np.float64)
    return sum(
        np.square(features[labels == label] - features[labels == label].mean(0)).sum()
        for label in np.unique(labels)
    )


def check(features, result, num_clusters):
    """What holds of any result: numbering, means, inertia, and no sample nearer to another centroid."""
    labels = result.labels
    assert labels.dtype == np.int64
    assert result.centroids.shape == (num_clusters, features.shape[1])
    assert result.centroids.dtype == np.float32
    _, first = np.unique(labels, return_index=True)
    assert len(first) == num_clusters
    assert (np.diff(first) > 0).all()
    means = np.stack([features[labels == k].astype(np.float64).mean(0) for k in range(num_clusters)])
    np.testing.assert_allclose(result.centroids, means, atol=1e-6)
    assert result.inertia == pytest.approx(inertia_of(features, labels), rel=1e-9, abs=1e-9)
    distances = np.square(features[:, None].astype(np.float64) - means).sum(2)
    assert (distances[np.arange(len(labels)), labels] <= distances.min(1) + 1e-6).all()


def blobs(seed, groups=6, each=30, dim=5, spread=0.2):
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.repeat(np.arange(groups), each))
    features = rng.standard_normal((groups, dim))[identities] + spread * rng.standard_normal(
        (len(identities), dim)
    )
    return features.astype(np.float32), identities


@pytest.mark.parametrize("dim", [5, 300])  # 300 goes through the projection
def test_finds_clear_clusters(dim):
    features, identities = blobs(0, dim=dim)
    result = kmeans(features, num_clusters=6, seed=0, restarts=5)
    check(features, result, 6)
    assert ari(identities, result.labels) == 1


@pytest.mark.parametrize(("num_clusters", "dim"), [(3, 300), (25, 300), (25, 20)])
def test_is_as_good_as_sklearn(num_clusters, dim):
    features = synthetic.features(1, num_identities=40, dim=dim).features
    result = kmeans(features, num_clusters=num_clusters, seed=0, restarts=10)
    check(features, result, num_clusters)
    with threadpool_limits(1):
        best = SklearnKMeans(num_clusters, n_init=10, random_state=0).fit(features).inertia_
    assert result.inertia <= best * (1.001 if num_clusters == 3 else 1.01)


def test_a_step_is_lloyds():
    """From the same clusters, the plain algorithm goes no further."""
    features, _ = blobs(4, spread=1.0)
    result = kmeans(features, num_clusters=7, seed=3, restarts=1)
    plain = SklearnKMeans(7, init=result.centroids, n_init=1, tol=0).fit(features)
    np.testing.assert_array_equal(plain.labels_, result.labels)


def test_more_restarts_are_no_worse():
    features, _ = blobs(5, groups=20, each=8, spread=0.6)
    inertias = [kmeans(features, num_clusters=20, seed=1, restarts=r).inertia for r in (1, 3, 10)]
    assert inertias == sorted(inertias, reverse=True)


def test_the_same_bytes_for_any_number_of_threads():
    features = synthetic.features(2, num_identities=130, dim=600).features
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(kmeans(features, num_clusters=5, seed=0, restarts=2))
    torch.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other.labels, found[0].labels)
        np.testing.assert_array_equal(other.centroids, found[0].centroids)
        assert other.inertia == found[0].inertia


def test_permuted_samples_give_the_same_clear_clusters():
    features, _ = blobs(7)
    order = np.random.default_rng(0).permutation(len(features))
    straight = kmeans(features, num_clusters=6, seed=0, restarts=5).labels
    permuted = kmeans(features[order], num_clusters=6, seed=0, restarts=5).labels
    assert ari(straight[order], permuted) == 1


@pytest.mark.parametrize("dim", [4, 150])
def test_as_many_clusters_as_samples_and_one(dim):
    features, _ = blobs(8, each=4, dim=dim)
    every = kmeans(features, num_clusters=24, seed=0, restarts=2)
    check(features, every, 24)
    assert every.inertia == 0
    one = kmeans(features, num_clusters=1, seed=0, restarts=2)
    check(features, one, 1)
    single = kmeans(features[:1], num_clusters=1, seed=0, restarts=1)
    assert (list(single.labels), single.inertia) == ([0], 0)


@pytest.mark.parametrize("dim", [4, 150])
def test_duplicates_and_all_equal_rows(dim):
    features, identities = blobs(9, groups=4, each=5, dim=dim, spread=0)
    result = kmeans(features, num_clusters=4, seed=0, restarts=3)
    assert ari(identities, result.labels) == 1
    for num_clusters in (7, 20):  # more clusters than there are different rows: none is empty
        check(features, kmeans(features, num_clusters=num_clusters, seed=0, restarts=3), num_clusters)
    equal = kmeans(np.ones((9, dim), np.float32), num_clusters=3, seed=0, restarts=2)
    assert sorted(np.bincount(equal.labels)) == [1, 1, 7]
    assert equal.inertia == 0


def test_an_empty_cluster_takes_the_farthest_sample():
    features = np.array([[1.0], [9.0], [5.0], [9.0]], np.float32)
    labels = np.zeros((4, 1), np.int32)
    to_origin = np.zeros((4, 1), np.float32)  # half the squared distance, less |x|^2 / 2
    _fill_empty(labels, to_origin, 3, features)
    np.testing.assert_array_equal(labels[:, 0], [0, 1, 0, 2])


def test_features_are_only_read():
    features, _ = blobs(3, dim=200)
    features.flags.writeable = False
    kmeans(features, num_clusters=3, seed=0, restarts=2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_clusters": 0},
        {"num_clusters": 181},
        {"restarts": 0},
        {"seed": -1},
    ],
)
def test_arguments_out_of_range(arguments):
    features, _ = blobs(0)
    with pytest.raises(ValueError, match="must be"):
        kmeans(features, **({"num_clusters": 3, "seed": 0, "restarts": 1} | arguments))


@pytest.mark.parametrize("dim", [3, 200])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unusable_features(value, dim):
    features, _ = blobs(0, dim=dim)
    features[7, 1] = value
    with pytest.raises(ValueError, match="features must be finite"):
        kmeans(features, num_clusters=3, seed=0, restarts=1)
    with pytest.raises(ValueError, match="num_clusters must be 1 to 0"):
        kmeans(features[:0], num_clusters=1, seed=0, restarts=1)
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        kmeans(features[0], num_clusters=1, seed=0, restarts=1)


def test_orthonormal_basis():
    rows = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    rows[3] = rows[1] - 2 * rows[2]
    basis = _orthonormal(rows)
    expected = np.eye(6)
    expected[3, 3] = 0
    np.testing.assert_allclose(basis @ basis.T, expected, atol=1e-6)
    np.testing.assert_allclose(rows @ basis.T @ basis, rows, atol=1e-5)
