"""What the paths are measured with."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")
Line = dict[str, Any]
PIECE = 2_000  # rows that a peer runs on where it would take too long for all
_REPEATS = 3  # of what is scaled: noise is scaled with it


@contextmanager
def measuring() -> Iterator[Line]:
    """Fill a dictionary with seconds, CPU-seconds of all threads, and the rise of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    result: Line = {}
    memory, started, cpu = memory_gib("VmRSS"), time.perf_counter(), time.process_time()
    yield result
    result |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    result["peak_rss_gib"] = max(0.0, memory_gib("VmHWM") - memory)


def measured(work: Callable[[], T]) -> tuple[T, Line]:
    """The result of `work` and what it took, see `measuring`."""
    with measuring() as cost:
        result = work()
    return result, cost


def in_full_or_scaled(
    run: Callable[[int], Callable[[], T]], num_rows: int, *, in_full: bool
) -> tuple[T, Line, bool]:
    """What a peer gives and takes at `num_rows`, and whether that is scaled from `PIECE` rows.

    Loops over rows grow with the rows, tables with their square: half as many rows tell how much is of which
    kind. (Cluster-Contrast took 8.7 CPU-seconds for 8,000; from 2,000 so 7 to 8, by the square alone 24.)

    Args:
        run: the peer's work on so many rows, made ready: what it returns is measured when it is called.
        num_rows: of the set.
        in_full: whether the peer can run on all of them.
    """
    if in_full or num_rows <= PIECE:
        return *measured(run(num_rows)), False
    runs = [measured(run(PIECE)) for _ in range(_REPEATS)]
    whole = min(cost["cpu_seconds"] for _, cost in runs)
    half = min(measured(run(PIECE // 2))[1]["cpu_seconds"] for _ in range(_REPEATS))
    linear = min(max(4 * half - whole, 0.0), whole)
    scale = num_rows / PIECE
    seconds = linear * scale + (whole - linear) * scale**2
    peak = runs[0][1]["peak_rss_gib"] * scale**2  # later ones find memory that is there already
    return runs[0][0], {"cpu_seconds": seconds, "peak_rss_gib": peak}, True


def memory_gib(field: str) -> float:
    """A figure of /proc/self/status: VmRSS resident, VmHWM its peak, RssAnon without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**20


def limit(threads: int) -> None:
    """Let this process use so many threads, ours and those of the peers."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


@contextmanager
def peak_anonymous_gib(interval: float = 0.02) -> Iterator[Line]:
    """Fill `anonymous_gib` with the largest rise of memory that is no file's, looked at now and then."""
    before, ended = memory_gib("RssAnon"), threading.Event()
    peak: Line = {"anonymous_gib": 0.0}

    def watch() -> None:
        while not ended.wait(interval):
            peak["anonymous_gib"] = max(peak["anonymous_gib"], memory_gib("RssAnon") - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
