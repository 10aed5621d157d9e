"""Compiled loops: numba, cached beside the source; and work cut over the threads the process is to use."""

import functools
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import torch
from threadpoolctl import ThreadpoolController

S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


_PACKAGE = Path(__file__).parent


def compiled(function: F) -> F:
    """Compile `function` at its first call, without the interpreter's lock; later processes find it cached.

    A machine where neither the package's folder nor the user's cache can be written compiles it once a
    process.
    """
    folder = _cache_folder(_PACKAGE)
    if folder is None:
        return cast(F, numba.njit(nogil=True, error_model="numpy")(function))
    settings: Any = numba.config
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
    try:
        return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy")(function))
    finally:
        settings.CACHE_DIR = before


@functools.cache
def _cache_folder(sources: Path) -> Path | None:
    """Return where these sources' code is cached, None if nowhere can be written.

    Every state of the sources has a folder of its own: numba looks at the time of a function's own file
    alone, and code that was compiled with an older callee of another file crashes.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(sources.glob("*.py")):
        digest.update(file.read_bytes())
    name = f"compiled-{digest.hexdigest()}"
    for place in (sources / "__pycache__", Path("~/.cache/raid")):
        try:
            folder = place.expanduser() / name
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except (OSError, RuntimeError):  # a user may have no home
            continue
    return None


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


def over_threads(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Return `function(item)` for every item, in their order, on `torch.get_num_threads()` threads.

    Inside, torch's own operations and `over_rows` find a single thread: for work that is made of many short
    ones, each of which would wait for all threads. As with `over_rows`, any number gives the same bytes.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]

    def alone(item: S) -> T:
        torch.get_num_threads()  # torch sets a new thread's number when it is first asked
        with _openmp().limit(limits=1):  # of the calling thread alone, unlike torch.set_num_threads
            return function(item)

    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(alone, items))


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
