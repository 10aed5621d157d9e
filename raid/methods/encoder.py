"""An encoder in training: a backbone and the workers that share its batches, whatever the loss."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raid.data.augment import Augmentation, augment, draw
from raid.data.images import Images
from raid.data.streams import AUGMENTATION, stream
from raid.distributed.exact import backward_by_groups, backward_from_features
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import Kind, extract, fitting_batch
from raid.methods.execution import Numerics
from raid.methods.sections import Model
from raid.models import backbone
from raid.models.backbone import Backbone
from raid.models.batch_norm import norm_factory, pending_statistics, update_running_statistics
from raid.models.weights import load_weights
from raid.spans import Spans

Ints = NDArray[np.int64]
Shares = Sequence[tuple[Images, Ints]]  # a worker's part of a batch: of each set in it, images and rows


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
        autocast=settings.numerics.autocast,
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
        latest: this worker's share of the latest batch.
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
        self.latest: Shares = ()
        self._block: int | None = None
        # Of the weights' dtype before they are loaded, or those of another stage would lose digits.
        self.model = build_model(settings, group).to(device=device, dtype=settings.dtype)
        self.model.load_state_dict(weights)
        # The channels side by side, as matrix units want them: 1.1 to 1.2 times faster on a CPU as well.
        self.model.to(memory_format=torch.channels_last)
        self.parallel: nn.Module = group.data_parallel(self.model)

    @property
    def is_exact(self) -> bool:
        """Whether gradients are equal bit for bit on any number of workers."""
        return self.settings.numerics.reproducible == "exact"

    @property
    def on_gpu(self) -> bool:
        """Whether it is trained on one: there an optimiser is one kernel (`fused`)."""
        return self.device.type == "cuda"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @contextmanager
    def training_time(self) -> Iterator[None]:
        """Count the block's time under `train`, and what of it goes by in collectives under `collective`."""
        before = self.group.clock.seconds()
        with self.spans("train"):
            yield
        self.spans.add("collective", self.group.clock.seconds() - before)

    def extract(self, images: Images, *, kind: Kind = "unit", flip: bool = False) -> Tensor:
        """Return the features of all `images`, on the CPU of every worker: (N, D), see `raid.extract`.

        Raises:
            InputError: the training has diverged.
        """
        features = extract(
            self.model,
            images,
            group=self.group,
            batch_size=self._extract_batch(images),
            augmentation=self.settings.augmentation,
            device=self.device,
            dtype=self.settings.dtype,
            kind=kind,
            flip=flip,
        )
        return finite(features, self.rate_path)

    def _extract_batch(self, images: Images) -> int:
        """Return how many images a block of an extraction has, once it has been tried where it is to be."""
        if self._block is None:
            chosen = self.settings.numerics.extract_batch
            self._block = (
                fitting_batch(
                    self.model, images.height, images.width, self.group, self.device, self.settings.dtype
                )
                if chosen == "auto"
                else chosen
            )
        return self._block

    def augmented(
        self,
        images: Images,
        rows: Ints,
        size: int,
        key: tuple[int, ...],
        augmentation: Augmentation | None = None,
    ) -> Tensor:
        """Return this worker's share of a batch, augmented, on the device; nothing of the encoder changes.

        Args:
            images: all training images.
            rows: (size / W,) this worker's, those of `group.slice(size)`.
            size: images of the global batch: what happens to them is drawn for all.
            key: of the random numbers, such as stage, epoch and, last, step.
            augmentation: in place of the settings' own.
        """
        chosen = augmentation or self.settings.augmentation
        generator = stream(self.settings.seed, AUGMENTATION, *key)
        draws = draw(chosen, size, images.height, images.width, generator).rows(self.group.slice(size))
        return augment(self._put(images.gather(rows)), draws, chosen, dtype=self.settings.dtype)

    def _put(self, pixels: Tensor) -> Tensor:
        """Return images on the device; nobody waits for their way to a GPU."""
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.on_gpu else pixels

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
        features, losses = [], []
        for rows, summing in self._passes(len(inputs)):
            with summing:
                found = self.parallel(inputs[rows])
                loss = loss_of(found, rows) * (len(found) / len(inputs))
                loss.backward()
            features.append(found.detach())
            losses.append(loss.detach())
        return self.group.all_reduce_sum(torch.stack(losses).sum()) / self.group.size, torch.cat(features)

    def forward_batch(self, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Return the features of this worker's rows of a batch, and what sets the gradient of their loss.

        The loss sees the whole batch, such as MAR's, which compares its images. A share that is larger than
        a micro-batch passes through the network twice, part by part: for the features, and for the gradient
        when that of the features is known.

        Args:
            inputs: this worker's rows.

        Returns:
            The features (B / W, D), detached, and a function of the gradient of the loss with respect to
            them. Every worker computes the whole loss, on gathered rows.
        """
        self.model.train()
        network = self.model if self.is_exact else self.parallel
        size = self.settings.model.ghost_size if self.is_exact else self._pass_size(len(inputs))
        twice = self._pass_size(len(inputs)) < len(inputs)
        with torch.set_grad_enabled(not twice):
            outputs = [network(rows) for rows in inputs.split(size)]
        features = torch.cat(outputs).detach()
        if twice:
            pending_statistics(self.model)  # they come again

        def backward(gradients: Tensor) -> None:
            again = (network(rows) for rows in inputs.split(size)) if twice else iter(outputs)
            if self.is_exact:
                backward_from_features(self.model, again, gradients, group=self.group, group_size=size)
                return
            for rows, summing in self._passes(len(inputs)):
                with summing:
                    # Times the workers: the gradients of the parameters are averaged over them.
                    next(again).backward(gradients[rows] * self.group.size)

        return features, backward

    def _pass_size(self, num_rows: int) -> int:
        """Return how many of this worker's rows pass through the network at once."""
        return self.settings.numerics.pass_size(num_rows, self.settings.model)

    def _passes(self, num_rows: int) -> Iterator[tuple[slice, AbstractContextManager[None]]]:
        """Yield the rows of one pass after the other; the workers' gradients are summed in the last."""
        size = self._pass_size(num_rows)
        for start in range(0, num_rows, size):
            is_last = start + size >= num_rows
            yield (
                slice(start, start + size),
                nullcontext() if is_last else self.group.accumulating(self.parallel),
            )

    def follow_statistics(self) -> None:
        """Move the running statistics of batch norm by the groups of the latest batch, on every worker."""
        statistics = pending_statistics(self.model)
        if statistics is not None:
            update_running_statistics(self.model, self.group.gather_rows(statistics, equal=True))

    def assert_lockstep(self, *values: Tensor) -> None:
        """Fail when the workers' models, or `values`, differ by a single bit."""
        for value in (*self.model.state_dict().values(), *values):
            self.group.assert_lockstep(value)
