"""The process group of the workers of a `TorchTrainer`.

Ray Train would begin it with a store that listens on every address of its node, and asks nobody for a token.
"""

import socket
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig

# Ray names no public class for what a configuration of torch starts.
from ray.train.torch.config import _TorchBackend

from raid.distributed.launch import COLLECTIVE_TIMEOUT, collectives


class _JoinedByTheWorkers(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Begin no process group: `join_process_group` does."""


class JoinedByTheWorkers(TorchConfig):  # type: ignore[misc]
    """Torch as Ray Train sets it up, but for the process group."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return what sets torch up."""
        return _JoinedByTheWorkers


def join_process_group(*, on_gpu: bool) -> None:
    """Join the process group of all workers of this trainer; Ray Train leaves it when they end.

    Args:
        on_gpu: whether every worker has one.
    """
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    listener = _listener() if rank == 0 else None
    host, port = broadcast_from_rank_zero(listener.getsockname()[:2] if listener else None)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        size,
        is_master=rank == 0,
        timeout=COLLECTIVE_TIMEOUT,
        master_listen_fd=listener.detach() if listener else None,
    )
    dist.init_process_group(
        collectives(on_gpu=on_gpu), store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )


def _listener() -> socket.socket:
    """Listen where the other nodes find this one, and nowhere else."""
    address = ray.util.get_node_ip_address()
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
