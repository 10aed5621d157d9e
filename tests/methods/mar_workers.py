"""What the workers of MAR's invariance tests do: steps of both stages in every mode, with faults, and runs.

Each worker writes what it ended with, so that the test can compare workers with each other and with the
training on one worker.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import small_network
import torch
from comparing import flat
from dying import Killed, dying
from torch import Tensor
from workers import StatisticsOfFirstWorker, SummedGradients

from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.losses.cross_view import CrossViewCentre
from raid.methods import stage as stage_loop
from raid.methods.encoder import Encoder
from raid.methods.mar import losses as mar_losses
from raid.methods.mar import recipe as mar
from raid.methods.mar.adaptation import AdaptationStage
from raid.methods.mar.job import MarJob
from raid.methods.mar.multilabel_table import MultilabelTable, Places
from raid.methods.mar.pretraining import PretrainingStage
from raid.methods.stage import Worker

PRETRAINING_STEPS, STEPS = 2, 4
Patch = Callable[[Group], Any]


@dataclass(frozen=True)
class Run:
    """A whole run, or one that is killed after it has saved its state so many times (0: never)."""

    job: MarJob
    killed_after: int = 0


@dataclass(frozen=True)
class Job:
    """All that one start of the workers does."""

    modes: dict[str, MarJob]
    faults: bool
    runs: list[Run]
    out: Path


@contextmanager
def _mines_own_rows(group: Group) -> Iterator[None]:
    """Pairs of the rows that a worker has embedded alone."""
    real = mar_losses.mine_by_agreement

    def mine(features: Tensor, multilabels: Tensor, *arguments: Any, **keywords: Any) -> Any:
        own = group.slice(len(features))
        mined = real(features[own], multilabels[own], *arguments, **keywords)
        return replace(mined, rows=mined.rows + own.start)

    with mock.patch.object(mar_losses, "mine_by_agreement", mine):
        yield


@contextmanager
def _table_of_own_rows(group: Group) -> Iterator[None]:
    """The table sees the multilabels that a worker has computed alone."""

    def visit(table: MultilabelTable, places: Places, multilabels: Tensor) -> Tensor:
        own = group.slice(len(places.here))
        table.memory.update(places.here[own], multilabels[own])
        return table.memory.table[places.here]

    with mock.patch.object(MultilabelTable, "visit", visit):
        yield


@contextmanager
def _centre_of_own_rows(group: Group) -> Iterator[None]:
    """The centre of L_CML follows the rows of each worker."""
    real = CrossViewCentre.update

    def update(centre: CrossViewCentre, logs: Tensor, views: tuple[Tensor, ...]) -> None:
        own = group.slice(len(logs))
        of_own = [view[(view >= own.start) & (view < own.stop)] - own.start for view in views]
        real(centre, logs[own], tuple(view for view in of_own if len(view) > 1))

    with mock.patch.object(CrossViewCentre, "update", update):
        yield


@contextmanager
def _agents_gradient_times_workers(group: Group) -> Iterator[None]:
    """The agents' gradient, which every worker has whole, is added up over the workers."""
    real = mar_losses.agent_loss

    def agent_loss(features: Tensor, agents: Tensor, *arguments: Any) -> Tensor:
        return real(features, group.size * agents - (group.size - 1) * agents.detach(), *arguments)

    with mock.patch.object(mar_losses, "agent_loss", agent_loss):
        yield


@contextmanager
def _factor_of_workers_forgotten(group: Group) -> Iterator[None]:
    """The averaging of the gradients over the workers is not made up for."""

    real = Encoder.forward_batch

    def forward_batch(encoder: Encoder, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        features, backward = real(encoder, inputs)
        return features, lambda gradients: backward(gradients / group.size)

    with mock.patch.object(Encoder, "forward_batch", forward_batch):
        yield


class StatisticsOfSmallNetwork(StatisticsOfFirstWorker):
    """The same fault: means and variances of two batch norms, where features are of 16 dimensions."""

    width = 2 * (8 + small_network.DIMENSIONS)


PATCHES: dict[str, Patch] = {
    "mining of own rows": _mines_own_rows,
    "table of own rows": _table_of_own_rows,
    "centre of own rows": _centre_of_own_rows,
    "agents' gradient times workers": _agents_gradient_times_workers,
    "factor of workers forgotten": _factor_of_workers_forgotten,
}
GROUPS = {
    "statistics of the first worker": StatisticsOfSmallNetwork,
    "summed gradients": SummedGradients,
}


def work(group: Group, fanout: FanOut, job: Job) -> None:
    """Do everything that `job` asks for, on a small network; write it to `job.out`."""
    with small_network.in_use():
        _work(group, fanout, job)


def _work(group: Group, fanout: FanOut, job: Job) -> None:
    found = {name: train(group, fanout, mode) for name, mode in job.modes.items()}
    if job.faults:
        found |= _with_faults(group, fanout, job.modes["ghost"])
    torch.save(found, job.out / f"worker_{group.rank}_of_{group.size}.pt")
    for run in job.runs:
        # All workers together, for none to wait for another.
        save = dying(stage_loop.save, run.killed_after, after=True)
        with mock.patch.object(stage_loop, "save", save):
            try:
                mar.train(group, fanout, run.job)
            except Killed:
                group.barrier()


def _with_faults(group: Group, fanout: FanOut, honest: MarJob) -> dict[str, Any]:
    found = {}
    for name, patch in PATCHES.items():
        with patch(group):
            found[name] = train(group, fanout, honest)
    for name, faulty in GROUPS.items():
        found[name] = train(faulty(group.rank, group.size), fanout, honest)
    config = honest.config
    local = replace(honest, config=replace(config, model=replace(config.model, batch_norm="local")))
    return found | {"local batch norm": train(group, fanout, local)}


def train(group: Group, fanout: FanOut, job: MarJob) -> dict[str, Any]:
    """Train a few steps of both stages; return losses, first gradients, and all that is learned."""
    worker = Worker(group, fanout, job, torch.device("cpu"))
    first = PretrainingStage(worker)
    losses, gradients = _steps(first, 0, PRETRAINING_STEPS)
    second = AdaptationStage(worker, first.networks.weights(30.0))
    second.start()
    start = float(second.followed.threshold)
    more_losses, more_gradients = _steps(second, first.epochs.stop, STEPS)
    networks, followed = second.networks, second.followed
    table, centre = followed.table, followed.centre
    return {
        "losses": torch.cat([losses, more_losses]),
        "pretraining gradient": gradients,
        "gradient": more_gradients,
        "parameters": flat(list(networks.encoder.model.parameters())),
        "statistics": flat(list(networks.encoder.model.buffers())),
        "agents": networks.agents.detach().clone(),
        "table": group.gather_rows(table.memory.table) if table.sharded else table.memory.table.clone(),
        "centre": flat([centre.mean, centre.deviation]),
        "threshold": torch.tensor([start, float(followed.threshold)], dtype=torch.float64),
    }


def _steps(stage: PretrainingStage | AdaptationStage, epoch: int, number: int) -> tuple[Tensor, Tensor]:
    """Train steps of an epoch; return their losses and the gradient of the first."""
    losses, gradient = [], torch.empty(0)
    for step in range(number):
        losses.append(stage.step(epoch, step)["loss"])
        if step == 0:
            learned = [*stage.networks.encoder.model.parameters(), stage.networks.agents]
            gradient = flat([parameter.grad for parameter in learned])
    return torch.stack(losses), gradient
