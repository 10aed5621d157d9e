"""How long the workers' collectives take, without making anybody wait for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_engine = torch.autograd.Variable._execution_engine


class CollectiveClock:
    """Adds up the seconds that this worker spends in collectives; a slower worker's lead is among them.

    On CPUs these are the seconds of the calls. On a GPU a call only puts the collective into a queue: there
    it is the time for which the computation's stream stands still, between two events in the stream, which
    are read later. What goes on beside the computation, as most of the gradients' sum does, is not in it.
    A copy in another process starts from nothing.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._begun = 0.0
        self._events: list[torch.cuda.Event] = []  # beginning and end, in turns

    def __reduce__(self) -> tuple[type["CollectiveClock"], tuple[()]]:
        return CollectiveClock, ()

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Count the block, whose collective is of tensors on `device`; blocks are not nested."""
        self._begin(device)
        try:
            yield
        finally:
            self._end(device)

    def seconds(self) -> float:
        """Return the seconds so far; on a GPU the host waits for what it has been asked to do."""
        if self._events:
            self._events[-1].synchronize()
        for begin, end in zip(self._events[::2], self._events[1::2], strict=True):
            self._seconds += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds

    def follow(self, parallel: nn.Module) -> None:
        """Count, of every backward pass of a DDP module, the wait for the sum of its gradients.

        It is what is left when the worker's own gradients are there, the copies out of the buckets included.
        """
        parallel.register_forward_hook(self._at_forward)

    def _at_forward(self, parallel: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._at_backward)

    def _at_backward(self, gradient: Tensor) -> None:
        """Begin when the pass has computed everything, and end when it is over.

        The engine's callbacks come in the order in which they were asked for: this one before that in which
        DDP waits, which it asks for with its last bucket; and one that is asked for by this one after it.
        """
        device = gradient.device

        def computed() -> None:
            self._begin(device)
            _engine.queue_callback(lambda: self._end(device))

        _engine.queue_callback(computed)

    def _begin(self, device: torch.device) -> None:
        if device.type == "cuda":
            self._record()
        else:
            self._begun = time.perf_counter()

    def _end(self, device: torch.device) -> None:
        if device.type == "cuda":
            self._record()
        else:
            self._seconds += time.perf_counter() - self._begun

    def _record(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)
