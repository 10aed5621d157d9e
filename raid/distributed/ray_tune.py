"""Trials of a search on Ray Tune: how many at a time, each with workers and a pool of its own.

A trial is one process of Tune's, which needs no CPU: it starts workers and pool and waits for them. So it is
the number of trials at a time that keeps them from waiting for each other's CPUs, and that is computed from
the cluster. Tune keeps no state that is needed again: what a search resumes from are the folders of its
trials, which nobody unpickles.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import ray
from ray import tune
from ray.train import UserCallback
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from raid import log
from raid.distributed.ray_backend import RayBackend
from raid.distributed.ray_cluster import Device, check_outlives_job, connect, wants_gpus

Mode: TypeAlias = Literal["max", "min"]
# What Tune sees of a trial: the objective, and the epochs after which it is of that value.
VALUE, EPOCH = "objective", "epochs"
NUMBER = "number"
# Of the process of a trial that waits for the workers: interpreter, libraries, decoded queries.
_DRIVER_BYTES = 512 * 2**20
_TUNE_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # An epoch without the objective, such as one of a stage before, is no mistake.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl has it all
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints its settings however little it is asked to
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt ends the search, not Tune's part of it alone
}


@dataclass(frozen=True)
class Room:
    """What a trial takes, and how many the cluster has room for.

    Attributes:
        trials: at a time.
        on_a_node: trials that may be on one node at the same time, and share its memory.
        need: of one, in words.
        have: of the cluster, in words.
        nodes: of the cluster.
    """

    trials: int
    on_a_node: int
    need: str
    have: str
    nodes: int


class JoinedBackend(RayBackend):
    """A part of the cluster that this process is connected to: of one trial among others."""

    def __init__(
        self,
        *,
        workers: int,
        threads: int,
        device: Device,
        pool_size: int | None,
        per_gpu: int,
        objective: str,
        shares: int,
    ) -> None:
        """Say what the trial needs.

        Args:
            workers: as in `RayBackend`, as are the next three.
            threads: of each.
            device: of the workers.
            pool_size: processes of the pool.
            per_gpu: of them, where they have one.
            objective: figure of an epoch that Tune is told.
            shares: trials that may be on a machine at the same time, and share its memory.
        """
        super().__init__(
            workers=workers, threads=threads, device=device, pool_size=pool_size, per_gpu=per_gpu
        )
        self._objective, self._shares = objective, shares

    def memory_bytes(self) -> int:
        """Return the trial's share of the smallest machine's memory."""
        return super().memory_bytes() // self._shares

    def _callbacks(self) -> list[UserCallback]:
        return [_TellTune(self._objective)]

    def close(self) -> None:
        """Stop the pool; the process stays connected."""
        self._close_pool()


class _TellTune(TuneReportCallback):  # type: ignore[misc]
    """Tells Tune the latest value of the objective at every report of an epoch."""

    def __init__(self, objective: str) -> None:
        super().__init__()
        self._objective = objective
        self._value: float | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        figures = metrics[0]
        self._value = figures.get(self._objective, self._value)
        if self._value is not None:
            self._training_actor_item_queue.put({VALUE: self._value, EPOCH: int(figures["epoch"]) + 1})


@dataclass(frozen=True)
class Need:
    """What a trial takes of the cluster.

    Attributes:
        workers: of its training.
        threads: CPUs of a worker, and of a process of its pool.
        device: as in `RayBackend`.
        pool: processes of its pool, which works while the workers wait: the larger of both counts.
    """

    workers: int
    threads: int
    device: Device
    pool: int


def room(need: Need, folder: Path, *, trains: bool = True) -> Room:
    """Connect, and compute how many trials the cluster has room for at a time; 0: for none.

    A worker, or a process of the pool, has its CPUs on one node.

    Args:
        need: of a trial.
        folder: of the search.
        trains: whether a trial starts a trainer.

    Raises:
        InputError: the folder goes with the submitted job that this is.
    """
    check_outlives_job(folder)
    connect(dashboard=trains)
    on_gpu = wants_gpus(need.device, ray.cluster_resources())
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = [_slots(node, need.threads, on_gpu) for node in nodes]
    size = max(need.workers, need.pool)
    kinds = {"CPU": size * need.threads, **({"GPU": size} if on_gpu else {})}
    wanted = " and ".join(f"{number} {kind}{'s' * (number > 1)}" for kind, number in kinds.items())
    have = " and ".join(f"{sum(node.get(kind, 0.0) for node in nodes):g}" for kind in kinds)
    return Room(sum(slots) // size, max(1, max(slots) // size), wanted, have, len(nodes))


def _slots(node: Mapping[str, float], threads: int, on_gpu: bool) -> int:
    """Return how many workers of some trial fit on a node."""
    by_threads = int(node.get("CPU", 0.0)) // threads
    return min(by_threads, int(node.get("GPU", 0.0))) if on_gpu else by_threads


class Work(Protocol):
    """What a trial does, in a process of its own; module-level."""

    def __call__(self, number: int, point: Mapping[str, Any], tell: "Tell", /) -> None:
        """Run trial `number`; `point` is what Optuna drew, empty where Tune draws nothing."""


Tell: TypeAlias = Callable[[float, int], None]
Ended: TypeAlias = Callable[[int, Mapping[str, Any], bool], None]


@dataclass(frozen=True)
class Draws:
    """Points that Optuna draws.

    Attributes:
        space: by path: (values,) or (low, high, log).
        known: (point, value) of the trials that have ended.
        first: number of the first trial that is drawn.
        num: how many are drawn.
        seed: of the sampler.
    """

    space: Mapping[str, tuple[Any, ...]]
    known: Sequence[tuple[Mapping[str, Any], float]]
    first: int
    num: int
    seed: int


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving: who is not among the best at a rung is stopped (ASHA).

    Attributes:
        grace: epochs of a trial before it may be stopped: the first rung.
        epochs: of a whole trial.
        factor: one in so many goes on from a rung; the next is so many times as far.
        known: by number, the (epochs, value) that trials which have ended reported, in order.
    """

    grace: int
    epochs: int
    factor: float
    known: Mapping[int, Sequence[tuple[int, float]]]

    def scheduler(self, mode: Mode) -> ASHAScheduler:
        """Return Tune's scheduler, which knows of the trials that have ended."""
        last = max(self.grace, self.epochs - 1)  # stopped at its last epoch a trial would have no model
        scheduler = ASHAScheduler(
            time_attr=EPOCH,
            metric=VALUE,
            mode=mode,
            grace_period=self.grace,
            max_t=last,
            reduction_factor=self.factor,
            stop_last_trials=False,
        )
        for number, reports in self.known.items():
            trial = SimpleNamespace(trial_id=f"known_{number}")
            scheduler.on_trial_add(None, trial)
            for epochs, value in reports:
                scheduler.on_trial_result(None, trial, {EPOCH: epochs, VALUE: value})
            scheduler.on_trial_remove(None, trial)
        return scheduler


def run_trials(
    work: Work,
    numbers: Sequence[int] | Draws,
    *,
    folder: Path,
    at_once: int,
    mode: Mode = "max",
    halving: Halving | None = None,
    reuse: bool = False,
    ended: Ended = lambda number, point, failed: None,
) -> None:
    """Run `work` for every number (or for every point that Optuna draws), `at_once` at a time.

    A trial that raises does not stop the others.

    Args:
        work: picklable.
        numbers: of the trials.
        folder: where Tune keeps its notes; removed at the end.
        at_once: trials.
        mode: of the objective.
        halving: stops trials early; None: nobody does.
        reuse: a process does one trial after the other, for it takes seconds to import what it needs. Not of
            work that may be stopped in the middle: what goes on in the process would get in the next's way.
        ended: called here with number and point (see `Work`) of a trial that has ended or was stopped, and
            whether it failed.
    """
    if not isinstance(numbers, Draws) and not numbers:
        return
    for name, value in _TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # whoever asks tells of trials in his own words
    _Ended.called = ended
    name = uuid.uuid4().hex[:8]
    trainable = tune.with_parameters(_run, work=work, folder=os.getcwd())
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"memory": _DRIVER_BYTES}),
        param_space=_space(numbers),
        tune_config=tune.TuneConfig(
            num_samples=numbers.num if isinstance(numbers, Draws) else 1,
            max_concurrent_trials=at_once,
            search_alg=_searcher(numbers, mode),
            scheduler=halving.scheduler(mode) if halving else FIFOScheduler(),
            reuse_actors=reuse,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=str(folder.absolute()), callbacks=[_Ended()], verbose=0
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


def _run(config: dict[str, Any], *, work: Work, folder: str) -> None:
    """Do the work of a trial in the process that Tune has for it, in the folder of who asked for it."""
    log.configure()
    with suppress(FileNotFoundError):  # another node has a submitted job's folder elsewhere, and is there
        os.chdir(folder)

    def tell(value: float, epochs: int) -> None:
        tune.report({VALUE: value, EPOCH: epochs})

    work(*_told(config), tell)


def _told(config: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return number and point of a trial."""
    return config[NUMBER], {path: value for path, value in config.items() if path != NUMBER}


class _Ended(tune.Callback):  # type: ignore[misc]
    """Passes on that a trial has ended. Tune pickles its callbacks, so whom to call stands with the class."""

    called: ClassVar[Ended]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell of a trial that has ended or was stopped."""
        _Ended.called(*_told(trial.config), False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell of a trial that has failed."""
        _Ended.called(*_told(trial.config), True)


def _space(numbers: Sequence[int] | Draws) -> dict[str, Any]:
    if not isinstance(numbers, Draws):
        return {NUMBER: tune.grid_search(list(numbers))}
    return {}  # Optuna has it


def _searcher(numbers: Sequence[int] | Draws, mode: Mode) -> Any:
    if not isinstance(numbers, Draws):
        return None
    from raid.distributed.ray_optuna import NumberedOptuna  # which not everybody has installed

    return NumberedOptuna(numbers, mode)
