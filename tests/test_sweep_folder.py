"""The records of a sweep, written and read back."""

import json

import pytest

from raid.errors import InputError
from raid.sweep_folder import Axis, Objective, SweepFolder, SweepRecord, Trial

RECORD = SweepRecord(
    name="made_up",
    method="icsr",
    file="jobs/x.yaml",
    overrides=("a.b=1",),
    axes=(
        Axis("refine.decay", ("off", "none"), instead={"off": {"refine.enabled": False}}),
        Axis("refine.score_cutoff", (0.5, None), low=0.1, high=0.9, log=True),
    ),
    objective=Objective("silhouette", "cluster/silhouette", "max", "how good"),
    search="random",
    scheduler="asha",
    num_samples=3,
    seeds=(1, 2),
    seed=1,
)
TRIAL = Trial(number=7, point={"refine.decay": "off"}, seed=2, started_s=1.5)


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    folder = SweepFolder(tmp_path / "sweep")
    folder.write(RECORD)
    assert folder.read() == RECORD


def test_trials_are_read_by_number_in_folders_of_their_number(tmp_path):
    folder = SweepFolder(tmp_path)
    for number in (10, 2):
        folder.write_trial(Trial(number=number, point={"a": None}, seed=1, started_s=0.0))
    assert [trial.number for trial in folder.trials()] == [2, 10]
    assert (tmp_path / "trials" / "002" / "trial.json").exists()
    assert folder.trial(3) is None
    assert folder.trial(2).point == {"a": None}


def test_a_shared_result_is_a_path_or_the_reason_that_there_is_none(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.write_shared("one", tmp_path / "x", "")
    folder.write_shared("two", None, "it broke")
    assert folder.shared_result("one") == tmp_path / "x"
    with pytest.raises(InputError, match="two, which trials share: it broke"):
        folder.shared_result("two")
    with pytest.raises(InputError, match="three: the process that does this stage"):
        folder.shared_result("three")


def test_a_folder_without_a_sweep_or_with_another_file_is_named(tmp_path):
    folder = SweepFolder(tmp_path)
    with pytest.raises(InputError, match="not the folder of a sweep"):
        folder.read()
    for text in ("{", "{}", json.dumps({"axes": 3})):
        folder.record.write_text(text)
        with pytest.raises(InputError, match="is not a file that raid wrote"):
            folder.read()


@pytest.mark.parametrize(
    ("mode", "one", "other", "better"),
    [("max", 2.0, 1.0, True), ("max", 1.0, 2.0, False), ("min", 1.0, 2.0, True)],
)
def test_which_value_is_better(mode, one, other, better):
    assert Objective("x", "x", mode, "").better(one, other) is better


def test_the_value_is_that_of_the_last_epoch_that_has_it():
    objective = Objective("x", "eval/mAP", "max", "")
    assert objective.value([{"eval/mAP": 0.1}, {"eval/mAP": 0.2}, {"loss": 1.0}]) == 0.2
    assert objective.value([{"loss": 1.0}]) is None
