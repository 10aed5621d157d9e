"""The soft multilabels of all target images: a table on every worker, or a part of its rows on each."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from raid import machine
from raid.distributed.group import Group
from raid.losses.discriminative import MultilabelMemory, check_rows

_SHARE = 4  # the table may take a quarter of a worker's memory: networks and batches want the rest
_BLOCK_ROWS = 4096


def table_is_sharded(
    choice: Literal["auto", "whole", "sharded"], num_bytes: int, group: Group, device: torch.device
) -> bool:
    """Whether the table's rows are shared out: the same answer on every worker."""
    if choice != "auto":
        return choice == "sharded"
    return group.once(lambda: is_too_large(num_bytes, group.size, device))


def is_too_large(num_bytes: int, num_workers: int, device: torch.device) -> bool:
    """Whether a table on each of several workers would take too much of what is there; asks this machine."""
    if num_workers == 1:
        return False
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
    else:
        available = machine.memory_bytes() // num_workers
    return num_bytes * _SHARE > available


@dataclass(frozen=True)
class Places:
    """Where a worker finds the rows of a batch, made where the batch is drawn.

    Attributes:
        held: rows of the batch that the worker holds, int64 or all.
        here: their rows in its part of the table, int64.
    """

    held: Tensor | slice
    here: Tensor

    def to(self, device: torch.device) -> "Places":
        """Return them on `device`."""
        held = self.held if isinstance(self.held, slice) else self.held.to(device)
        return Places(held, self.here.to(device))


class MultilabelTable:
    """Multilabels of N images, averaged over their visits (`MultilabelMemory`), by rows of the workers.

    Whether it is sharded changes no bit of what `visit` returns.

    Attributes:
        own: rows that this worker holds.
    """

    def __init__(
        self,
        num_images: int,
        num_agents: int,
        *,
        momentum: float,
        sharded: bool,
        group: Group,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Begin without visits; N * P * 4 bytes in all, on every worker or over all of them."""
        self.group, self.sharded, self.num_images = group, sharded, num_images
        self.own = group.slice(num_images) if sharded else slice(0, num_images)
        self.memory = MultilabelMemory(
            self.own.stop - self.own.start, num_agents, momentum=momentum, device=device, dtype=dtype
        )

    def places(self, rows: Tensor) -> Places:
        """Return where this worker finds the rows of a batch.

        Args:
            rows: (B,) int64, each once, of the N images, on the CPU.

        Raises:
            ValueError: see `check_rows`.
        """
        check_rows(rows, self.num_images)
        if not self.sharded:
            return Places(slice(None), rows)
        held = ((rows >= self.own.start) & (rows < self.own.stop)).nonzero()[:, 0]
        return Places(held, rows[held] - self.own.start)

    def visit(self, places: Places, multilabels: Tensor) -> Tensor:
        """Average the multilabels of a batch into the table; return what it then holds of them, (B, P).

        Every worker gives the whole batch.

        Args:
            places: of the batch, on the table's device.
            multilabels: (B, P).

        Raises:
            ValueError: as `MultilabelMemory.update`.
        """
        table = self.memory.table
        self.memory.update(places.here, multilabels[places.held])
        if not self.sharded:
            return table[places.here]
        found = torch.zeros(len(multilabels), table.shape[1], dtype=table.dtype, device=table.device)
        found[places.held] = table[places.here]
        # Each row is held by one worker, and to add zeros changes no bit.
        return self.group.all_reduce_sum(found)

    def nearest(self) -> Tensor:
        """Return the agent that every image is most alike, (N,) int64: of equals the first, -1 = not visited.

        Every worker calls it.
        """
        first = self.memory.table.argmax(dim=1)  # by torch's promise the first of equal ones
        own = torch.where(self.memory.visited, first, -1)
        return self.group.gather_rows(own) if self.sharded else own

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return the whole table on the first worker's CPU, None on the others; every worker calls it."""
        own = self.memory.state_dict()
        if not self.sharded or self.group.size == 1:
            return {key: value.cpu() for key, value in own.items()} if self.group.is_first else None
        # Not all backends send booleans.
        whole = {
            key: _gathered_to_first(value.byte() if value.dtype == torch.bool else value, self.group)
            for key, value in own.items()
        }
        return whole if self.group.is_first else None

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over this worker's rows of what `state_dict` returned, for any number of workers."""
        self.memory.load_state_dict({key: value[self.own] for key, value in state.items()})


def _gathered_to_first(rows: Tensor, group: Group) -> Tensor:
    """Return all workers' rows on the first one's CPU, block by block; on the others nothing of use."""
    parts = []
    for rank in range(group.size):
        count = group.broadcast(torch.tensor([len(rows)], device=rows.device), source=rank)
        for start in range(0, int(count), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, int(count))
            mine = rank == group.rank
            block = rows[start:stop].clone() if mine else rows.new_empty(stop - start, *rows.shape[1:])
            block = group.broadcast(block, source=rank)
            if group.is_first:
                parts.append(block.cpu())
    return torch.cat(parts) if parts else rows.new_empty(0, *rows.shape[1:]).cpu()
