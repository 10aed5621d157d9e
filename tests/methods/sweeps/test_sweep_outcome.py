"""What came of a sweep: the best point, its run file, the table."""

import pytest
from sweeping import SWEEP, options, run_file

from raid.config import load
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig
from raid.methods.sweeps.outcome import concluded
from raid.methods.sweeps.planning import planned
from raid.sweep_folder import Trial

HORIZON = "refine.horizon"


@pytest.fixture
def base(tmp_path):
    file = run_file(tmp_path, tmp_path / "images")
    base, _, _ = planned(SWEEP, options(file, "inter.steps=7", "refine.decay=cosine", num_seeds=2))
    base.folder.write(base.record)
    return base


def write(base, values, states=None):
    """Write trials by (horizon, seed)."""
    for number, ((horizon, seed), value) in enumerate(values.items()):
        state = (states or {}).get((horizon, seed), "done")
        folder = base.folder.run(number)
        folder.path.mkdir(parents=True)
        if value is not None:
            folder.record_epoch({"epoch": 0, "cluster/silhouette": value}, [])
        trial = Trial(
            number=number, point={HORIZON: horizon}, seed=seed, state=state, value=value, started_s=1.0,
            ended_s=2.0, reason="it broke" if state == "failed" else "",
        )  # fmt: skip
        base.folder.write_trial(trial)


def test_the_best_is_written_as_a_run_file_that_is_ready(base):
    write(base, {(1.0, 1): 0.5, (1.0, 2): 0.1, (3.0, 1): 0.4, (3.0, 2): 0.3})
    text = concluded(base)
    config = load(IcsrConfig, base.folder.best)
    assert (config.refine.horizon, config.refine.decay, config.inter.steps) == (3.0, "cosine", 7)
    assert (config.seed, config.run.folder) == (1, base.folder.path / "best")
    head = base.folder.best.read_text()
    assert "by silhouette (cluster/silhouette): 0.35, mean of seed 1, 2." in head
    assert f"raid icsr {base.folder.best}" in head
    assert "test set" not in head
    lines = text.splitlines()
    assert lines[2].split() == ["horizon=3", "0.3500", "+-", "0.0707"]
    assert lines[3].split() == ["horizon=1", "0.3000", "+-", "0.2828"]
    assert f"raid compare {base.folder.path}/trials/*" in text


def test_who_looked_at_the_test_set_is_told_so_by_the_run_file(tmp_path):
    file = run_file(tmp_path, tmp_path / "images")
    base, _, _ = planned(SWEEP, options(file, "refine.decay=cosine", objective="mAP"))
    base.folder.write(base.record)
    write(base, {(1.0, 1): 0.5})
    concluded(base)
    assert "chosen by looking at the test set: its figure is not a result" in base.folder.best.read_text()


def test_failures_are_counted_and_the_first_is_told(base):
    values = {(1.0, 1): 0.9, (1.0, 2): None, (3.0, 1): 0.4, (3.0, 2): 0.3}
    write(base, values, {(1.0, 2): "failed"})
    text = concluded(base)
    assert "1 trials failed, the first: it broke; --resume tries them again" in text
    assert "horizon=1  0.9000  (done, failed)" in text


def test_trials_that_are_missing_or_died_in_silence_are_counted(base):
    write(base, {(1.0, 1): 0.9, (1.0, 2): 0.8, (3.0, 1): None}, {(3.0, 1): "running"})
    assert base.record.num_trials == 4
    assert "2 trials have not come to an end; --resume goes on with them" in concluded(base)


def test_a_sweep_of_which_nothing_came_is_an_error_with_the_first_reason(base):
    write(base, {(1.0, 1): None}, {(1.0, 1): "failed"})
    with pytest.raises(InputError, match=r"no trial of .* came to an end: it broke"):
        concluded(base)


def test_without_a_complete_point_there_is_no_best(base):
    write(base, {(1.0, 1): 0.9})
    assert "no point has all its seeds" in concluded(base)
    assert not base.folder.best.exists()
