"""Values on their way from the device to the host."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


class Fetched:
    """Tensors that are copied to the host: on a GPU nobody waits for them until they are asked for.

    Ask when the next step has been queued: the GPU then has work while its host waits.
    """

    def __init__(self, *tensors: Tensor) -> None:
        """Begin to copy; what is on the CPU is there, and is not to be changed."""
        on_gpu = tensors[0].is_cuda
        self._host = [_sent(value.detach()) for value in tensors]
        self._arrived = torch.cuda.current_stream(tensors[0].device).record_event() if on_gpu else None

    def arrays(self) -> list[NDArray[Any]]:
        """Return the values, in their order."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [value.numpy() for value in self._host]


def _sent(value: Tensor) -> Tensor:
    if not value.is_cuda:
        return value
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    return host.copy_(value, non_blocking=True)
