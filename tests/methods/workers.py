"""What the workers of the invariance tests run: a few steps in every mode, one or all of the faults, a run.

Each worker writes what it ended with, so that the test can compare workers with each other and with the
run on one worker.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import thin_resnet
import torch
import torch.distributed as dist
from comparing import flat
from numpy.typing import NDArray
from torch import Tensor, nn

from raid.data.images import Images
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.methods.icsr.contrastive import ContrastiveEncoder, Settings
from raid.methods.icsr.inter_camera import InterCameraJob, inter_camera

NUM_STEPS = 6
BATCH = 16


@dataclass(frozen=True)
class StepsJob:
    """A few training steps on given labels."""

    settings: Settings
    weights: dict[str, Tensor]
    images: Images
    labels: NDArray[np.int64]
    cameras: NDArray[np.int64]


@dataclass(frozen=True)
class Job:
    """All that one start of the workers does."""

    steps: dict[str, StepsJob]
    faults: bool
    runs: list[InterCameraJob]
    out: Path


class MemoryFromOwnRows(Group):
    """Planted fault: the memory is updated with this worker's rows only."""

    def gather_rows(self, rows: Tensor, *, equal: bool = False) -> Tensor:
        is_of_batch = len(rows) == BATCH // self.size
        return rows.repeat(self.size, 1) if is_of_batch else super().gather_rows(rows, equal=equal)


class StatisticsOfFirstWorker(Group):
    """Planted fault: running statistics follow the first worker's groups, as DDP's buffer broadcast does."""

    width = 500  # of the network's statistics, at least; its features have fewer

    def gather_rows(self, rows: Tensor, *, equal: bool = False) -> Tensor:
        is_statistics = rows.dim() == 2 and rows.shape[1] >= self.width
        return self.broadcast(rows.clone()) if is_statistics else super().gather_rows(rows, equal=equal)


class SummedGradients(Group):
    """Planted fault: gradients are summed over the workers, not averaged."""

    def data_parallel(self, model: nn.Module) -> nn.Module:
        parallel: Any = super().data_parallel(model)
        parallel.register_comm_hook(None, _sum_bucket)
        return parallel


def _sum_bucket(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda done: done.value()[0])


def work(group: Group, fanout: FanOut, job: Job) -> None:
    """Do everything that `job` asks for, on a thin network; write it to `job.out`."""
    with thin_resnet.in_use():
        _work(group, fanout, job)


def _work(group: Group, fanout: FanOut, job: Job) -> None:
    found = {name: train(group, steps) for name, steps in job.steps.items()}
    if job.faults:
        honest = job.steps["ghost"]
        encoder = honest.settings.encoder
        local_encoder = replace(encoder, model=replace(encoder.model, batch_norm="local"))
        local = replace(honest.settings, encoder=local_encoder)
        found["local batch norm"] = train(group, replace(honest, settings=local))
        for fault in (MemoryFromOwnRows, StatisticsOfFirstWorker, SummedGradients):
            found[fault.__name__] = train(fault(group.rank, group.size), honest)
    torch.save(found, job.out / f"worker_{group.rank}_of_{group.size}.pt")
    for run in job.runs:
        inter_camera(group, fanout, run)


def train(group: Group, job: StepsJob) -> dict[str, Any]:
    """Train a few steps; return losses, first gradient, parameters, statistics, memory and features."""
    encoder = ContrastiveEncoder(job.settings, job.weights, group, torch.device("cpu"))
    memory = encoder.memory(encoder.extract(job.images), job.labels, momentum=0.1)
    losses, gradient = [], torch.empty(0)
    steps = encoder.train_steps(job.images, job.labels, job.cameras, memory, key=(2, 0), num_steps=NUM_STEPS)
    for step, loss in steps:
        losses.append(loss)
        if step == 0:
            gradient = flat([p.grad for p in encoder.model.parameters() if p.grad is not None])
    return {
        "losses": torch.stack(losses),
        "gradient": gradient,
        "parameters": flat(list(encoder.model.parameters())),
        "statistics": flat(list(encoder.model.buffers())),
        "memory": memory.centroids.clone(),
        "features": encoder.extract(job.images),
    }
