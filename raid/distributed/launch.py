"""Start the workers of a run on this machine: this process, or several that it spawns."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

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
            _spawned,
            args=(workers, threads, folder, function, arguments),
            nprocs=workers,
            start_method="spawn",
        )
    except ProcessRaisedException:
        message = folder / "input_error"
        if message.exists():
            raise InputError(message.read_text()) from None
        raise


def _spawned(
    rank: int,
    workers: int,
    threads: int,
    folder: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    log.configure()
    try:
        _work(f"file://{folder / 'rendezvous'}", rank, workers, threads, function, arguments)
    except InputError as error:  # the parent process would see nothing but a traceback's text
        with atomic_path(folder / "input_error") as temporary:
            temporary.write_text(str(error))
        raise


def _work(
    init_method: str,
    rank: int,
    workers: int,
    threads: int,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(threads)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=workers, timeout=COLLECTIVE_TIMEOUT
    )
    try:
        function(Group.world(), *arguments)
    finally:
        dist.destroy_process_group()
