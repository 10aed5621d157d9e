"""Start the workers of a run on this machine: this process, or several that it spawns."""

import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, start_processes

from raid import log
from raid.distributed.group import Group
from raid.errors import InputError
from raid.files import atomic_path

# Longer than the longest clustering of a set that fits one machine: the workers wait for it in `once`.
COLLECTIVE_TIMEOUT = timedelta(hours=12)
# What gloo and NCCL say on a worker whose peer is gone.
_BROKEN = ("closed by peer", "reset by peer", "broken pipe", "remote process exited", "socket closed")


class WorkersLost(RuntimeError):
    """Workers died, or lost each other, by no fault that the others know of: they can be started again."""


class Stopped(Exception):
    """The workers have saved their state and stopped, as they were asked to."""


def run_workers(function: Callable[..., None], workers: int, threads: int, *arguments: Any) -> None:
    """Call `function(group, *arguments)` on every worker and wait for all of them.

    One worker runs in this process; more are spawned with the gloo backend (NCCL between GPUs), and when one
    fails, all are stopped.

    Args:
        function: module-level; its result is what it writes.
        workers: number of processes.
        threads: of each worker.
        arguments: picklable.

    Raises:
        InputError: a worker raised it.
        Stopped: a worker raised it.
        WorkersLost: a spawned worker was killed.
        RuntimeError: a spawned worker failed; holds the traceback of the first that did.
    """
    if workers == 1:
        torch.set_num_threads(threads)
        function(Group.solo(), *arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _spawn(Path(folder), function, workers, threads, arguments)


def _spawn(
    folder: Path, function: Callable[..., None], workers: int, threads: int, arguments: tuple[Any, ...]
) -> None:
    try:
        start_processes(
            _work,
            args=(workers, threads, folder, function, arguments),
            nprocs=workers,
            start_method="spawn",
        )
    except ProcessException as error:
        for failure in sorted(folder.glob("failure_*")):
            name, _, text = failure.read_text().partition("\n")
            for kind in (InputError, Stopped, RuntimeError):
                if name == kind.__name__:
                    raise kind(text) from None
        raise WorkersLost(_in_a_line(error)) from None


def _in_a_line(error: ProcessException) -> str:
    """Return what became of a worker: the signal that killed it, or how it saw that another is gone."""
    last = str(error).strip().splitlines()[-1]
    return (
        f"worker {error.error_index} lost another: {last}"
        if isinstance(error, ProcessRaisedException)
        else last
    )


def _work(
    rank: int,
    workers: int,
    threads: int,
    folder: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    log.configure()
    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        collectives(on_gpu=on_gpu),
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=workers,
        timeout=COLLECTIVE_TIMEOUT,
    )
    try:
        function(Group.world(), *arguments)
    except Exception as error:
        _record(folder, rank, error)
        raise
    finally:
        dist.destroy_process_group()


def _record(folder: Path, rank: int, error: Exception) -> None:
    """Write the failure where the parent finds it, in order of time.

    One worker's failure breaks the others' collectives, and only the first of the failures tells why.
    """
    kind = kind_of(error)
    text = str(error) if kind in (InputError, Stopped) else f"worker {rank} failed:\n{traceback.format_exc()}"
    with atomic_path(folder / f"failure_{time.time_ns():020d}_{rank}") as temporary:
        temporary.write_text(f"{kind.__name__}\n{text}")


def collectives(*, on_gpu: bool) -> str:
    """Return torch's name of what moves tensors between the workers."""
    return "cpu:gloo,cuda:nccl" if on_gpu else "gloo"


def kind_of(error: BaseException) -> type[Exception]:
    """Return what an error is to a run: InputError, Stopped, WorkersLost or, of the program, RuntimeError."""
    for kind in (InputError, Stopped, WorkersLost):
        if isinstance(error, kind):
            return kind
    text = str(error).lower()
    return WorkersLost if any(words in text for words in _BROKEN) else RuntimeError
