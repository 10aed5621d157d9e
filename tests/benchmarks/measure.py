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
