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
from torch.multiprocessing.spawn import ProcessException, start_processes

from raid import log
from raid.distributed.group import Group
from raid.errors import InputError
from raid.files import atomic_path

# Longer than the longest clustering of a set that fits one machine: the workers wait for it in `once`.
COLLECTIVE_TIMEOUT = timedelta(hours=12)


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
    except ProcessException:
        failures = sorted(folder.glob("failure_*"))
        if not failures:
            raise  # killed from outside: there is nothing more to say than the exit status
        kind, _, text = failures[0].read_text().partition("\n")
        raise InputError(text) if kind == "InputError" else RuntimeError(text) from None


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
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
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
    is_input = isinstance(error, InputError)
    text = str(error) if is_input else f"worker {rank} failed:\n{traceback.format_exc()}"
    with atomic_path(folder / f"failure_{time.time_ns():020d}_{rank}") as temporary:
        temporary.write_text(f"{'InputError' if is_input else 'other'}\n{text}")
