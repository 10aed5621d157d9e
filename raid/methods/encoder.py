"""An encoder in training: a backbone and the workers that share its batches, whatever the loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raid.data.augment import Augmentation, augment, draw
from raid.data.images import Images
from raid.data.streams import AUGMENTATION, stream
from raid.distributed.exact import backward_by_groups, backward_from_features, forward_by_groups
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import Kind, extract
from raid.methods.sections import Model, Numerics
from raid.models import backbone
from raid.models.backbone import Backbone
from raid.models.batch_norm import norm_factory, pending_statistics, update_running_statistics
from raid.models.weights import load_weights
from raid.spans import Spans

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder is built, and how it sees images."""

    seed: int
    model: Model
    augmentation: Augmentation
    numerics: Numerics

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters and the images."""
        return torch.float64 if self.numerics.dtype == "float64" else torch.float32


def build_model(settings: EncoderSettings, group: Group) -> Backbone:
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


def num_features(settings: EncoderSettings) -> int:
    """Return D of the encoder's features; no weights are drawn for it."""
    with torch.device("meta"):
        return build_model(settings, Group.solo()).num_features


def starting_weights(settings: EncoderSettings) -> dict[str, Tensor]:
    """Return the state dict that every encoder starts from, read once for all workers.

    Raises:
        InputError: the weights are missing or do not fit.
    """
    model = build_model(settings, Group.solo())
    load_weights(model, settings.model.backbone, settings.model.weights)
    return model.state_dict()


def network_of(settings: EncoderSettings, weights: dict[str, Tensor], misfit: str) -> Backbone:
    """Build the network of `settings` with weights that were read from a file, on the CPU.

    Raises:
        InputError: they do not fit it; see `load_into`.
    """
    network = build_model(settings, Group.solo()).to(dtype=settings.dtype)
    load_into(network, weights, misfit)
    return network


def load_into(network: nn.Module, weights: dict[str, Tensor], misfit: str) -> None:
    """Copy weights that were read from a file into a network.

    Raises:
        InputError: they do not fit it, in the words of `misfit` and with the reason behind them.
    """
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:  # other names or shapes, or no state dict
        reason = " ".join(str(error).split())
        raise InputError(f"{misfit}: {reason[:200]}") from error


def check_finite(weights: Iterable[Tensor], origin: str) -> None:
    """Look through weights that were read from a file.

    Args:
        weights: all of them.
        origin: the file, and the field that names it.

    Raises:
        InputError: one is not finite.
    """
    if not all(bool(torch.isfinite(value).all()) for value in weights):
        raise InputError(f"{origin}: its weights are not finite: that training has diverged")


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that `run.device` names."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def finite(features: Tensor, rate_path: str = "optimizer.learning_rate") -> Tensor:
    """Return `features`.

    Raises:
        InputError: they are not finite, which is put down to the field `rate_path`. A ranking of such would
            be a figure like any other, or better.
    """
    # Part by part: the maps of a set are large, and a mask of them all would be a quarter as large again.
    if not all(bool(torch.isfinite(part).all()) for part in features.split(4096)):
        raise InputError(f"{rate_path}: the training has diverged, its features are not finite; lower it")
    return features


class Encoder:
    """A backbone in training and the workers that share its batches; the optimiser is the method's own.

    Attributes:
        rate_path: field of the learning rate that the weights come from.
    """

    rate_path = "optimizer.learning_rate"

    def __init__(
        self, settings: EncoderSettings, weights: dict[str, Tensor], group: Group, device: torch.device
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
        # Of the weights' dtype before they are loaded, or those of another stage would lose digits.
        self.model = build_model(settings, group).to(device=device, dtype=settings.dtype)
        self.model.load_state_dict(weights)
        self.parallel: nn.Module = group.data_parallel(self.model)

    @property
    def is_exact(self) -> bool:
        """Whether gradients are equal bit for bit on any number of workers."""
        return self.settings.numerics.reproducible == "exact"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def extract(self, images: Images, *, kind: Kind = "unit", flip: bool = False) -> Tensor:
        """Return the features of all `images`, on the CPU of every worker: (N, D), see `raid.extract`.

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
            kind=kind,
            flip=flip,
        )
        return finite(features, self.rate_path)

    def augmented(
        self,
        images: Images,
        rows: Ints,
        size: int,
        key: tuple[int, ...],
        augmentation: Augmentation | None = None,
    ) -> Tensor:
        """Return this worker's share of a batch, augmented, on the device.

        Args:
            images: all training images.
            rows: (size / W,) this worker's, those of `group.slice(size)`.
            size: images of the global batch: what happens to them is drawn for all.
            key: of the random numbers, such as stage, epoch and step.
            augmentation: in place of the settings' own.
        """
        chosen = augmentation or self.settings.augmentation
        generator = stream(self.settings.seed, AUGMENTATION, *key)
        draws = draw(chosen, size, images.height, images.width, generator).rows(self.group.slice(size))
        return augment(images.gather(rows).to(self.device), draws, chosen, dtype=self.settings.dtype)

    def backward_of_rows(
        self, inputs: Tensor, loss_of: Callable[[Tensor, slice], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Set the gradient of a loss that is a mean over rows.

        Args:
            inputs: this worker's rows of the batch.
            loss_of: mean loss of (features of some rows, which of this worker's rows they are).

        Returns:
            (loss of the global batch, features of this worker's rows), detached.
        """
        self.model.train()
        if self.is_exact:
            size = self.settings.model.ghost_size
            return backward_by_groups(self.model, inputs, loss_of, group=self.group, group_size=size)
        features = self.parallel(inputs)
        local_loss = loss_of(features, slice(None))
        local_loss.backward()
        return self.group.all_reduce_sum(local_loss.detach()) / self.group.size, features.detach()

    def forward_batch(self, inputs: Tensor) -> list[Tensor]:
        """Return the features of this worker's rows of a batch, in parts, for `backward_batch`."""
        self.model.train()
        if self.is_exact:
            return forward_by_groups(self.model, inputs, self.settings.model.ghost_size)
        return [self.parallel(inputs)]

    def backward_batch(self, features: list[Tensor], gradients: Tensor) -> None:
        """Set the gradient of a loss that sees the whole batch, such as MAR's, which compares its images.

        Args:
            features: from `forward_batch`.
            gradients: (B / W, D) of the loss with respect to this worker's rows. Every worker computes the
                whole loss, on gathered rows.
        """
        if self.is_exact:
            backward_from_features(self.model, features, gradients, group=self.group)
        else:
            # Times the workers: the gradients of the parameters are averaged over them.
            features[0].backward(gradients * self.group.size)

    def follow_statistics(self) -> None:
        """Move the running statistics of batch norm by the groups of the latest batch, on every worker."""
        statistics = pending_statistics(self.model)
        if statistics is not None:
            update_running_statistics(self.model, self.group.gather_rows(statistics))

    def assert_lockstep(self, *values: Tensor) -> None:
        """Fail when the workers' models, or `values`, differ by a single bit."""
        for value in (*self.model.state_dict().values(), *values):
            self.group.assert_lockstep(value)
