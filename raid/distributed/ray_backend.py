"""A run on Ray: one `TorchTrainer` for all workers of a stage, and a pool of actors beside it."""

import asyncio
import itertools
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

from raid import log, machine
from raid.distributed.fanout import FanOut, InProcess
from raid.distributed.group import Group
from raid.distributed.launch import Stopped, WorkersLost, kind_of
from raid.distributed.ray_cluster import Device, check_outlives_job, connect, wants_gpus
from raid.distributed.ray_metrics import show
from raid.distributed.ray_pool import RayPool
from raid.distributed.ray_process_group import JoinedByTheWorkers, join_process_group
from raid.errors import InputError

T = TypeVar("T")
# How long a stage waits for room for all of its workers, and for room for as many as will do.
_ALL_WITHIN_S = 30.0
_SOME_WITHIN_S = 600.0


class RayBackend:
    """A cluster that is there (`RAY_ADDRESS`, or a submitted job's), or one of this machine's own."""

    def __init__(
        self,
        *,
        workers: int,
        threads: int,
        device: Device,
        pool_size: int | None,
        per_gpu: int = 1,
        fewer: Sequence[int] = (),
    ) -> None:
        """Say what the runs need; nothing is started yet.

        Args:
            workers: of a stage.
            threads: CPU threads of each worker and of each process of the pool.
            device: with `cuda`, or `auto` on a cluster with GPUs, every worker has a GPU, and so has every
                process of stage 1. This process needs none: it may be on a head without.
            pool_size: processes of the pool; None: as many as there are workers; 0: none, their work is done
                by the worker that asks, or here (on GPUs, where this process has none, by one process).
            per_gpu: processes in place of one where each has a GPU, which they share.
            fewer: numbers of workers, falling, that will do when the cluster has lost some; empty: a stage
                waits for all.
        """
        self._counts = (workers, *fewer)
        self.workers, self.threads, self.device = workers, threads, device
        self.on_gpu = False
        self.pool_size = workers if pool_size is None else pool_size
        self._per_gpu = per_gpu
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
        """Give the warm pool; on GPUs, a pool of its own that holds them until the block ends.

        Those that share a GPU have a context each: what one does waits for nothing that another does.
        """
        if not self.on_gpu:
            if self._started is None:
                torch.set_num_threads(self.threads)
            yield self._fanout
            return
        size = min(max(1, self.pool_size) * self._per_gpu, num_items)
        pool = RayPool.start(size, threads=self.threads, gpus=1 / self._per_gpu)
        try:
            yield pool
        finally:
            pool.close()

    def run_workers(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(group, pool, *arguments)` on every worker of one `TorchTrainer`."""
        workers = self._awaited()
        folder = self._folder / f"ray_train_{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        trainer = TorchTrainer(
            _loop,
            train_loop_config={
                # In a list: a reference at the top would be fetched before the workers are there.
                "work": [ray.put((function, self._fanout, arguments))],
                "threads": self.threads,
                "storage": folder,
                "on_gpu": self.on_gpu,
            },
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=self.on_gpu,
                resources_per_worker={"CPU": self.threads, **({"GPU": 1} if self.on_gpu else {})},
            ),
            torch_config=JoinedByTheWorkers(),
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
        except ray.train.ControllerError as error:
            raise WorkersLost(f"the workers could not be started: {error}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _awaited(self) -> int:
        """Return how many workers there is room for: all, or fewer where all are waited for in vain.

        Raises:
            InputError: there is room for none that will do.
        """
        begun = time.monotonic()
        while True:
            have, waited = ray.cluster_resources(), time.monotonic() - begun
            fit = [count for count in self._counts if not _lacks(have, count, self.threads, self.on_gpu)]
            if fit and (fit[0] == self.workers or waited > _ALL_WITHIN_S):
                return fit[0]
            if waited > _SOME_WITHIN_S:
                _check_resources(have, workers=self.workers, threads=self.threads, on_gpu=self.on_gpu)
            time.sleep(1.0)

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

    def report(self, epoch: int, figures: Mapping[str, float], run: Mapping[str, str]) -> None:
        """Report an epoch to Ray Train, and show it in the cluster's metrics."""
        if self.is_first:
            show(epoch, figures, run)
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
    join_process_group(on_gpu=config["on_gpu"])
    context = ray.train.get_context()
    group = TrainGroup(context.get_world_rank(), context.get_world_size(), _mailbox())
    _check_storage(config["storage"])
    function, pool, arguments = ray.get(config["work"][0])
    function(group, pool, *arguments)


def _mailbox() -> ActorHandle | None:
    """Return the mailbox of these workers, which ends with the first of them."""
    if dist.get_world_size() == 1:
        return None
    handles: list[ActorHandle | None] = [None]
    if dist.get_rank() == 0:
        # By default it would belong to the resources of a Tune trial, which have no room for it.
        handles[0] = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_Mailbox).remote()
    dist.broadcast_object_list(handles, src=0)
    return handles[0]


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


def _wanted(workers: int, threads: int, on_gpu: bool) -> dict[str, int]:
    return {"CPU": workers * threads, **({"GPU": workers} if on_gpu else {})}


def _lacks(have: Mapping[str, float], workers: int, threads: int, on_gpu: bool) -> bool:
    return any(have.get(kind, 0.0) < number for kind, number in _wanted(workers, threads, on_gpu).items())


def _check_resources(have: Mapping[str, float], *, workers: int, threads: int, on_gpu: bool) -> None:
    wanted = _wanted(workers, threads, on_gpu)
    if not _lacks(have, workers, threads, on_gpu):
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
    causes = {rank: getattr(found, "cause", None) or found for rank, found in error.worker_failures.items()}
    kinds = {rank: kind_of(cause) for rank, cause in causes.items()}
    for kind in (InputError, Stopped):
        for rank, found in kinds.items():
            if found is kind:
                return kind(str(causes[rank]))
    # Beside what their code raises, Ray has exceptions of its own for workers that are gone.
    dead = [str(rank) for rank in sorted(causes) if type(causes[rank]).__module__.startswith("ray.")]
    if dead:
        return WorkersLost(f"worker {', '.join(dead)} died")
    if RuntimeError not in kinds.values():
        return WorkersLost("the workers have lost their connection")
    return RuntimeError(str(error))
