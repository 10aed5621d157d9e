import numpy as np
import pytest

from raid.ops import importance
from raid.ops.importance import FEWEST, permutation_importance


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "_TREES", 12)


def columns(num: int, count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, num, 1)))


def alone(num: int) -> np.ndarray:
    """Every trial a group of its own."""
    return np.arange(num)


def test_the_one_column_that_matters_is_found():
    axes = columns(40, 3)
    found = permutation_importance(axes, 5 * axes[1][:, 0], alone(40))
    assert found.r2 > 0.85
    # Values of another trial, drawn from the same: the error is twice the variance, and R^2 falls by 2.
    assert found.drops[1] == pytest.approx(2.0, abs=0.5)
    assert np.abs(found.drops[[0, 2]]).max() < 0.05
    assert found.deviations[1] > found.deviations[[0, 2]].max()


def test_what_matters_more_has_more():
    axes = columns(60, 3)
    noise = np.random.default_rng(1).normal(0, 0.1, 60)
    found = permutation_importance(axes, 3 * axes[0][:, 0] + axes[1][:, 0] + noise, alone(60))
    assert found.drops[0] > 3 * found.drops[1] > 9 * abs(found.drops[2])


def test_chance_is_not_predicted():
    figure = np.random.default_rng(5).normal(size=30)
    assert permutation_importance(columns(30, 4), figure, alone(30)).r2 < 0.1


def test_the_order_of_the_columns_does_not_matter():
    axes = columns(24, 4)
    figure = sum((1 + i) * axis[:, 0] for i, axis in enumerate(axes))
    order = [2, 0, 3, 1]
    found = permutation_importance(axes, figure, alone(24))
    moved = permutation_importance([axes[i] for i in order], figure, alone(24))
    np.testing.assert_array_equal(moved.drops, found.drops[order])
    np.testing.assert_array_equal(moved.deviations, found.deviations[order])
    assert moved.r2 == found.r2


def test_a_constant_column_has_exactly_nothing():
    axes = columns(20, 2)
    found = permutation_importance([*axes, np.ones((20, 1))], axes[0][:, 0], alone(20))
    assert (found.drops[2], found.deviations[2]) == (0.0, 0.0)
    assert found.drops[0] > 0.5


def test_the_columns_of_a_name_are_shuffled_together():
    """Three columns that say the same by halves: shuffled one by one, the others would still tell."""
    names = np.arange(30) % 3
    random = np.random.default_rng(2).random((30, 1))
    found = permutation_importance([np.eye(3)[names], random], np.array([0.0, 1.0, 2.0])[names], alone(30))
    assert found.r2 > 0.95
    assert found.drops[0] == pytest.approx(2.0, abs=0.5)


def test_a_group_is_not_predicted_from_its_own_trials():
    """Ten points three times each, whose figure is chance: a point's number tells it, to whom has seen it."""
    random = np.random.default_rng(3)
    points = np.repeat(np.arange(10), 3)
    figure = random.normal(size=10)[points] + random.normal(0, 0.01, 30)
    axes = [random.random(10)[points][:, None]]
    assert permutation_importance(axes, figure, alone(30)).r2 > 0.8
    assert permutation_importance(axes, figure, points).r2 < 0.2


def test_deterministic_by_seed():
    axes = columns(15, 2)
    figure = axes[0][:, 0]
    first, again, other = (permutation_importance(axes, figure, alone(15), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.drops, again.drops)
    assert first.r2 == again.r2
    assert first.r2 != other.r2


def test_a_figure_that_does_not_vary_has_no_importance():
    found = permutation_importance(columns(FEWEST, 2), np.full(FEWEST, 0.3), alone(FEWEST))
    assert (found.drops.tolist(), found.deviations.tolist(), found.r2) == ([0.0, 0.0], [0.0, 0.0], 0.0)


def test_every_trial_is_predicted_by_others():
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    folds = importance._folds(groups, np.random.default_rng(0))
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    assert [folds[groups == group].std() for group in range(6)] == [0.0] * 6
    assert max(np.bincount(folds)) == 4  # six groups over five folds: one has two


@pytest.mark.parametrize(
    ("axes", "figure", "groups", "told"),
    [
        (columns(FEWEST - 1, 1), np.ones(FEWEST - 1), alone(FEWEST - 1), "at least 10 trials"),
        (columns(12, 1), np.ones(12), np.zeros(12, int), "2 groups"),
        (columns(12, 1), np.ones(13), alone(13), "settings"),
        ([], np.ones(12), alone(12), "settings"),
        (columns(12, 1), np.full(12, np.nan), alone(12), "finite"),
        ([np.full((12, 1), np.inf)], np.ones(12), alone(12), "finite"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(axes, figure, groups, told):
    with pytest.raises(ValueError, match=told):
        permutation_importance(axes, figure, groups)
