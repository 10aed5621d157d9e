"""Cluster-contrastive training: what both stages of ICSR do with an encoder and its pseudo labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raid.data.augment import Augmentation, augment, draw
from raid.data.images import Images
from raid.data.sampler import camera_aware_batches
from raid.data.streams import AUGMENTATION, SAMPLING, stream
from raid.distributed.exact import backward_by_groups
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import extract
from raid.losses.cluster_nce import ClusterMemory, cluster_centroids, cluster_nce
from raid.methods.sections import Augment, Model, Numerics, Optimizer, Sampler
from raid.models import backbone
from raid.models.backbone import Backbone
from raid.models.batch_norm import norm_factory, pending_statistics, update_running_statistics
from raid.models.weights import load_weights
from raid.spans import Spans

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """The sections that say how an encoder is built and trained."""

    seed: int
    temperature: float
    model: Model
    augment: Augment
    sampler: Sampler
    optimizer: Optimizer
    numerics: Numerics

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of the training images."""
        chosen = self.augment
        return Augmentation(
            flip=chosen.flip,
            pad=chosen.pad,
            erase_probability=chosen.erase_probability,
            erase_area=chosen.erase_area,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters and the images."""
        return torch.float64 if self.numerics.dtype == "float64" else torch.float32


def build_model(settings: Settings, group: Group) -> Backbone:
    """Build the backbone with random weights, on the CPU in float32."""
    norm = norm_factory(
        settings.model.batch_norm,
        group_size=settings.model.ghost_size,
        all_reduce_sum=group.all_reduce_sum,
    )
    return backbone.build(
        settings.model.backbone,
        norm=norm,
        seed=settings.seed,
        last_stride=settings.model.last_stride,
        pool=settings.model.pool,
        neck=settings.model.neck,
        final_relu=settings.model.final_relu,
    )


def starting_weights(settings: Settings) -> dict[str, Tensor]:
    """Return the state dict that every encoder starts from, read once for all workers.

    Raises:
        InputError: the weights are missing or do not fit.
    """
    model = build_model(settings, Group.solo())
    load_weights(model, settings.model.backbone, settings.model.weights)
    return model.state_dict()


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that `run.device` names."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def finite(features: Tensor) -> Tensor:
    """Return `features`.

    Raises:
        InputError: they are not finite. A ranking of such would be a figure like any other, or better.
    """
    if not bool(torch.isfinite(features).all()):
        raise InputError(
            "optimizer.learning_rate: the training has diverged, its features are not finite; "
            "lower it, or raise temperature"
        )
    return features


class Encoder:
    """A backbone in training, its optimiser, and the workers that share its batches."""

    def __init__(
        self, settings: Settings, weights: dict[str, Tensor], group: Group, device: torch.device
    ) -> None:
        """Start from `weights` (see `starting_weights`).

        Raises:
            InputError: exact sums are asked for on a GPU.
        """
        if settings.numerics.reproducible == "exact" and device.type == "cuda":
            raise InputError(
                "numerics.reproducible: exact is for CPUs, whose sums have a fixed order; "
                "use batched, or run.device=cpu"
            )
        self.settings, self.group, self.device = settings, group, device
        self.spans = Spans()
        self.model = build_model(settings, group)
        self.model.load_state_dict(weights)
        self.model.to(device=device, dtype=settings.dtype)
        self.parallel: nn.Module = group.data_parallel(self.model)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=settings.optimizer.learning_rate,
            weight_decay=settings.optimizer.weight_decay,
        )

    def extract(self, images: Images) -> Tensor:
        """Return the features of all `images`, on the CPU of every worker: (N, D) unit rows.

        Raises:
            InputError: the training has diverged.
        """
        features = extract(
            self.model,
            images,
            group=self.group,
            batch_size=self.settings.numerics.extract_batch,
            augmentation=self.settings.augmentation,
            device=self.device,
            dtype=self.settings.dtype,
        )
        return finite(features)

    def memory(self, features: Tensor, labels: Ints, momentum: float) -> ClusterMemory:
        """Return the memory of the clusters' mean features; `labels` (N,) are 0..K-1, -1 = left out."""
        centroids = cluster_centroids(features, torch.from_numpy(labels))
        return ClusterMemory(centroids.to(self.device), momentum=momentum)

    def set_learning_rate(self, epoch: int) -> None:
        """Set the learning rate of `epoch` (0-based): a drop by gamma every `step_epochs`."""
        chosen = self.settings.optimizer
        rate = chosen.learning_rate * chosen.gamma ** (epoch // chosen.step_epochs)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate

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
        chosen = self.settings.sampler
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
        for step in range(first_step, num_steps):
            with self.spans("data_wait"):
                rows = batches[step, mine]
                inputs = self._inputs(images, rows, mine, (*key, step))
                targets = torch.from_numpy(labels[rows]).to(self.device)
            yield step, self._step(inputs, targets, memory)

    def _inputs(self, images: Images, rows: Ints, mine: slice, key: tuple[int, ...]) -> Tensor:
        """Return the augmented images `rows`, this worker's positions `mine` of the batch of `key`."""
        settings = self.settings
        generator = stream(settings.seed, AUGMENTATION, *key)
        size = settings.sampler.batch_size
        draws = draw(settings.augmentation, size, images.height, images.width, generator).rows(mine)
        pixels = images.gather(rows).to(self.device)
        return augment(pixels, draws, settings.augmentation, dtype=settings.dtype)

    def _step(self, inputs: Tensor, targets: Tensor, memory: ClusterMemory) -> Tensor:
        """Train on this worker's rows of one batch; return the loss of the global batch."""

        def loss_of(features: Tensor, rows: slice) -> Tensor:
            return cluster_nce(features, memory.centroids, targets[rows], self.settings.temperature)

        self.optimizer.zero_grad()
        self.model.train()
        if self.settings.numerics.reproducible == "exact":
            loss, features = backward_by_groups(
                self.model, inputs, loss_of, group=self.group, group_size=self.settings.model.ghost_size
            )
        else:
            output = self.parallel(inputs)
            local_loss = loss_of(output, slice(None))
            local_loss.backward()
            loss = self.group.all_reduce_sum(local_loss.detach()) / self.group.size
            features = output.detach()
        self.optimizer.step()
        statistics = pending_statistics(self.model)
        if statistics is not None:
            update_running_statistics(self.model, self.group.gather_rows(statistics))
        # Explicitly, on rows in rank order: the memory stays the same on every worker, bit for bit.
        memory.update(self.group.gather_rows(features), self.group.gather_rows(targets))
        return loss

    def assert_lockstep(self, memory: ClusterMemory) -> None:
        """Fail when the workers' models or memories differ by a single bit."""
        for value in self.model.state_dict().values():
            self.group.assert_lockstep(value)
        self.group.assert_lockstep(memory.centroids)
