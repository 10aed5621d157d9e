"""A training that stands still ends, after every worker has written down where it stands.

A worker that hangs (a collective whose peer is stuck, a page of a file that does not come, a driver of a GPU)
cannot be asked: Python may not get to run in it. So each worker has the interpreter's own watchdog, which
needs neither Python nor its lock, write the stacks of all threads and end the process. The others wait for it
in the same step, and do the same a moment later: the run's folder has one file of each.
"""

import faulthandler
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FILES = "stacks_{}.txt"


@contextmanager
def watched(folder: Path, name: str, timeout_s: float) -> Iterator[Callable[[], None]]:
    """End this process when it does not call what is given within `timeout_s` of the last time.

    Args:
        folder: of the run.
        name: of this process: its stacks are written to `stacks_NAME.txt` there.
        timeout_s: longer than the longest step; 0: there is no watchdog.
    """
    if timeout_s <= 0:
        yield lambda: None
        return
    file = folder / _FILES.format(name)
    # What a worker that was killed has left, or one whose driver was and which is about to end.
    file.unlink(missing_ok=True)
    with file.open("w") as stream:

        def beat() -> None:
            faulthandler.dump_traceback_later(timeout_s, exit=True, file=stream)

        beat()
        try:
            yield beat
        finally:
            faulthandler.cancel_dump_traceback_later()
            if _is_at(file, stream.fileno()):
                file.unlink(missing_ok=True)


def _is_at(file: Path, opened: int) -> bool:
    """Return whether `file` is still what was opened: the run may have been gone on with, beside its end."""
    try:
        return os.path.samestat(file.stat(), os.fstat(opened))
    except FileNotFoundError:
        return False


def stacks_since(folder: Path, started: float) -> list[Path]:
    """Return the files that workers of the run in `folder` have written since, in seconds since 1970."""
    files = sorted(folder.glob(_FILES.format("*")))
    return [file for file in files if file.stat().st_size and file.stat().st_mtime >= started]
