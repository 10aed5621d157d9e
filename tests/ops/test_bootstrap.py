import math

import numpy as np
import pytest

from raid.ops import bootstrap
from raid.ops.bootstrap import Spread, interval, paired_spread, resampled_means, unpaired_spread


def slow_interval(values: list[float], draws: int, seed: int) -> tuple[float, float]:
    """The percentile bootstrap as it is told: draw, average, sort, cut."""
    random, ordered = np.random.default_rng(seed), sorted(values)
    means = []
    for _ in range(draws):
        drawn = [ordered[i] for i in random.integers(0, len(ordered), len(ordered)).tolist()]
        means.append(math.fsum(drawn) / len(drawn))
    means.sort()
    ends = []
    for share in (0.025, 0.975):
        place = share * (draws - 1)
        below = int(place)
        above = min(below + 1, draws - 1)
        ends.append(means[below] + (place - below) * (means[above] - means[below]))
    return ends[0], ends[1]


@pytest.mark.parametrize("block", [1, 50, 2**20])
def test_equals_the_slow_reference(monkeypatch, block):
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", block)
    values = np.random.default_rng(3).normal(0.1, 1.0, 23)
    (means,) = resampled_means(values[None], draws=400, seed=5)
    assert interval(means) == pytest.approx(slow_interval(values.tolist(), 400, 5), abs=1e-12)


def test_golden_values():
    values = np.arange(10.0)[None] / 10
    (means,) = resampled_means(values, draws=2000, seed=0)
    # The mean is 0.45, the error of the mean over ten queries sqrt(0.0825 / 10) = 0.0908.
    assert means.mean() == pytest.approx(0.45, abs=0.01)
    assert means.std() == pytest.approx(0.0908, abs=0.004)
    assert interval(means) == pytest.approx((0.28, 0.63), abs=0.011)
    assert interval(means, level=0.5) == pytest.approx((0.45 - 0.0613, 0.45 + 0.0613), abs=0.011)


def test_all_equal_queries_have_an_interval_of_no_width():
    (means,) = resampled_means(np.full((1, 7), 0.25), draws=50)
    assert interval(means) == (0.25, 0.25)


def test_the_order_of_the_queries_does_not_matter():
    random = np.random.default_rng(1)
    values = random.integers(0, 3, (3, 40)) / 2  # many equal ones
    shuffled = values[:, random.permutation(40)]
    np.testing.assert_array_equal(
        resampled_means(values, draws=100, seed=2), resampled_means(shuffled, draws=100, seed=2)
    )


def test_a_draw_is_the_same_for_all_rows():
    values = np.random.default_rng(1).random((2, 30))
    first, second, difference = resampled_means(np.stack([*values, values[0] - values[1]]), draws=60)
    np.testing.assert_allclose(difference, first - second, atol=1e-12)


def test_a_shift_shifts_and_the_sign_turns():
    values = np.random.default_rng(4).random((1, 50))
    low, high = interval(resampled_means(values)[0])
    moved = interval(resampled_means(values + 2)[0])
    assert moved == pytest.approx((low + 2, high + 2), abs=1e-12)
    # Turned, it is drawn from the other end: equal up to the chance of the draws.
    assert interval(resampled_means(-values)[0]) == pytest.approx((-high, -low), abs=0.005)


def test_deterministic_by_seed():
    values = np.random.default_rng(4).random((1, 50))
    assert np.array_equal(resampled_means(values, seed=1), resampled_means(values, seed=1))
    assert not np.array_equal(resampled_means(values, seed=1), resampled_means(values, seed=2))
    means, spread = resampled_means(values)[0], Spread(0.1, 2)
    assert interval(means, spread, seed=1) == interval(means, spread, seed=1)
    assert interval(means, spread, seed=1) != interval(means, spread, seed=2)


def test_spreads_of_seeds():
    assert paired_spread(np.array([1.0, 2.0, 6.0])) == pytest.approx((math.sqrt(7 / 3), 2))
    # Welch: 7 / 3 of three and 2 / 2 of two; degrees (10/3)**2 / ((7/3)**2 / 2 + 1 / 1).
    found = unpaired_spread(np.array([1.0, 2.0, 6.0]), np.array([1.0, 3.0]))
    assert found == pytest.approx((math.sqrt(10 / 3), (100 / 9) / (49 / 18 + 1)))
    assert unpaired_spread(np.ones(3), np.ones(2)) == (0.0, 3.0)


def test_seeds_that_vary_give_students_interval():
    # No spread over queries: mean 0 +- t(2; 0.975) = 4.303 times the error.
    low, high = interval(np.zeros(40_000), Spread(0.5, 2))
    assert low == pytest.approx(-0.5 * 4.303, rel=0.06)
    assert high == pytest.approx(0.5 * 4.303, rel=0.06)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (2, 0.05), (3, 0.02), (3, 0.1)])
def test_noise_is_covered_at_the_level(seeds, spread):
    random, covered, trials = np.random.default_rng(7), 0, 200
    for _ in range(trials):
        values = random.normal(0, 0.3, (1, 80)) + random.normal(0, 0.2, (seeds, 80))
        values += random.normal(0, spread, (seeds, 1))
        means = resampled_means(values, draws=400, seed=1).mean(axis=0)
        low, high = interval(means, paired_spread(values.mean(axis=1)) if seeds > 1 else None)
        covered += low <= 0 <= high
    # Binomial: 0.95 +- 3 * 0.0154. Above it where seeds and queries both vary: what they share counts twice.
    assert covered / trials >= 0.90
    if seeds == 1:
        assert covered / trials <= 0.99


def test_a_planted_difference_is_found():
    random = np.random.default_rng(8)
    values = random.normal(0.05, 0.3, (3, 2000)) + random.normal(0, 0.003, (3, 1))
    low, high = interval(resampled_means(values, draws=1000).mean(axis=0), paired_spread(values.mean(axis=1)))
    assert 0 < low < 0.05 < high < 0.1


def test_bad_arguments():
    for values in (np.empty((1, 0)), np.ones(3), np.array([[1.0, np.nan]])):
        with pytest.raises(ValueError, match="values must be finite"):
            resampled_means(values)
    with pytest.raises(ValueError, match="one seed"):
        paired_spread(np.ones(1))
    with pytest.raises(ValueError, match="one seed"):
        unpaired_spread(np.ones(2), np.ones(1))
    with pytest.raises(ValueError, match="level"):
        interval(np.ones(3), level=1.0)
