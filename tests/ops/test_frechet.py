import numpy as np
import pytest
import scipy.linalg

from raid.ops.frechet import Moments, frechet_distance, moments


def features_of(rows, dim, seed, *, scale=1.0):
    """Correlated features: every direction has a deviation of its own."""
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal((rows, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(
        dim
    )


def distance(one, other):
    return frechet_distance(moments(one), moments(other))


def rotation(dim):
    return np.linalg.qr(np.random.default_rng(9).standard_normal((dim, dim)))[0]


def textbook(one, other):
    """The formula as it is written, with a square root of the product."""
    c1, c2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    difference = one.mean(axis=0) - other.mean(axis=0)
    return difference @ difference + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)


def test_golden_normal_distributions_on_the_axes():
    """Closed form: sum of (m1 - m2)^2 + (s1 - s2)^2."""
    one = Moments(np.array([0.0, 1, 2]), np.diag([1.0, 4, 9]))
    other = Moments(np.array([1.0, 1, 4]), np.diag([4.0, 4, 0]))
    assert frechet_distance(one, other) == pytest.approx((1 + 0 + 4) + (1 + 0 + 9), abs=1e-12)
    rng = np.random.default_rng(0)
    (m1, m2), (s1, s2) = rng.standard_normal((2, 20)), rng.random((2, 20))
    expected = ((m1 - m2) ** 2 + (s1 - s2) ** 2).sum()
    found = frechet_distance(Moments(m1, np.diag(s1**2)), Moments(m2, np.diag(s2**2)))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_textbook(seed):
    one, other = features_of(60, 8, seed), features_of(40, 8, seed + 10)
    assert distance(one, other) == pytest.approx(textbook(one, other), rel=1e-9)


def test_moments_equal_numpys_whatever_the_blocks(monkeypatch):
    features = features_of(50, 6, 0).astype(np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(
        found.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-12
    )
    monkeypatch.setattr("raid.ops.frechet._BLOCK_ROWS", 7)
    np.testing.assert_allclose(moments(features).covariance, found.covariance, rtol=1e-12)


def test_far_from_the_origin_no_digits_are_lost():
    features = np.random.default_rng(0).integers(0, 9, (30, 4)).astype(np.float64)
    far = moments(features + 2.0**30).covariance
    np.testing.assert_allclose(far, moments(features).covariance, rtol=1e-7)


@pytest.mark.parametrize(("rows", "dim"), [(60, 8), (10, 40), (2, 5), (30, 1)])
def test_equal_sets_are_at_zero_and_order_does_not_matter(rows, dim):
    features = features_of(rows, dim, 0)
    size = np.trace(moments(features).covariance)
    assert distance(features, features) <= 1e-12 * size
    assert distance(features, features[::-1]) <= 1e-12 * size
    assert distance(features, 2 * features) > 0.1 * size


def test_rounding_makes_nothing_negative():
    found = [distance(one, one) for one in (features_of(20, 6, seed) for seed in range(50))]
    assert min(found) == 0


@pytest.mark.parametrize("rows", [60, 6])
def test_rotation_and_exchange_change_nothing(rows):
    one, other, turn = features_of(rows, 12, 1), features_of(rows, 12, 2), rotation(12)
    expected = distance(one, other)
    assert distance(one @ turn, other @ turn) == pytest.approx(expected, rel=1e-10)
    assert distance(other, one) == pytest.approx(expected, rel=1e-10)
    assert distance(3 * one, 3 * other) == pytest.approx(9 * expected, rel=1e-10)


def test_translation_adds_its_square():
    one, other = features_of(40, 5, 1), features_of(40, 5, 2)
    other += one.mean(axis=0) - other.mean(axis=0)
    step = np.arange(5.0)
    assert distance(one, other + step) == pytest.approx(distance(one, other) + step @ step, rel=1e-12)


def test_more_dimensions_than_samples():
    """As in the subspace that both sets lie in."""
    one, other = features_of(12, 4, 1), features_of(15, 4, 2)
    basis = rotation(50)[:4]
    assert distance(one @ basis, other @ basis) == pytest.approx(distance(one, other), rel=1e-10)
    left, right = np.zeros((12, 50)), np.zeros((15, 50))  # at right angles: nothing in common
    left[:, :4], right[:, 4:8] = one - one.mean(axis=0), other - other.mean(axis=0)
    traces = np.trace(moments(left).covariance) + np.trace(moments(right).covariance)
    turn = rotation(50)
    assert distance(left @ turn, right @ turn) == pytest.approx(traces, rel=1e-12)


def test_constant_features():
    one, other = np.full((5, 3), 0.1), features_of(20, 3, 0)
    found = moments(other)
    expected = np.square(0.1 - found.mean).sum() + np.trace(found.covariance)
    assert distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert distance(one, one + 2) == pytest.approx(12)
    assert distance(np.zeros((5, 3)), np.zeros((4, 3))) == 0


@pytest.mark.parametrize("features", [np.zeros((1, 3)), np.zeros((0, 3)), np.zeros(4)])
def test_too_little_to_see(features):
    with pytest.raises(ValueError, match="at least two samples"):
        moments(features)


def test_what_does_not_fit():
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            moments(np.array([[0, value], [1, 2]]))
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        frechet_distance(moments(np.eye(3)), moments(np.eye(4)))
