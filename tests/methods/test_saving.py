"""When the state is saved, on all workers alike."""

import time
from pathlib import Path

import pytest

from raid.distributed.group import Group
from raid.distributed.launch import Stopped, run_workers
from raid.errors import InputError
from raid.methods import saving
from raid.methods.execution import Run
from raid.methods.saving import Saving
from raid.run_folder import RunFolder
from raid.run_status import ask_to_stop, go_on


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(saving, "time", made)
    return made


def test_by_steps(tmp_path, clock):
    due = Saving(Group.solo(), Run(checkpoint_steps=3), RunFolder(tmp_path)).due
    assert [step for step in range(1, 10) if due(step)] == [3, 6, 9]


def test_by_the_clock_since_the_last_time(tmp_path, clock):
    made = Saving(Group.solo(), Run(checkpoint_minutes=2.0), RunFolder(tmp_path))
    clock.now += 119
    assert not made.due(1)
    clock.now += 2
    assert made.due(2)
    made.done()
    assert not made.due(3)
    clock.now += 121
    assert made.due(4)


def test_neither_by_steps_nor_by_the_clock(tmp_path, clock):
    made = Saving(Group.solo(), Run(checkpoint_minutes=0.0), RunFolder(tmp_path))
    clock.now += 1e6
    assert not any(made.due(step) for step in range(1, 10))


def test_on_request_and_that_is_all(tmp_path, clock):
    made = Saving(Group.solo(), Run(checkpoint_steps=2), RunFolder(tmp_path))
    assert made.due(2)
    made.done()
    ask_to_stop(tmp_path)
    assert made.due(3)
    with pytest.raises(Stopped, match="has saved its state"):
        made.done()
    go_on(tmp_path)
    assert not made.due(5)


def taken_together(group: Group, job: RunFolder) -> None:
    """Train on what another process opens when this one has done three steps."""
    made = Saving(group, Run(checkpoint_steps=1), job)
    for step in (1, 2, 3):
        assert made.due(step)
        made.done()
    group.barrier()
    if group.is_first:
        (job.path / "attempt").write_text("another")
    with pytest.raises(InputError, match="goes on with it: this one stops"):
        made.due(4)
    (job.path / f"stopped_{group.rank}").touch()


@pytest.mark.usefixtures("quick_starts")
def test_all_workers_stop_at_the_same_step_when_another_process_goes_on(tmp_path):
    (tmp_path / "attempt").write_text("this one")
    run_workers(taken_together, 2, 1, RunFolder(tmp_path, "this one"))
    assert len(list(tmp_path.glob("stopped_*"))) == 2


def stop_together(group: Group, folder: Path) -> None:
    """The first worker alone sees the request, between two steps of the others."""
    asks = Saving(group, Run(checkpoint_minutes=0.0), RunFolder(folder / str(group.rank)))
    for step in range(1, 100):
        if group.is_first and step == 5:
            (folder / "0").mkdir()
            ask_to_stop(folder / "0")
        if asks.due(step):
            if group.is_first:
                time.sleep(2)  # it alone writes, perhaps to a slow disk
            (folder / f"saved_{group.rank}").write_text(str(step))
            asks.done()


@pytest.mark.usefixtures("quick_starts")
def test_all_workers_stop_at_the_same_step_when_the_slowest_has_saved(tmp_path):
    with pytest.raises(Stopped, match="has saved its state"):
        run_workers(stop_together, 2, 1, tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.glob("saved_*")} == {
        "saved_0": "5",
        "saved_1": "5",
    }
