"""With what change to a configuration a piece of work fits into memory, in words."""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")
_GIB = 2.0**30


def changes_that_fit(
    thing: T,
    changes: Mapping[str, Callable[[T], T]],
    needed: Callable[[T], float],
    available: float,
) -> str:
    """Return, in words, with what change a thing fits into `available` bytes.

    Changes that do not suffice alone are named two or three together; those that do not help, not at all.

    Args:
        thing: what is too large as it is.
        changes: what could be changed, by the override that does it.
        needed: bytes of a thing.
        available: bytes.
    """
    for number in range(1, len(changes) + 1):
        fitting = []
        for names in combinations(changes, number):
            changed = thing
            for name in names:
                changed = changes[name](changed)
            if needed(changed) <= available:
                fitting.append(f"{' '.join(names)} ({needed(changed) / _GIB:.1f} GiB)")
        if fitting:
            return f"it fits with {' or '.join(fitting)}"
    return "take a machine with more"
