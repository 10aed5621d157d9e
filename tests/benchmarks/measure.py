"""What the paths are measured with."""

import resource
import threading
from collections.abc import Callable
from time import perf_counter, process_time
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
_GIB = 2**30


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """The result of `work`, its seconds and its CPU-seconds (of all threads of this process)."""
    started, cpu = perf_counter(), process_time()
    result = work()
    return result, perf_counter() - started, process_time() - cpu


class PeakMemory:
    """Watches the resident memory of the block, sampled every few milliseconds; `gib` is above its start."""

    def __enter__(self) -> "PeakMemory":
        self._start = self._peak = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._peak = max(self._peak, resident_bytes())

    @property
    def gib(self) -> float:
        return (self._peak - self._start) / _GIB

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, resident_bytes())


def resident_bytes() -> int:
    """Resident memory of this process that is its own: without files that are mapped."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * (int(fields["RssAnon"].split()[0]) + int(fields["RssShmem"].split()[0]))


def peak_so_far_gib() -> float:
    """The largest resident memory of this process since it began, files that are mapped included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
