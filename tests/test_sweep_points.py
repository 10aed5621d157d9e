import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_sweeps import DECAY, LOSS, record

from raid.sweep_folder import Axis, Trial
from raid.sweep_points import Point, applies, badness, best_point, deviation, key_of, mean, mean_of, points


def trial(number: int, name: object, seed: int, value: float | None, state: str = "done") -> Trial:
    point = {DECAY.path: name}
    return Trial(number=number, point=point, seed=seed, state=state, value=value, started_s=0.0)


def test_trials_of_a_point_are_put_together_by_seed():
    given = [
        trial(3, "none", 1, 0.4),
        trial(0, "off", 2, 0.1),
        trial(2, "none", 2, 0.5),
        trial(1, "off", 1, 0.2),
    ]
    found = points([DECAY], given)
    assert [point.values[DECAY.path] for point in found] == ["off", "none"]  # as begun
    assert [[of.number for of in point.trials] for point in found] == [[1, 0], [3, 2]]  # by seed
    assert found[0].figures == {1: 0.2, 2: 0.1}


def test_values_that_look_alike_are_points_of_their_own():
    values = [1, "1", True, None, "null", [1, 2], 1.5]
    found = points([DECAY], [trial(i, value, 1, 0.1) for i, value in enumerate(values)])
    assert len(found) == len(values)
    assert key_of([1, 2]) == key_of((1, 2))


@pytest.mark.parametrize(
    ("states", "kept"),
    [(("done", "done"), 1), (("done", "failed"), 0), (("failed", "done"), 1), (("failed", "running"), 1)],
)
def test_of_several_with_one_seed_the_last_that_is_done_counts(states, kept):
    given = [trial(i, "off", 1, 0.1, state) for i, state in enumerate(states)]
    (point,) = points([DECAY], given)
    assert [of.number for of in point.trials] == [kept]


@pytest.mark.parametrize("state", ["stopped", "failed", "running"])
def test_only_what_is_done_has_a_figure(state):
    (point,) = points([DECAY], [trial(0, "off", 1, 0.9, state), trial(1, "off", 2, 0.3)])
    assert point.figures == {2: 0.3}
    assert point.complete([2])
    assert not point.complete([1, 2])


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_no_figure(value):
    (point,) = points([DECAY], [trial(0, "off", 1, value)])
    assert point.figures == {}


def best_of(trials: list[Trial], **changes: object) -> object:
    of = record([DECAY], **changes)
    found = best_point(of, points(of.axes, trials))
    return found and found.values[DECAY.path]


def test_the_best_has_the_best_mean_over_all_seeds():
    given = [
        trial(0, "off", 1, 0.2),
        trial(1, "off", 2, 0.4),
        trial(2, "none", 1, 0.1),
        trial(3, "none", 2, 0.45),
    ]
    assert best_of(given, seeds=(1, 2)) == "off"
    assert best_of(given, seeds=(1, 2), objective=LOSS) == "none"


def test_a_point_that_lacks_a_seed_is_not_the_best():
    given = [trial(0, "off", 1, 0.2), trial(1, "off", 2, 0.2), trial(2, "none", 1, 0.9)]
    assert best_of(given, seeds=(1, 2)) == "off"
    assert best_of([*given, trial(3, "none", 2, 0.9, "stopped")], seeds=(1, 2)) == "off"
    assert best_of([*given, trial(3, "none", 2, 0.9)], seeds=(1, 2)) == "none"
    assert best_of(given[2:], seeds=(1, 2)) is None
    assert best_of([], seeds=(1,)) is None


def test_of_equal_points_the_first_is_the_best():
    assert best_of([trial(0, "cosine", 1, 0.2), trial(1, "off", 1, 0.2)]) == "cosine"


def test_mean_and_deviation_are_numpys():
    values = np.random.default_rng(0).normal(3, 2, 7).tolist()
    assert mean(values) == pytest.approx(np.mean(values), abs=1e-12)
    assert deviation(values) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert deviation([1.0]) is None
    one = Point({}, (replace(trial(0, "off", 1, 0.25), seed=1), trial(1, "off", 2, 0.75)))
    assert mean_of(one) == 0.5


def test_badness_is_smaller_where_it_is_better():
    assert badness(record([]).objective, 0.9) < badness(record([]).objective, 0.1)
    assert badness(LOSS, 0.1) < badness(LOSS, 0.9)


def test_an_axis_applies_where_the_others_have_what_it_needs():
    axis = Axis("inter.eps", (0.4, 0.5), only={"inter.method": ("dbscan", "hdbscan")})
    assert applies(axis, {"inter.method": "dbscan", "inter.eps": 0.4})
    assert not applies(axis, {"inter.method": "kmeans", "inter.eps": 0.4})
    assert applies(axis, {"inter.eps": 0.4})  # the method is not searched
    assert not applies(axis, {"inter.method": "dbscan"})
    assert applies(DECAY, {DECAY.path: None})
