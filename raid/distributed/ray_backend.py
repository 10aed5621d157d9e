"""A run on Ray: one `TorchTrainer` for all workers of a stage, and a pool of actors beside it."""

import asyncio
import itertools
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from raid import log, machine
from raid.distributed.fanout import FanOut, InProcess
from raid.distributed.group import Group
from raid.distributed.launch import COLLECTIVE_TIMEOUT
from raid.distributed.ray_pool import RayPool
from raid.errors import InputError

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda"]

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job
_TRAIN_SETTINGS = {
    # A report waits for the controller's next look at the workers (2 s by default).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers that have not started by then never will: their resources were checked before.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # What workers print is printed once, not twice; nor is the watcher's harmless error line.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Paths mean on a worker what they mean here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class RayBackend:
    """A cluster that is there (`RAY_ADDRESS`, or a submitted job's), or one of this machine's own."""

    def __init__(self, *, workers: int, threads: int, device: Device, pool_size: int | None) -> None:
        """Say what the runs need; nothing is started yet.

        Args:
            workers: of a stage.
            threads: CPU threads of each worker and of each process of the pool.
            device: with `cuda`, or `auto` on a cluster with GPUs, every worker has a GPU, and so has every
                process of stage 1. This process needs none: it may be on a head without.
            pool_size: processes of the pool; None: as many as there are workers; 0: none, their work is done
                by the worker that asks, or here (on GPUs, where this process has none, by one process).
        """
        self.workers, self.threads, self.device = workers, threads, device
        self.on_gpu = False
        self.pool_size = workers if pool_size is None else pool_size
        self._started: RayPool | None = None
        self._folder = Path()

    def prepare(self, folder: Path) -> None:
        """Connect, compare what the run needs with what there is, and start the pool."""
        check_outlives_job(folder)
        self._folder = folder.absolute()
        connect()
        have = ray.cluster_resources()
        self.on_gpu = wants_gpus(self.device, have)
        _check_resources(have, workers=self.workers, threads=self.threads, on_gpu=self.on_gpu)
        if self._started is None and self.pool_size:
            self._started = RayPool.start(self.pool_size, threads=self.threads)

    @property
    def _fanout(self) -> FanOut:
        return self._started or InProcess()

    def memory_bytes(self) -> int:
        """Return the memory of the smallest machine with a process of the pool; without one, of this."""
        return min(self._started.on_each(machine.memory_bytes)) if self._started else machine.memory_bytes()

    @contextmanager
    def pool(self, num_items: int) -> Iterator[FanOut]:
        """Give the warm pool; on GPUs, a pool of its own that holds them until the block ends."""
        if not self.on_gpu:
            if self._started is None:
                torch.set_num_threads(self.threads)
            yield self._fanout
            return
        size = min(max(1, self.pool_size), num_items)
        pool = RayPool.start(size, threads=self.threads, gpus=1.0)
        try:
            yield pool
        finally:
            pool.close()

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(group, pool, *arguments)` on every worker of one `TorchTrainer`."""
        folder = self._folder / f"ray_train_{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        # By default it would belong to the resources of a Tune trial, which have no room for it.
        actor = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_Mailbox)
        mailbox = actor.remote() if self.workers > 1 else None
        trainer = TorchTrainer(
            _loop,
            train_loop_config={
                # In a list: a reference at the top would be fetched before the workers are there.
                "work": [ray.put((function, self._fanout, arguments))],
                "mailbox": mailbox,
                "threads": self.threads,
                "storage": folder,
            },
            scaling_config=ScalingConfig(
                num_workers=self.workers,
                use_gpu=self.on_gpu,
                resources_per_worker={"CPU": self.threads, **({"GPU": 1} if self.on_gpu else {})},
            ),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if self.on_gpu else "gloo",
                timeout_s=int(COLLECTIVE_TIMEOUT.total_seconds()),
            ),
            run_config=RunConfig(
                name="stage",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
                callbacks=self._callbacks(),
                logging_config=LoggingConfig(log_level="WARNING"),  # not every figure of every report
            ),
        )
        try:
            trainer.fit()
        except ray.train.WorkerGroupError as error:
            raise _cause(error) from None
        finally:
            if mailbox is not None:
                ray.kill(mailbox)
            shutil.rmtree(folder, ignore_errors=True)

    def _callbacks(self) -> list[UserCallback]:
        """Return who is told of every report of the workers."""
        return []

    def _close_pool(self) -> None:
        if self._started is not None:
            self._started.close()
        self._started = None

    def close(self) -> None:
        """Stop the pool and leave the cluster."""
        self._close_pool()
        ray.shutdown()


def connect(num_cpus: int | None = None, *, dashboard: bool = True) -> None:
    """Connect this process to the cluster that is there, or start one of this machine's own.

    Args:
        num_cpus: of the one that is started; None: those of the machine.
        dashboard: of the one that is started; it takes seconds. Without, the resources of a trainer that is
            stopped or killed are never free again: Ray Train asks it who is alive.
    """
    for name, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.WARNING)
        return
    # What frees the resources of a trainer that was killed asks the cluster by its address, which its process
    # has to know where there are two clusters on a machine; it takes on what the cluster is started with.
    port = str(free_port())
    with _environment(RAY_GCS_SERVER_PORT=port, RAY_ADDRESS=f"{ray.util.get_node_ip_address()}:{port}"):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
        )


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def free_port() -> int:
    """Return a port that nobody listens on, outside the range of Ray's workers."""
    while True:
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = int(listener.getsockname()[1])
        if port >= 20000:
            return port


def check_outlives_job(folder: Path) -> None:
    """Refuse a run folder that goes with the submitted job that this process is of."""
    if _IN_JOB in os.environ and not folder.is_absolute():
        raise InputError(
            f"run.folder: {folder} is relative, and a submitted job runs in a copy of its working "
            "directory that goes with it; give an absolute path on storage that all nodes share"
        )


def wants_gpus(device: Device, have: Mapping[str, float]) -> bool:
    """Whether the workers have a GPU each, on a cluster with these resources."""
    return device == "cuda" or (device == "auto" and have.get("GPU", 0.0) > 0.0)


@dataclass(frozen=True)
class TrainGroup(Group):
    """The workers of a `TorchTrainer`."""

    mailbox: ActorHandle | None  # None: one worker has nobody to write to
    calls: Iterator[int] = field(default_factory=itertools.count)

    def once(self, compute: Callable[[], T]) -> T:
        """Run `compute` on the first worker; the others wait for its letter, not in a collective.

        A collective that stays open while a set is clustered would run into its time-out.
        """
        if self.mailbox is None:
            return compute()
        call = next(self.calls)
        if self.is_first:
            try:
                letter: tuple[Any, Exception | None] = compute(), None
            except Exception as error:  # every rank must fail together, or the others wait for ever
                letter = None, error
            ray.get(self.mailbox.put.remote(call, letter))
        else:
            letter = ray.get(self.mailbox.take.remote(call))
        result, failure = letter
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]

    def report(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Report an epoch to Ray Train."""
        ray.train.report({**figures, "epoch": epoch})


class _Mailbox:
    """Keeps the letter of each call until all workers but the sender have taken it."""

    def __init__(self) -> None:
        self.letters: dict[int, Any] = {}
        self.arrived = asyncio.Condition()

    async def put(self, call: int, letter: Any) -> None:
        """Keep the letter; those before it have been read."""
        async with self.arrived:
            self.letters = {old: kept for old, kept in self.letters.items() if old >= call - 1}
            self.letters[call] = letter
            self.arrived.notify_all()

    async def take(self, call: int) -> Any:
        """Wait for the letter of `call`."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: call in self.letters)
            return self.letters[call]


def _loop(config: dict[str, Any]) -> None:
    log.configure()
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    group = TrainGroup(context.get_world_rank(), context.get_world_size(), config["mailbox"])
    _check_storage(config["storage"])
    function, pool, arguments = ray.get(config["work"][0])
    function(group, pool, *arguments)


def _check_storage(folder: Path) -> None:
    node = ray.util.get_node_ip_address()
    if not folder.is_dir():
        raise InputError(
            f"run.folder: {folder.parent} is not there on node {node}; "
            "put it on storage that all nodes share, under the same path"
        )
    try:
        mark = folder / uuid.uuid4().hex
        mark.touch()
        mark.unlink()
    except OSError as error:
        raise InputError(f"run.folder: node {node} cannot write to {folder.parent}: {error}") from error


def _check_resources(have: Mapping[str, float], *, workers: int, threads: int, on_gpu: bool) -> None:
    wanted = {"CPU": workers * threads, **({"GPU": workers} if on_gpu else {})}
    if all(have.get(kind, 0.0) >= number for kind, number in wanted.items()):
        return
    needs = " and ".join(f"{number} {kind}s" for kind, number in wanted.items())
    has = " and ".join(f"{have.get(kind, 0.0):g}" for kind in wanted)
    fits = min(int(have.get(kind, 0.0) * workers // number) for kind, number in wanted.items())
    raise InputError(
        f"run.workers: {workers} workers need {needs}, and the cluster has {has}; "
        f"ask for at most {fits}, or for a larger cluster{' or run.device=cpu' if on_gpu else ''}"
    )


def _cause(error: ray.train.WorkerGroupError) -> Exception:
    """Return the failure that tells why: the others' are broken connections."""
    causes = [getattr(failure, "cause", None) or failure for failure in error.worker_failures.values()]
    for cause in causes:
        if isinstance(cause, InputError):
            return InputError(str(cause))
    return RuntimeError(str(error))
