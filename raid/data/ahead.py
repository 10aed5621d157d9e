"""The batch of the next step is made while this one is trained."""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

import torch

from raid.data.background import Background

T = TypeVar("T")
Place = tuple[int, int]  # epoch and step


class Ahead(Generic[T]):
    """Batches by epoch and step, each made by a thread while the one before is in use.

    On a GPU they are made on a stream of their own: copies and augmentation go on beside the training.

    Args:
        make: a batch of (epoch, step). It depends on nothing else, and changes nothing.
        num_steps: of an epoch, whose first batch is waited for.
        device: where the batch is made.
    """

    def __init__(self, make: Callable[[int, int], T], num_steps: int, device: torch.device) -> None:
        self._make, self._num_steps, self._device = make, num_steps, device
        self._thread: Background | None = None  # of an epoch: it ends with the last batch's making
        self._next: tuple[Place, Future[tuple[T, torch.cuda.Event | None]]] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._latest: T | None = None  # what is trained on is not given back before its steps are queued

    def take(self, epoch: int, step: int) -> T:
        """Return the batch of a step, and begin with that of the next."""
        place, waiting = (epoch, step), self._next
        future = waiting[1] if waiting and waiting[0] == place else self._begin(place)
        made, event = future.result()
        if step + 1 < self._num_steps:
            self._next = (epoch, step + 1), self._begin((epoch, step + 1))
        else:
            self._next = self._thread = None
        if event is not None:
            event.wait(torch.cuda.current_stream(self._device))
        self._latest = made
        return made

    def _begin(self, place: Place) -> Future[tuple[T, torch.cuda.Event | None]]:
        self._thread = self._thread or Background("raid-batches")
        if self._stream is None:
            return self._thread.submit(lambda: (self._make(*place), None))
        # It may get the memory of the batch before the last: of whose training all has been queued by now.
        queued = torch.cuda.current_stream(self._device).record_event()
        return self._thread.submit(partial(self._on_stream, place, queued, self._stream))

    def _on_stream(
        self, place: Place, queued: torch.cuda.Event, stream: torch.cuda.Stream
    ) -> tuple[T, torch.cuda.Event | None]:
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            stream.wait_event(queued)
            made = self._make(*place)
            return made, stream.record_event()
