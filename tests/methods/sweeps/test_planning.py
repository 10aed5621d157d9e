"""What a sweep will do, from what its user says."""

import pytest
from sweeping import SWEEP, options, run_file

from raid.config import flatten
from raid.errors import InputError
from raid.methods.sweeps import planning
from raid.methods.sweeps.planning import every_point, planned


@pytest.fixture
def file(tmp_path):
    return run_file(tmp_path, tmp_path / "images")


def test_every_point_of_a_grid_is_tried_with_every_seed(file, tmp_path):
    base, config, trials = planned(SWEEP, options(file, num_seeds=2))
    assert len(trials) == 3 * 2 * 2
    assert [seed for _, seed in trials.values()] == [1, 2] * 6
    assert list(trials) == list(range(12))
    assert config.run.folder == tmp_path / "sweep" == base.folder.path
    first, last = base.config(*trials[0]), base.config(*trials[11])
    assert (first.refine.enabled, first.refine.horizon, first.seed) == (False, 1.0, 1)
    assert (last.refine.enabled, last.refine.decay, last.refine.horizon, last.seed) == (
        True,
        "cosine",
        3.0,
        2,
    )


def test_a_trial_differs_from_the_run_file_in_its_point_alone(file):
    base, config, trials = planned(SWEEP, options(file, "inter.steps=7"))
    of_trial, of_file = flatten(base.config(*trials[3])), flatten(config)
    assert {key for key in of_file if of_file[key] != of_trial[key]} <= {"refine.decay", "refine.horizon"}
    assert of_trial["inter.steps"] == 7


def test_seeds_begin_with_the_configurations_own(file):
    base, _, _ = planned(SWEEP, options(file, "seed=5", num_seeds=3))
    assert base.record.seeds == (5, 6, 7)


def test_points_are_the_same_for_the_same_sweep(file):
    one, other = (planned(SWEEP, options(file, search="random"))[2] for _ in range(2))
    assert one == other
    assert len(one) == 4


def test_what_no_trial_can_be_is_said_before_the_first(file):
    with pytest.raises(InputError, match=r"refine\.end: is 0\.9, above refine\.start=0\.5"):
        planned(SWEEP, options(file, "refine.start=0.5", "refine.end=0.9"))
    with pytest.raises(InputError, match=r"refine\.horizon"):
        planned(SWEEP, options(file, values={"horizon": [-1.0]}))


def test_points_of_a_grid_that_cannot_be_are_left_out(file, caplog):
    _, _, trials = planned(SWEEP, options(file, values={"horizon": [1.0, -1.0]}))
    assert {point["refine.horizon"] for point, _ in trials.values()} == {1.0}
    assert "3 points of the grid are left out, for example: refine.horizon" in caplog.text


def test_an_unknown_objective_lists_those_that_are_known(file):
    with pytest.raises(InputError, match="--objective beauty: unknown; made_up knows silhouette, churn, mAP"):
        planned(SWEEP, options(file, objective="beauty"))


def test_optuna_takes_one_seed(file):
    assert planned(SWEEP, options(file, search="optuna"))[2] == {}
    with pytest.raises(InputError, match="--seeds: optuna learns from one value of a point"):
        planned(SWEEP, options(file, search="optuna", num_seeds=2))


def test_who_asks_for_optuna_without_having_it_is_told_how_to_get_it(file, monkeypatch):
    monkeypatch.setattr(planning, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--search optuna: is not installed; pip install optuna"):
        planned(SWEEP, options(file, search="optuna"))


def test_of_points_that_are_not_known_yet_those_that_differ_in_what_is_shared_are_given(file):
    base, _, trials = planned(SWEEP, options(file, search="optuna"))
    points = [tuple(point.values()) for point, _ in every_point(base, trials, {"refine.decay"})]
    assert points == [
        ("off", 1.0), ("off", 3.0), ("none", 1.0), ("none", 3.0), ("cosine", 1.0), ("cosine", 3.0),
    ]  # fmt: skip
    points = [tuple(point.values()) for point, _ in every_point(base, trials, set())]
    assert points == [("off", 1.0), ("none", 1.0), ("cosine", 1.0), ("off", 3.0)]


def test_a_run_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot read this configuration file"):
        planned(SWEEP, options(tmp_path / "nowhere.yaml"))
