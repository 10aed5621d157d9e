"""Cluster-contrastive training: what both stages of ICSR do with an encoder and its pseudo labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.ahead import Ahead
from raid.data.images import Images
from raid.data.sampler import camera_aware_batches
from raid.data.streams import SAMPLING, stream
from raid.distributed.group import Group
from raid.losses.cluster_nce import ClusterMemory, Visits, cluster_centroids, cluster_nce
from raid.methods.encoder import Encoder, EncoderSettings
from raid.methods.sections import Optimizer, Sampler

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """How an encoder is built and trained."""

    encoder: EncoderSettings
    temperature: float
    sampler: Sampler
    optimizer: Optimizer


class ContrastiveEncoder(Encoder):
    """An encoder that is trained on pseudo labels, and its optimiser."""

    def __init__(
        self, training: Settings, weights: dict[str, Tensor], group: Group, device: torch.device
    ) -> None:
        """Start from `weights`; raises as `Encoder`."""
        super().__init__(training.encoder, weights, group, device)
        self.training = training
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=training.optimizer.learning_rate,
            weight_decay=training.optimizer.weight_decay,
            fused=self.on_gpu,
        )

    def memory(self, features: Tensor, labels: Ints, momentum: float) -> ClusterMemory:
        """Return the memory of the clusters' mean features; `labels` (N,) are 0..K-1, -1 = left out."""
        centroids = cluster_centroids(features, torch.from_numpy(labels))
        return ClusterMemory(centroids.to(self.device), momentum=momentum)

    def set_learning_rate(self, epoch: int) -> None:
        """Set the learning rate of `epoch` (0-based): a drop by gamma every `step_epochs`."""
        chosen = self.training.optimizer
        rate = chosen.learning_rate * chosen.gamma ** (epoch // chosen.step_epochs)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate

    @property
    def learning_rate(self) -> float:
        """Of the epoch."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_steps(
        self,
        images: Images,
        labels: Ints,
        cameras: Ints | None,
        memory: ClusterMemory,
        *,
        key: tuple[int, ...],
        num_steps: int,
        first_step: int = 0,
    ) -> Iterator[tuple[int, Tensor]]:
        """Train step by step on the global batches of an epoch; yield (step, loss) after each.

        The batches and their augmentation depend on the seed, `key` and the step alone: they are drawn
        for the whole group, and this worker takes its rows of each.

        Args:
            images: all training images, (N, 3, H, W).
            labels: (N,) clusters 0..K-1, -1 = not trained on.
            cameras: (N,), or None for a set without.
            memory: of the K clusters; updated after every step.
            key: stage, camera and epoch: what this epoch's random numbers are keyed by.
            num_steps: steps of the epoch.
            first_step: the step to start with (a resumed epoch).
        """
        chosen = self.training.sampler
        batches = camera_aware_batches(
            labels,
            cameras,
            identities=chosen.identities,
            instances=chosen.instances,
            num_batches=num_steps,
            generator=stream(self.settings.seed, SAMPLING, *key),
            camera_aware=chosen.camera_aware,
            singletons=chosen.singletons,
        )
        mine = self.group.slice(chosen.batch_size)

        def made(_: int, step: int) -> tuple[Tensor, Visits]:
            visits = memory.visits(torch.from_numpy(labels[batches[step]]))
            inputs = self.augmented(images, batches[step, mine], chosen.batch_size, (*key, step))
            return inputs, visits.to(self.device)

        ahead = Ahead(made, num_steps, self.device)
        for step in range(first_step, num_steps):
            with self.spans("data_wait"):
                inputs, visits = ahead.take(0, step)
            self.latest = [(images, batches[step, mine])]
            yield step, self._step(inputs, visits, memory)

    def _step(self, inputs: Tensor, visits: Visits, memory: ClusterMemory) -> Tensor:
        """Train on this worker's rows of one batch; return the loss of the global batch."""
        targets = visits.targets[self.group.slice(len(visits.targets))]

        def loss_of(features: Tensor, rows: slice) -> Tensor:
            return cluster_nce(features, memory.centroids, targets[rows], self.training.temperature)

        self.optimizer.zero_grad()
        loss, features = self.backward_of_rows(inputs, loss_of)
        self.optimizer.step()
        self.follow_statistics()
        # Explicitly, on rows in rank order: the memory stays the same on every worker, bit for bit.
        memory.update(self.group.gather_rows(features, equal=True), visits)
        return loss
