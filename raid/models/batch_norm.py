"""Batch normalisation whose result does not depend on the number of workers.

Three modes, chosen by `model.batch_norm`:

- `ghost`: statistics over groups of `group_size` consecutive rows of the *global* batch. A worker holds
  whole groups, so what a row is normalised with is the same for any number of workers.
- `sync`: statistics over the whole global batch, by a differentiable all-reduce (torch's own
  `SyncBatchNorm` is for GPUs only and silently plain on a CPU).
- `local`: statistics over whatever one worker holds. Offered because published code does it; the
  algorithm then changes with the number of workers.

Ghost and local layers do not touch their running statistics in `forward`: they keep each group's
statistics until the step is over, when `pending_statistics` hands them out (to be gathered once over the
workers) and `update_running_statistics` averages them, in group order, on every worker alike.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

AllReduceSum = Callable[[Tensor], Tensor]
NormFactory = Callable[[int], "BatchNorm"]


class BatchNorm(nn.Module, ABC):
    """Parameters and running statistics of batch normalisation, under torch's names for them."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise `rows` of shape (B, C) or (B, C, H, W)."""
        if self.training:
            return self.normalise_batch(rows)
        return functional.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    @abstractmethod
    def normalise_batch(self, rows: Tensor) -> Tensor:
        """Normalise with the statistics of the rows themselves (the mode's own way)."""

    @torch.no_grad()
    def update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards `mean` and the unbiased `variance`, both (C,)."""
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class GroupedBatchNorm(BatchNorm):
    """Normalise each group of `group_size` consecutive rows by itself (None: all rows given)."""

    def __init__(self, num_features: int, *, group_size: int | None) -> None:
        super().__init__(num_features)
        self.group_size = group_size
        self.pending: list[Tensor] = []

    def normalise_batch(self, rows: Tensor) -> Tensor:
        """Normalise group by group; the number of rows is a multiple of the group size."""
        size = self.group_size or len(rows)
        assert len(rows) % size == 0, f"{len(rows)} rows are not whole groups of {size}"
        return torch.cat([self._normalise_group(group) for group in rows.split(size)])

    def _normalise_group(self, group: Tensor) -> Tensor:
        # With momentum 1 the "running" buffers come back as this group's mean and unbiased variance.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        output = functional.batch_norm(
            group, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self.pending.append(torch.stack([mean, variance]))
        return output


class SyncBatchNorm(BatchNorm):
    """Normalise with the statistics of the global batch; every worker holds the same number of rows."""

    def __init__(self, num_features: int, *, all_reduce_sum: AllReduceSum) -> None:
        super().__init__(num_features)
        self.all_reduce_sum = all_reduce_sum

    def normalise_batch(self, rows: Tensor) -> Tensor:
        """Normalise in two passes over the workers: the mean, then the centred squares."""
        wide = rows.to(self.weight.dtype)  # of a GPU's autocast they are narrow, and sums of them are not
        dims = [0, *range(2, rows.dim())]
        shape = [1, -1] + [1] * (rows.dim() - 2)
        local = torch.full((1,), rows.numel() / rows.shape[1], dtype=wide.dtype, device=rows.device)
        count = self.all_reduce_sum(local)
        mean = self.all_reduce_sum(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = self.all_reduce_sum(centred.square().sum(dims)) / count
        self.update(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(rows.dtype)


def norm_factory(mode: str, *, group_size: int, all_reduce_sum: AllReduceSum) -> NormFactory:
    """Return the constructor of a normalisation layer for `mode`: ghost, sync or local.

    Args:
        mode: see the module's docstring.
        group_size: rows of a ghost group; unused by the other modes.
        all_reduce_sum: differentiable sum over the workers; used by `sync` alone.
    """
    match mode:
        case "ghost":
            return lambda channels: GroupedBatchNorm(channels, group_size=group_size)
        case "sync":
            return lambda channels: SyncBatchNorm(channels, all_reduce_sum=all_reduce_sum)
        case "local":
            return lambda channels: GroupedBatchNorm(channels, group_size=None)
        case _:
            raise ValueError(f"batch norm mode {mode!r} is none of ghost, sync, local")


def _grouped_layers(model: nn.Module) -> Iterator[GroupedBatchNorm]:
    return (module for module in model.modules() if isinstance(module, GroupedBatchNorm))


def pending_statistics(model: nn.Module) -> Tensor | None:
    """Take the statistics of the groups seen since the last call: (groups, S), or None without any.

    S packs the means and variances of all grouped layers, so one gather serves the whole model.
    """
    rows = []
    for layer in _grouped_layers(model):
        if layer.pending:
            rows.append(torch.stack(layer.pending).flatten(1))
            layer.pending.clear()
    return torch.cat(rows, dim=1) if rows else None


def update_running_statistics(model: nn.Module, statistics: Tensor) -> None:
    """Fold gathered `statistics` (groups of the global batch, S) into every layer's running ones."""
    layers = list(_grouped_layers(model))
    widths = [2 * layer.num_features for layer in layers]
    for layer, columns in zip(layers, statistics.split(widths, dim=1), strict=True):
        mean, variance = columns.unflatten(1, (2, layer.num_features)).mean(0)
        layer.update(mean, variance)
