"""Where a run works: its workers and its pool of processes, on this machine or on a Ray cluster."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from raid import machine
from raid.distributed.fanout import FanOut, InProcess, Processes
from raid.distributed.launch import run_workers
from raid.errors import InputError


class Backend(Protocol):
    """Starts what a run needs.

    Attributes:
        on_gpu: whether it works on GPUs; `prepare` comes first.
    """

    on_gpu: bool

    def prepare(self, folder: Path) -> None:
        """Find out, before anything is written, that the run can start.

        Args:
            folder: the run's, which every worker must see.

        Raises:
            InputError: there is too little of something.
        """

    def memory_bytes(self) -> int:
        """Return the memory of the smallest machine that clusters; `prepare` comes first."""

    def pool(self, num_items: int) -> AbstractContextManager[FanOut]:
        """Give a place for `num_items` independent pieces of work, for as long as the block lasts."""

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(group, fanout, *arguments)` on every worker and wait for all of them.

        Args:
            function: module-level; its result is what it writes.
            arguments: picklable.

        Raises:
            InputError: a worker raised it.
            Stopped: a worker raised it.
            WorkersLost: workers died; calling again starts them anew.
        """


class LocalBackend:
    """This machine, without Ray: this process, or gloo processes that it spawns."""

    def __init__(self, *, workers: int, threads: int, on_gpu: bool) -> None:
        """Use `workers` processes of `threads` CPU threads; with `on_gpu` the pool is this process."""
        self.workers, self.threads, self.on_gpu = workers, threads, on_gpu

    def prepare(self, folder: Path) -> None:
        """Count the GPUs; the processes may be more than the cores."""
        if not self.on_gpu:
            return
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found == 0:
            raise InputError("run.device: cuda, and torch finds no GPU on this machine; ask for cpu or auto")
        if self.workers > found:
            raise InputError(
                f"run.workers: {self.workers} workers want a GPU each, and this machine has {found}; "
                "ask for fewer workers, or for run.device=cpu"
            )

    def memory_bytes(self) -> int:
        """Return the memory of this machine."""
        return machine.memory_bytes()

    @contextmanager
    def pool(self, num_items: int) -> Iterator[FanOut]:
        """Give as many processes as there are workers; on a GPU, or for one item, this process."""
        processes = min(self.workers, num_items)
        if processes <= 1 or self.on_gpu:
            torch.set_num_threads(self.threads)
            yield InProcess()
            return
        pool = Processes(processes, self.threads)
        try:
            yield pool
        finally:
            pool.close()

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run the workers; the blocks between epochs run in the worker that asks."""
        run_workers(function, self.workers, self.threads, InProcess(), *arguments)
