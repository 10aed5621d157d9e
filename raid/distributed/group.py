"""The process group as a value: rank, size and the few collectives that the methods need.

It is passed as an argument, never read from a global: one rank also runs solo code (a camera's encoder),
and an ambient world size would make that hang.
"""

import hashlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The workers that run a piece of code together; `Group.solo()` is one process by itself."""

    rank: int
    size: int

    @staticmethod
    def solo() -> "Group":
        """Return the group of this process alone; its collectives do nothing."""
        return Group(0, 1)

    @staticmethod
    def world() -> "Group":
        """Return the group of all workers of the initialised default process group."""
        return Group(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes files."""
        return self.rank == 0

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Concatenate `rows` (n_r, ...) of all workers in rank order, on every worker.

        Workers may hold different numbers of rows. The gradient flows to the local slice only.
        """
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        padded = rows.detach().new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        pieces = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        pieces[self.rank] = rows
        return torch.cat(pieces)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over the workers; the gradient is summed over them too."""
        return value if self.size == 1 else _AllReduceSum.apply(value)

    def broadcast(self, value: Tensor, *, source: int = 0) -> Tensor:
        """Return worker `source`'s `value`; the others give one of the same shape and dtype."""
        if self.size == 1:
            return value
        value = value.contiguous()
        dist.broadcast(value, src=source)
        return value

    def once(self, compute: Callable[[], T]) -> T:
        """Run `compute` on the first worker and give its result (or its failure) to all.

        The result travels by pickle between the processes of one run: arrays and plain values.
        """
        if self.size == 1:
            return compute()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = compute()
            except Exception as error:  # every rank must fail together, or the others wait for ever
                outcome[1] = (error, traceback.format_exc())
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            failure, trace = outcome[1]
            failure.add_note(f"on worker 0:\n{trace}")
            raise failure
        result: T = outcome[0]
        return result

    def report(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Tell whoever started the workers of an epoch (0-based); every worker calls it."""

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.size > 1:
            dist.barrier()

    def slice(self, count: int) -> slice:
        """Return this worker's share of `count` consecutive items: sizes differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """Wrap `model` so that `backward` averages gradients over the workers.

        Buffers are left alone: DDP's own broadcast would overwrite every worker's running statistics
        with worker 0's at the next forward.
        """
        return model if self.size == 1 else DistributedDataParallel(model, forward_sync_buffers=False)

    def assert_lockstep(self, values: Tensor) -> None:
        """Fail when the workers hold different `values`, bit for bit."""
        if self.size == 1:
            return
        content = values.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())
        sums = self.gather_rows(torch.tensor([digest], device=values.device))
        assert bool((sums == sums[0]).all()), "the workers' states have drifted apart"


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers whose backward sums the gradients over workers."""

    @staticmethod
    def forward(ctx: FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total
