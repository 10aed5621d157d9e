"""Batches are made one ahead, and are those of their steps whatever is asked for."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from raid.data.ahead import Ahead
from raid.data.background import Background
from raid.errors import InputError

CPU = torch.device("cpu")


class Making:
    """Makes batches, and remembers which."""

    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []
        self.threads: set[str] = set()

    def __call__(self, epoch: int, step: int) -> str:
        self.made.append((epoch, step))
        self.threads.add(threading.current_thread().name)
        return f"{epoch}.{step}"


def settled(making: Making, number: int) -> list[tuple[int, int]]:
    deadline = time.monotonic() + 5
    while len(making.made) < number and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)  # for one too many
    return making.made


def test_the_next_batch_is_made_while_one_is_in_use():
    making = Making()
    ahead = Ahead(making, 3, CPU)
    assert ahead.take(0, 0) == "0.0"
    assert settled(making, 2) == [(0, 0), (0, 1)]
    assert [ahead.take(0, 1), ahead.take(0, 2)] == ["0.1", "0.2"]
    assert settled(making, 3) == [(0, 0), (0, 1), (0, 2)]  # none behind the epoch's end
    assert threading.current_thread().name not in making.threads


def test_any_step_may_be_asked_for():
    making = Making()
    ahead = Ahead(making, 5, CPU)
    places = [(0, 2), (0, 3), (1, 0), (1, 0), (0, 4), (2, 1)]
    assert [ahead.take(*place) for place in places] == ["0.2", "0.3", "1.0", "1.0", "0.4", "2.1"]


def test_an_error_comes_with_its_step():
    def make(epoch: int, step: int) -> int:
        if step == 1:
            raise InputError("a picture is gone")
        return step

    ahead = Ahead(make, 3, CPU)
    assert ahead.take(0, 0) == 0
    with pytest.raises(InputError, match="a picture is gone"):
        ahead.take(0, 1)


@pytest.mark.parametrize("whole", [True, False])
def test_the_thread_ends_with_the_epoch_or_with_what_it_works_for(whole):
    before = set(threading.enumerate())  # others' may be about to end
    ahead = Ahead(Making(), 2, CPU)
    ahead.take(0, 0)
    (thread,) = (
        thread for thread in threading.enumerate() if thread.name == "raid-batches" and thread not in before
    )
    if whole:
        ahead.take(0, 1)
    else:
        del ahead
    thread.join(60)
    assert not thread.is_alive()


def test_work_is_done_in_order_and_a_failure_is_its_own():
    thread, seen = Background("test"), []
    futures = [
        thread.submit(lambda number=number: seen.append(number) or 10 // number) for number in (2, 0, 5)
    ]
    assert (futures[0].result(), futures[2].result(), seen) == (5, 2, [2, 0, 5])
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


@pytest.mark.parametrize(("seconds", "ended"), [(0.3, "ended\n"), (60.0, "")])
def test_a_process_waits_a_moment_for_what_is_under_way(seconds, ended):
    program = (
        "import time; from raid.data.background import Background\n"
        f"thread = Background('x'); thread.submit(lambda: (time.sleep({seconds}), print('ended')))"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (0, ended)
    assert time.monotonic() - begun < 40


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_batches_are_whole_when_they_are_taken():
    """Made on a stream of their own, in memory that is used over and over."""
    gpu = torch.device("cuda")

    def make(epoch: int, step: int) -> torch.Tensor:
        rows = torch.full((2000, 2000), float(step)).pin_memory().to(gpu, non_blocking=True)
        return (rows @ torch.eye(2000, device=gpu)) + 1

    ahead = Ahead(make, 50, gpu)
    sums = []
    for step in range(50):
        batch = ahead.take(0, step)
        for _ in range(5):
            batch = batch @ torch.eye(2000, device=gpu)
        sums.append(batch.mean())
    assert torch.stack(sums).tolist() == [step + 1.0 for step in range(50)]
