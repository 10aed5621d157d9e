"""Reads that do not wait for ever: storage that hangs is named, instead of a run that stands still."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from raid.data.background import Background
from raid.errors import InputError

T = TypeVar("T")
# Network storage that is slow, or fails over to another server, answers within minutes.
READ_TIMEOUT_S = 600.0


def read_bytes(file: Path, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: it did not come within `timeout_s`.
        OSError: it cannot be read.
    """
    return within(timeout_s, file.read_bytes, str(file))


def within(timeout_s: float, read: Callable[[], T], name: str) -> T:
    """Return `read()`, done by a thread that is left behind where it does not come back.

    A read that hangs cannot be interrupted, and would keep the interpreter from ending; a daemon does not.

    Args:
        timeout_s: to wait for it.
        read: does not change anything.
        name: of what is read.

    Raises:
        InputError: it did not come back in time.
    """
    reader = _of_thread.reader
    if reader is None or not reader.is_alive():
        reader = _of_thread.reader = Background("raid-reader")
    done = reader.submit(read)
    try:
        return done.result(timeout_s)
    except TimeoutError:
        if done.done():  # the read's own
            raise
        _of_thread.reader = None
        raise InputError(
            f"{name}: could not be read within {timeout_s:g} s (data.read_timeout_s): the storage hangs"
        ) from None


class _OfThread(threading.local):
    reader: Background | None = None  # ends with the thread


_of_thread = _OfThread()
