"""The process group as a value: rank, size and the few collectives that the methods need.

It is passed as an argument, never read from a global: one rank also runs solo code (a camera's encoder),
and an ambient world size would make that hang.
"""

import hashlib
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raid.distributed.clock import CollectiveClock

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The workers that run a piece of code together; `Group.solo()` is one process by itself.

    Attributes:
        rank: of this worker.
        size: number of workers.
        clock: of the collectives of tensors. What is waited for in `once` and at barriers is not in it.
    """

    rank: int
    size: int
    clock: CollectiveClock = field(default_factory=CollectiveClock, kw_only=True, compare=False, repr=False)

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

    def gather_rows(self, rows: Tensor, *, equal: bool = False) -> Tensor:
        """Concatenate `rows` (n_r, ...) of all workers in rank order, on every worker.

        The gradient flows to the local slice only.

        Args:
            rows: of this worker.
            equal: every worker holds as many, as in a step: then nobody asks, and waits for a GPU to say.
        """
        if self.size == 1:
            return rows
        sizes = [len(rows)] * self.size if equal else self._counts(rows)
        padded = rows.detach().new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        with self.clock(rows.device):
            dist.all_gather(parts, padded)
        pieces = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        pieces[self.rank] = rows
        return torch.cat(pieces)

    def _counts(self, rows: Tensor) -> list[int]:
        """Return how many rows each of the workers holds."""
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        count = torch.tensor([len(rows)], device=rows.device)
        with self.clock(rows.device):
            dist.all_gather(counts, count)
        return [int(count) for count in counts]

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over the workers; the gradient is summed over them too."""
        return value if self.size == 1 else _AllReduceSum.apply(value, self.clock)

    def broadcast(self, value: Tensor, *, source: int = 0) -> Tensor:
        """Return worker `source`'s `value`; the others give one of the same shape and dtype."""
        if self.size == 1:
            return value
        value = value.contiguous()
        with self.clock(value.device):
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

    def agreed(self, said: int) -> int:
        """Return what the first worker says, on every worker; on CPUs, for no step to wait for a GPU."""
        return int(self.broadcast(torch.tensor(said)))

    def report(self, epoch: int, figures: Mapping[str, float], run: Mapping[str, str]) -> None:
        """Tell whoever started the workers of an epoch; every worker calls it.

        Args:
            epoch: 0-based.
            figures: of the epoch, by their keys in metrics.jsonl.
            run: `run`, its name, and `method`: what whoever watches the cluster knows it by.
        """

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
        if self.size == 1:
            return model
        parallel = DistributedDataParallel(model, forward_sync_buffers=False)
        self.clock.follow(parallel)
        return parallel

    def accumulating(self, parallel: nn.Module) -> AbstractContextManager[None]:
        """Return a block whose `backward` adds to each worker's own gradients, for a later one to average.

        Args:
            parallel: from `data_parallel`.
        """
        if not isinstance(parallel, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], parallel.no_sync())

    def assert_lockstep(self, values: Tensor) -> None:
        """Fail when the workers hold different `values`, bit for bit."""
        if self.size == 1:
            return
        content = values.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=7).digest())
        sums = self.gather_rows(torch.tensor([digest], device=values.device), equal=True)
        assert bool((sums == sums[0]).all()), "the workers' states have drifted apart"


class _AllReduceSum(torch.autograd.Function):
    """Sum over workers whose backward sums the gradients over workers."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, clock: CollectiveClock) -> Tensor:
        ctx.clock = clock
        return _summed(value, clock)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _summed(grads[0].contiguous(), ctx.clock), None


def _summed(value: Tensor, clock: CollectiveClock) -> Tensor:
    total = value.clone()
    with clock(value.device):
        dist.all_reduce(total)
    return total
