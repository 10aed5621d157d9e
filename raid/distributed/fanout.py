"""Independent pieces of work: in this process, or over worker processes.

A method gets a `FanOut` as an argument and maps module-level functions over items with it. The work is
cut by the caller, never by the number of processes, and every item runs with the configured number of
threads: so the bytes of the results do not depend on where an item ran.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from raid import log

T = TypeVar("T")
R = TypeVar("R")


class FanOut(Protocol):
    """Where independent items run."""

    def share(self, value: T) -> T:
        """Make `value` cheap to hand to many items; arrays come back read-only."""

    def map(self, function: Callable[..., R], items: Iterable[Any], *shared: Any) -> Iterator[R]:
        """Yield `function(item, *shared)` for every item, in the order of the items."""


def depth(num_waiting: int, num_processes: int) -> int:
    """Return how many items a process of Ray's pool has at a time, while so many wait for one.

    While there are plenty, one is in waiting behind the one that is worked on, which hides the way; towards
    the end there is none, so that nobody waits behind a long one.
    """
    return 2 if num_waiting > 2 * num_processes else 1


class InProcess:
    """Runs every item in this process, one after the other."""

    def share(self, value: T) -> T:
        """Return `value`; arrays are made read-only, as they are when they come from shared memory."""
        return _read_only(value)

    def map(self, function: Callable[..., R], items: Iterable[Any], *shared: Any) -> Iterator[R]:
        """Yield `function(item, *shared)` for every item."""
        return (function(item, *shared) for item in items)


class Processes:
    """Runs items on `num_processes` processes of this machine, each with `threads` threads."""

    def __init__(self, num_processes: int, threads: int) -> None:
        self._pool = ProcessPoolExecutor(
            num_processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(threads,),
        )

    def share(self, value: T) -> T:
        """Return `value`, arrays read-only; it travels with every item."""
        return _read_only(value)

    def map(self, function: Callable[..., R], items: Iterable[Any], *shared: Any) -> Iterator[R]:
        """Yield `function(item, *shared)` in the order of the items; `function` is module-level."""
        return self._pool.map(partial(_with_shared, function, shared), items)

    def close(self) -> None:
        """Stop the processes; what has not started is dropped."""
        self._pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    log.configure()
    torch.set_num_threads(threads)


def _with_shared(function: Callable[..., R], shared: tuple[Any, ...], item: Any) -> R:
    return function(item, *(_read_only(value) for value in shared))


def _read_only(value: T) -> T:
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    return value
