"""The parts of Ray Tune's trials that need no cluster; tests/cluster/test_sweep.py has the others."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from raid.errors import InputError

ray = pytest.importorskip("ray")
from raid.distributed import ray_tune  # noqa: E402
from raid.distributed.ray_tune import EPOCH, NUMBER, VALUE, Draws, Halving, Need, room  # noqa: E402


def asked(scheduler, number, *values):
    """What the scheduler says to a trial's reports, from the first epoch on, until it stops it."""
    trial = SimpleNamespace(trial_id=str(number))
    scheduler.on_trial_add(None, trial)
    said = []
    for epoch, value in enumerate(values, start=1):
        said.append(scheduler.on_trial_result(None, trial, {EPOCH: epoch, VALUE: value}))
        if said[-1] == "STOP":
            break
    return said


def test_who_is_not_among_the_best_third_at_a_rung_is_stopped():
    scheduler = Halving(grace=1, epochs=9, factor=3, known={}).scheduler("max")
    assert "STOP" not in asked(scheduler, 0, *[0.9] * 9)
    assert asked(scheduler, 1, 0.1) == ["STOP"]
    assert asked(scheduler, 2, 0.95, 0.1, 0.1) == ["CONTINUE", "CONTINUE", "STOP"]  # rungs: 1, 3


def test_nobody_is_stopped_at_the_last_epoch_whose_model_is_about_to_be_written():
    scheduler = Halving(grace=1, epochs=9, factor=3, known={}).scheduler("max")
    asked(scheduler, 0, *[0.9] * 9)
    assert asked(scheduler, 1, *[0.95] * 8, 0.0) == ["CONTINUE"] * 9


def test_of_a_figure_whose_lowest_is_best_the_highest_are_stopped():
    scheduler = Halving(grace=1, epochs=9, factor=3, known={}).scheduler("min")
    asked(scheduler, 0, 0.1)
    assert asked(scheduler, 1, 0.9) == ["STOP"]


def test_a_resumed_search_knows_what_trials_of_before_reported():
    known = {0: [(1, 0.9), (2, 0.9), (3, 0.9)]}
    scheduler = Halving(grace=1, epochs=9, factor=3, known=known).scheduler("max")
    assert asked(scheduler, 1, 0.5) == ["STOP"]


@pytest.fixture
def nodes(monkeypatch):
    def of(*resources):
        total = {}
        for node in resources:
            for kind, number in node.items():
                total[kind] = total.get(kind, 0.0) + number
        monkeypatch.setattr(ray_tune, "connect", lambda dashboard: None)
        monkeypatch.setattr(ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in resources])

    return of


@pytest.mark.parametrize(
    ("need", "resources", "trials"),
    [
        (Need(1, 1, "cpu", 0), [{"CPU": 2.0}], 2),
        (Need(2, 1, "cpu", 2), [{"CPU": 3.0}], 1),
        (Need(1, 1, "cpu", 4), [{"CPU": 8.0}], 2),
        (Need(1, 2, "cpu", 1), [{"CPU": 3.0}, {"CPU": 3.0}], 2),  # a worker's CPUs are on one node
        (Need(2, 1, "auto", 2), [{"CPU": 16.0, "GPU": 4.0}], 2),
        (Need(2, 1, "cpu", 2), [{"CPU": 16.0, "GPU": 4.0}], 8),
        (Need(4, 1, "cpu", 4), [{"CPU": 2.0}], 0),
    ],
)
def test_room_is_what_workers_and_pool_take_of_the_nodes(nodes, need, resources, trials):
    nodes(*resources)
    assert room(need, Path("runs/sweep")).trials == trials


def test_trials_share_the_memory_of_a_node_and_not_of_the_cluster(nodes):
    nodes({"CPU": 4.0}, {"CPU": 2.0}, {"CPU": 2.0})
    found = room(Need(2, 1, "cpu", 2), Path("runs/sweep"))
    assert (found.trials, found.on_a_node, found.nodes) == (4, 2, 3)


def test_a_submitted_job_takes_no_folder_that_goes_with_it(nodes, monkeypatch):
    nodes({"CPU": 2.0})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match=r"run\.folder: runs/sweep is relative, and a submitted job"):
        room(Need(1, 1, "cpu", 0), Path("runs/sweep"))


def test_optuna_numbers_its_points_and_learns_from_those_that_are_known():
    pytest.importorskip("optuna")
    from raid.distributed.ray_optuna import NumberedOptuna

    space = {"a.b": (0.0, 1.0, False), "c.d": (("x", "y"),)}
    known = [({"a.b": place / 40, "c.d": "x"}, -abs(place / 40 - 0.8)) for place in range(40)]
    search = NumberedOptuna(Draws(space, known, first=40, num=20, seed=1), "max")
    points = [search.suggest(str(number)) for number in range(20)]
    assert [point[NUMBER] for point in points] == list(range(40, 60))
    assert {point["c.d"] for point in points} <= {"x", "y"}
    near = sum(abs(point["a.b"] - 0.8) < 0.2 for point in points)
    assert near > 10  # of 40 % of the range
    blind = NumberedOptuna(Draws(space, [], first=0, num=1, seed=1), "max").suggest("0")
    again = NumberedOptuna(Draws(space, [], first=0, num=1, seed=1), "max").suggest("0")
    assert blind == again
