"""When the last of many independent items is done, on so many processes: what more of them would bring."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from raid.distributed.fanout import depth

PROCESSES = (1, 2, 4, 8, 16, 32, 64)


def makespan(seconds: Sequence[float], processes: int) -> float:
    """Return when the last item ends, handed out as Ray's pool does it (`RayPool.map`).

    Args:
        seconds: of each item, in the order in which they are handed out.
        processes: of the pool, each of which works off its items one after the other.
    """
    waiting, load, free = deque(enumerate(seconds)), [0] * processes, [0.0] * processes
    running: list[tuple[float, int, int]] = []  # end, item, process
    now = 0.0
    while waiting or running:
        while waiting and min(load) < depth(len(waiting), processes):
            process = load.index(min(load))
            item, duration = waiting.popleft()
            free[process] = max(free[process], now) + duration
            heappush(running, (free[process], item, process))
            load[process] += 1
        now, _, process = heappop(running)
        load[process] -= 1
    return now


def longest_first(seconds: Sequence[float], processes: int) -> float:
    """Return when the last item ends, the longest being handed out first."""
    return makespan(sorted(seconds, reverse=True), processes)


def least(seconds: Sequence[float], processes: int) -> float:
    """Return what no order can be faster than: an even share of all items, and the longest of them."""
    return max(sum(seconds) / processes, *seconds) if seconds else 0.0


@dataclass(frozen=True)
class Makespan:
    """Seconds of the same items on so many processes, and what they cannot be less than."""

    processes: int
    seconds: float
    bound: float


def makespans(seconds: Sequence[float], processes: Sequence[int] = PROCESSES) -> list[Makespan]:
    """Return the makespan of items, in the order they are handed out in, for each number of processes."""
    return [Makespan(number, makespan(seconds, number), least(seconds, number)) for number in processes]


def enough(seconds: Sequence[float]) -> int:
    """Return the fewest processes that are done with the items when the longest is."""
    longest = max(seconds)
    return next(
        number for number in range(1, len(seconds) + 1) if makespan(seconds, number) <= longest * (1 + 1e-9)
    )
