import os
import signal
import time

import pytest
import torch
from torch import distributed as dist

from raid.distributed.launch import WorkersLost, run_workers
from raid.errors import InputError


def write_place(group, folder, text):
    (folder / f"{group.rank}").write_text(f"{group.size} {text} {torch.get_num_threads()} {os.getpid()}")


def fail_as_asked(group, kind, rank):
    """Fail on worker `rank` while the others wait for it, or inside `once`."""

    def compute():
        raise InputError("data.root: is no folder\nin two lines")

    if kind == "once":
        group.once(compute)
    elif group.rank == rank:
        time.sleep(0.2)
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("optimizer: too much") if kind == "input" else ZeroDivisionError("of worker 1")
    group.barrier()


@pytest.fixture
def threads():
    """Puts back the number of threads, which one worker in this process sets."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_one_worker_runs_in_this_process(tmp_path, threads):
    run_workers(write_place, 1, threads + 1, tmp_path, "x")
    assert (tmp_path / "0").read_text() == f"1 x {threads + 1} {os.getpid()}"
    assert not dist.is_initialized()
    with pytest.raises(InputError, match="is no folder"):
        run_workers(fail_as_asked, 1, threads, "once", 0)


def test_two_workers_run_in_processes_of_their_own(tmp_path):
    run_workers(write_place, 2, 2, tmp_path, "y")
    found = [(tmp_path / str(rank)).read_text().split() for rank in range(2)]
    assert [words[:3] for words in found] == [["2", "y", "2"]] * 2
    assert len({os.getpid(), int(found[0][3]), int(found[1][3])}) == 3
    assert not dist.is_initialized()


@pytest.mark.usefixtures("quick_starts")
def test_an_input_error_of_all_workers_is_one_in_the_parent():
    with pytest.raises(InputError) as raised:
        run_workers(fail_as_asked, 2, 1, "once", 0)
    assert str(raised.value) == "data.root: is no folder\nin two lines"


@pytest.mark.usefixtures("quick_starts")
def test_an_input_error_of_one_worker_stops_those_that_wait_for_it():
    with pytest.raises(InputError) as raised:
        run_workers(fail_as_asked, 2, 1, "input", 1)
    assert str(raised.value) == "optimizer: too much"


@pytest.mark.usefixtures("quick_starts")
def test_another_failure_of_one_worker_comes_with_its_traceback():
    with pytest.raises(RuntimeError) as raised:
        run_workers(fail_as_asked, 2, 1, "error", 1)
    assert not isinstance(raised.value, InputError)
    message = str(raised.value)
    assert "worker 1 failed:\nTraceback" in message
    assert "in fail_as_asked" in message
    assert "ZeroDivisionError: of worker 1" in message


@pytest.mark.usefixtures("quick_starts")
def test_a_worker_that_is_killed_stops_those_that_wait_for_it():
    with pytest.raises(WorkersLost, match=r"signal SIGKILL|closed by peer|reset by peer"):
        run_workers(fail_as_asked, 2, 1, "killed", 1)
