"""A thread that works for one object."""

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_LAST_S = 1.0  # for work under way when the interpreter ends
_Work = queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]


class Background:
    """Does one piece of work after the other, and ends with whoever holds it.

    It is a daemon: work that hangs does not keep the interpreter from ending.
    """

    def __init__(self, name: str) -> None:
        self._work: _Work = queue.SimpleQueue()
        self._thread = threading.Thread(target=_do, args=(self._work,), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._work.put, None)
        _working.add(self)

    def is_alive(self) -> bool:
        """Whether it still works; after a fork it does not."""
        return self._thread.is_alive()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Return what `work` will have returned."""
        done: Future[T] = Future()
        self._work.put((work, done))
        return done

    def end(self, deadline: float) -> None:
        """Begin nothing more, and wait for what has begun until `deadline`, by the monotonic clock."""
        self._work.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))


_working: weakref.WeakSet[Background] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """Let what is under way end: a thread that is cut off in a library takes the process along."""
    deadline = time.monotonic() + _LAST_S
    for one in list(_working):
        one.end(deadline)


def _do(work: _Work) -> None:
    while (item := work.get()) is not None:
        function, done = item
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)
        del item, function, done  # nothing is kept until the next
