"""When the last item is done: by hand, against the pool's own code on a clock of its own, by its bounds."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raid.data.counts import MSMT17
from raid.distributed import ray_pool
from raid.methods.makespan import enough, least, longest_first, makespan, makespans

LABELS = Path(__file__).parents[3] / "shared" / "data" / "msmt17_local_labels.parquet"


@dataclass
class Cluster:
    """Stands for Ray: items take the seconds that they are, on a clock that jumps from end to end."""

    now: float = 0.0
    running: list[tuple[float, int, "Task"]] = field(default_factory=list)
    number: int = 0

    def put(self, value: Any) -> Any:
        return value

    def get(self, task: "Task") -> Any:
        return task.result

    def wait(self, tasks: list["Task"], num_returns: int) -> tuple[list["Task"], list["Task"]]:
        self.now, _, task = heapq.heappop(self.running)
        return [task], [other for other in tasks if other is not task]


@dataclass(eq=False)
class Task:
    """What a process was asked for."""

    result: Any


@dataclass
class Process:
    """Works off what it is given, one after the other."""

    cluster: Cluster
    free: float = 0.0

    @property
    def run(self) -> "Process":
        return self

    def remote(self, function: Callable[[Any], Any], item: Any) -> Task:
        self.free, task = max(self.free, self.cluster.now) + item, Task(function(item))
        self.cluster.number += 1
        heapq.heappush(self.cluster.running, (self.free, self.cluster.number, task))
        return task


@pytest.fixture
def on_the_pool(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float], int], float]:
    """Return when the pool's own `map` would be done."""
    monkeypatch.setattr(ray_pool, "_reference", lambda value: value)

    def last(seconds: list[float], processes: int) -> float:
        cluster = Cluster()
        monkeypatch.setattr(ray_pool, "ray", cluster)
        pool = ray_pool.RayPool([Process(cluster) for _ in range(processes)])
        assert list(pool.map(lambda item: -item, seconds)) == [-item for item in seconds]
        return cluster.now

    return last


def random_items(seed: int, number: int) -> list[float]:
    """Items of which some are long, some equal and some nothing at all."""
    rng = np.random.default_rng(seed)
    items = np.where(rng.random(number) < 0.3, rng.integers(0, 4, number), rng.exponential(5.0, number))
    return [float(item) for item in items]


def test_by_hand():
    # 7 and 5 begin; 4 waits for the second, and goes to it; 3 goes to the first: 7 + 3 = 10, 5 + 4 = 9.
    assert makespan([7.0, 5.0, 4.0, 3.0], 2) == 10.0
    assert makespan([3.0, 4.0, 5.0, 7.0], 2) == 11.0  # the longest last: 3 + 5, then 4 + 7
    assert longest_first([3.0, 4.0, 5.0, 7.0], 2) == 10.0
    # Five items wait when both are at work: 1 is put behind 9, though the other process is free at time 2.
    assert makespan([9.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0], 2) == 10.0
    assert makespan([9.0, 2.0, 1.0, 1.0, 1.0, 1.0], 2) == 9.0  # of four, none is put behind a long one
    assert makespan([], 3) == 0.0
    assert makespan([2.0], 64) == 2.0


def test_bounds_by_hand():
    found = makespans([7.0, 5.0, 4.0, 3.0], (1, 2, 4))
    assert [(each.processes, each.seconds, each.bound) for each in found] == [
        (1, 19.0, 19.0),
        (2, 10.0, 9.5),
        (4, 7.0, 7.0),
    ]
    assert least([], 3) == 0.0
    assert enough([7.0, 5.0, 4.0, 3.0]) == 3  # 7, 5 and 4 + 3
    assert enough([7.0]) == 1
    assert enough([1.0, 1.0, 1.0]) == 3


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_the_pool_does(on_the_pool, seed):
    for number in (1, 2, 5, 9, 15, 40):
        items = random_items(seed, number)
        for processes in (1, 2, 3, 4, 7, 8, 16, 64):
            assert makespan(items, processes) == pytest.approx(on_the_pool(items, processes), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_never_below_the_bound_never_above_the_sum(seed):
    for number in (1, 2, 3, 8, 15, 33):
        items = random_items(seed, number)
        for processes in (1, 2, 4, 8, 16, 32, 64):
            found = makespan(items, processes)
            assert least(items, processes) - 1e-9 <= found <= sum(items) + 1e-9
        assert makespan(items, 1) == pytest.approx(sum(items))
        for processes in (number, number + 1, 64):
            assert makespan(items, processes) == max(items)
        assert makespan(items, enough(items)) == pytest.approx(max(items))
        assert all(makespan(items, fewer) > max(items) * (1 + 1e-9) for fewer in range(1, enough(items)))


def test_cameras_of_msmt17():
    """Were a camera's time that of its images, seven processes would do; with the steps', all fifteen."""
    by_images = longest_first([float(number) for number in MSMT17.train_images], 7)
    assert by_images == 4910
    assert enough(sorted(map(float, MSMT17.train_images), reverse=True)) == 7
    with_steps = sorted((10_000.0 + number for number in MSMT17.train_images), reverse=True)
    assert [round(each.seconds) for each in makespans(with_steps)] == [
        *(182_621, 96_370, 48_791, 24_499),
        *(14_910, 14_910, 14_910),
    ]
    assert enough(with_steps) == 15


@pytest.mark.skipif(not LABELS.exists(), reason="MSMT17's local labels are not at hand")
def test_cameras_of_msmt17_are_those_of_its_labels():
    numbers = np.bincount(pq.read_table(LABELS)["camera"].to_numpy())
    assert tuple(numbers.tolist()) == MSMT17.train_images
