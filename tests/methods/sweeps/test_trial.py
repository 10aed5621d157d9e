"""What is recorded of a trial, whatever it does; and what the driver adds when its process could not."""

import json
import logging

import pytest
from sweeping import SWEEP, options, run_file

from raid.errors import InputError
from raid.methods.sweeps import tracking
from raid.methods.sweeps.planning import planned
from raid.methods.sweeps.tracking import Tracked
from raid.methods.sweeps.trial import TrialWork
from raid.methods.sweeps.watch import Watch

POINT = {"refine.decay": "none", "refine.horizon": 1.0}


@pytest.fixture
def base(tmp_path):
    base, _, _ = planned(SWEEP, options(run_file(tmp_path, tmp_path / "images"), num_seeds=2))
    base.folder.write(base.record)
    return base


def tell(value, epochs):
    pass


def records(*values):
    def run(base, number, point, seed, tell):
        folder = base.folder.run(number)
        for epoch, value in enumerate(values):
            folder.record_epoch(
                {"epoch": epoch, **({} if value is None else {"cluster/silhouette": value})}, []
            )

    return run


def test_a_trial_that_is_done_has_the_objective_of_its_last_epoch(base):
    TrialWork(base, {3: (POINT, 2)}, records(0.1, 0.4, None))(3, {}, tell)
    trial = base.folder.trial(3)
    assert (trial.state, trial.value, trial.point, trial.seed) == ("done", 0.4, POINT, 2)
    assert trial.started_s <= trial.ended_s


def test_a_point_that_was_drawn_as_the_search_went_on_is_recorded_with_the_first_seed(base):
    TrialWork(base, {}, records(0.1))(0, POINT, tell)
    assert (base.folder.trial(0).point, base.folder.trial(0).seed) == (POINT, 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("refine.end: is above\nand more"), "refine.end: is above"),
        (RuntimeError("worker 1 failed:\nTraceback"), "RuntimeError: worker 1 failed:"),
        (ValueError(), "ValueError:"),
    ],
)
def test_a_trial_that_fails_says_why_in_a_line_and_raises(base, error, reason):
    def fail(base, number, point, seed, tell):
        raise error

    with pytest.raises(type(error)):
        TrialWork(base, {}, fail)(0, POINT, tell)
    trial = base.folder.trial(0)
    assert (trial.state, trial.reason, trial.value) == ("failed", reason, None)


def test_a_trial_that_never_recorded_the_objective_has_failed(base):
    with pytest.raises(InputError, match="--objective silhouette: no epoch recorded cluster/silhouette"):
        TrialWork(base, {}, records(None))(0, POINT, tell)
    assert base.folder.trial(0).state == "failed"


def test_the_process_of_a_trial_is_told_where_mlflow_is_and_nobody_sees_the_password(base, monkeypatch):
    import os
    from dataclasses import replace

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "none")
    told = replace(base, environment={"MLFLOW_TRACKING_PASSWORD": "geheim"})
    TrialWork(told, {}, records(0.1))(0, POINT, tell)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "geheim"
    assert "geheim" not in repr(told) + json.dumps(vars(base.folder.trial(0)))


def begun(base, number):
    def dies(base, number, point, seed, tell):
        records(0.3)(base, number, point, seed, tell)
        raise KeyboardInterrupt  # nothing is recorded of a process that is killed

    with pytest.raises(KeyboardInterrupt):
        TrialWork(base, {}, dies)(number, POINT, tell)
    assert base.folder.trial(number).state == "running"


@pytest.mark.parametrize(
    ("failed", "state", "reason"), [(False, "stopped", ""), (True, "failed", "its process died")]
)
def test_the_driver_completes_what_a_killed_process_could_not(base, failed, state, reason, caplog):
    caplog.set_level(logging.INFO)
    begun(base, 4)
    Watch(TrialWork(base, {}, records()), Tracked(base), 9)(4, {}, failed)
    trial = base.folder.trial(4)
    assert (trial.state, trial.reason, trial.value) == (state, reason, 0.3)
    assert trial.ended_s >= trial.started_s
    assert f"trial 004 of 9 {state}: decay=none, horizon=1, seed 1: silhouette 0.3" in caplog.text


def test_a_trial_whose_process_died_before_it_began_is_recorded_all_the_same(base):
    watch = Watch(TrialWork(base, {0: (POINT, 2)}, records()), Tracked(base), 9)
    watch(0, {}, True)
    watch(1, POINT, True)
    assert [(trial.point, trial.seed, trial.state) for trial in base.folder.trials()] == [
        (POINT, 2, "failed"), (POINT, 1, "failed"),
    ]  # fmt: skip


def test_what_a_trial_says_itself_is_left_as_it_is(base):
    TrialWork(base, {}, records(0.5))(0, POINT, tell)
    before = base.folder.trial(0)
    Watch(TrialWork(base, {}, records()), Tracked(base), 1)(0, POINT, False)
    assert base.folder.trial(0) == before


class Parent:
    """The sweep's run in MLflow, as far as the driver tells it."""

    run_id = "abc"

    def __init__(self):
        self.logged = []

    def log(self, figures, step):
        self.logged.append((step, figures))


def test_mlflow_is_told_how_many_have_ended_and_the_best_also_of_before(base, monkeypatch):
    closed = []
    monkeypatch.setattr(tracking, "close_trials", lambda trials, uri, wait_s: closed.extend(trials))
    TrialWork(base, {}, records(0.5))(0, POINT, tell)
    parent = Parent()
    told = tracking.Tracked(base, parent, "uri")
    for number, value in ((1, 0.4), (2, 0.7)):
        TrialWork(base, {}, records(value))(number, POINT, tell)
        told.ended(base.folder.trial(number))
    begun(base, 3)
    Watch(TrialWork(base, {}, records()), told, 9)(3, POINT, False)
    told.conclude()
    best = "sweep/best_silhouette"
    assert parent.logged == [
        (2, {"sweep/ended": 2.0, best: 0.5}),
        (3, {"sweep/ended": 3.0, best: 0.7}),
        (4, {"sweep/ended": 4.0, best: 0.7}),
    ]
    last = {trial.folder.name: trial for trial in closed}
    assert {name: trial.outcome for name, trial in last.items()} == dict.fromkeys(
        ("000", "001", "002", "003"), "FINISHED"
    )
    assert last["003"].tags == {"mlflow.parentRunId": "abc", "trial": "stopped", "stopped_by": "none"}


def test_who_was_stopped_has_not_failed_whenever_its_process_says_so(base):
    def interrupted(base, number, point, seed, tell):
        records(0.3)(base, number, point, seed, tell)
        raise RuntimeError("the controller is gone")

    work = TrialWork(base, {}, interrupted)
    watch = Watch(TrialWork(base, {}, records()), Tracked(base), 9)
    with pytest.raises(RuntimeError):
        work(0, POINT, tell)
    watch(0, POINT, False)
    assert (base.folder.trial(0).state, base.folder.trial(0).reason) == ("stopped", "")
    with pytest.raises(RuntimeError):  # later than the driver was told
        work(0, POINT, tell)
    assert base.folder.trial(0).state == "failed"
    watch.settle()
    assert (base.folder.trial(0).state, base.folder.trial(0).value) == ("stopped", 0.3)
