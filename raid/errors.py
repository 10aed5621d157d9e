"""The one exception that the command line turns into a single line and exit status 2, and words for it."""

from collections.abc import Sequence


class InputError(ValueError):
    """What the user gave cannot work: the message names the field, file or row, and what to do.

    Everything else that escapes is a fault of the program and keeps its traceback.
    """


def one_line(error: BaseException) -> str:
    """Return what an exception says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def some_of(names: Sequence[str], most: int = 20) -> str:
    """Return names to be read in a message, of many the first."""
    more = f", ... ({len(names):,})" if len(names) > most else ""
    return ", ".join(name[:80] for name in names[:most]) + more
