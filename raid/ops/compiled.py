"""Compiled loops: numba, cached beside the source, on as many threads as the process is to use."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import torch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile `function` at its first call, without the interpreter's lock; later processes find it cached.

    A machine where neither the package's folder nor the user's cache can be written compiles it once a
    process.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba found no place for its cache
        return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def over_rows(function: Callable[[int, int], T], start: int, stop: int, *, chunk_rows: int) -> list[T]:
    """Return `function(first, last)` for every chunk of rows from `start` to `stop`, in their order.

    The chunks run side by side on `torch.get_num_threads()` threads, which `numerics.threads` sets. The cut
    does not depend on that number; nor may what `function` does, so that any number gives the same bytes.

    Args:
        function: mostly a call of a `compiled` function, which lets the other threads run.
        start: first row.
        stop: one after the last row.
        chunk_rows: rows of a chunk: enough of them to be worth a call, few enough to keep all threads busy.
    """
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    chunks = [(first, min(first + chunk_rows, stop)) for first in range(start, stop, chunk_rows)]
    threads = min(torch.get_num_threads(), len(chunks))
    if threads <= 1:
        return [function(*chunk) for chunk in chunks]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(lambda chunk: function(*chunk), chunks))
