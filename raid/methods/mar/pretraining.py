"""MAR stage 1: the source set's people as classes, by a plain softmax over features that have any length.

The rows of the classifier become the reference agents, once they have unit length. The outcome of stage 2
depends on the scale and the distribution of these weights (methods.md 3.1).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from raid.data.ahead import Ahead
from raid.methods.mar.job import SHOWN, MarWorker, write_model
from raid.methods.mar.networks import MarNetworks
from raid.methods.mar.weights import Weights
from raid.methods.stage import Figures, Progress, batch, restore, train_stage

STAGE = 3  # first part of the key of this stage's random numbers; 1 and 2 are ICSR's
FILE = "pretrained.pt"
Ints = NDArray[np.int64]


def pretrain(worker: MarWorker, progress: Progress, state: dict[str, Any] | None) -> Weights:
    """Train stage 1, from the start or from a checkpoint's `state`; return what stage 2 starts from.

    Every worker calls this. The first one writes `pretrained.pt`, which other runs can start from.
    """
    stage = PretrainingStage(worker)
    if state is not None:
        restore(stage.networks, progress, state)
        stage.scale = state["of_stage"]["scale"]
    train_stage(worker, stage, progress)
    weights = stage.networks.weights(stage.scale)
    write_model(worker, weights, FILE)
    return weights


class PretrainingStage:
    """See `raid.methods.stage.Stage`.

    Attributes:
        scale: mean product of features and own agent over the latest whole epoch.
    """

    name, rate_path = "pretraining", "pretraining.learning_rate"
    is_last, shown = False, SHOWN

    def __init__(self, worker: MarWorker) -> None:
        """Start from the weights of the job."""
        job, chosen = worker.job, worker.job.config.pretraining
        self.worker, self.chosen, self.source = worker, chosen, job.inputs.source
        settings = replace(job.config.encoder(job.statistics.target), model=job.config.pretraining_model)
        self.networks = MarNetworks(settings, job.weights, worker.group, worker.device, chosen)
        self.networks.encoder.model.unit_features = False
        self.networks.encoder.rate_path = self.rate_path
        self.augmentation = job.config.augment.as_drawn(job.statistics.source)
        self.epochs = range(job.config.pretraining_epochs)
        self.batch_size = chosen.batch_size
        self.num_steps = chosen.steps or len(self.source.labels) // chosen.batch_size
        self.labels = torch.from_numpy(self.source.labels).to(worker.device)
        self.scale = math.nan
        self.batches = Ahead(self._batch, self.num_steps, worker.device)

    def rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of an epoch."""
        return self.chosen.rate(epoch, len(self.epochs))

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Train on one global batch of source images; return loss, accuracy and mean product."""
        encoder = self.networks.encoder
        with encoder.spans("data_wait"):
            inputs, mine, labels = self.batches.take(epoch, step)
        encoder.latest = [(self.source.images, mine)]
        found: dict[str, Tensor] = {}

        def loss_of(features: Tensor) -> Tensor:
            logits = features @ self.networks.agents.T
            found["accuracy"] = (logits.argmax(dim=1) == labels).float().mean()
            found["product"] = logits.detach().gather(1, labels[:, None]).mean()
            return functional.cross_entropy(logits, labels)

        return {"loss": self.networks.step(inputs, loss_of), **found}

    def _batch(self, epoch: int, step: int) -> tuple[Tensor, Ints, Tensor]:
        """Return this worker's images, augmented, their rows, and the labels of the global batch."""
        size, number = self.chosen.batch_size, epoch * self.num_steps + step
        rows = batch(self.worker, STAGE, len(self.labels), size, number)
        mine = rows[self.worker.group.slice(size)]
        inputs = self.networks.encoder.augmented(
            self.source.images, mine, size, (STAGE, epoch, step), self.augmentation
        )
        return inputs, mine, self.labels[torch.from_numpy(rows).to(self.labels.device)]

    def end_epoch(self, epoch: int, means: Figures) -> tuple[Figures, None]:
        """Return an epoch's figures."""
        self.scale = means["product"]
        return {f"pretraining/{name}": value for name, value in means.items()}, None

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"scale": self.scale}
