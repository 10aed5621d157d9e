"""With what change to a configuration a piece of work fits into memory, in words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

from raid.config import Schema

T = TypeVar("T")
ConfigOfMethod = TypeVar("ConfigOfMethod", bound=Schema)
_GIB = 2.0**30
_MOST_WORKERS = 256  # that are thought of


def with_workers(config: ConfigOfMethod, workers: int) -> ConfigOfMethod:
    """Return the configuration of a method with so many workers."""
    sections: Any = config  # has run, as every method's
    changed: ConfigOfMethod = replace(sections, run=replace(sections.run, workers=workers))
    return changed


def enough_workers(
    config: ConfigOfMethod, fits: Callable[[ConfigOfMethod], bool]
) -> dict[str, Callable[[ConfigOfMethod], ConfigOfMethod]]:
    """Return the change, by its override, to the fewest workers above the configured ones with which it fits.

    Args:
        config: of a method.
        fits: whether a configuration does. Only numbers of workers that can share its batches are asked for.

    Returns:
        One change, or none where no number suffices.
    """
    sections: Any = config
    for workers in range(sections.run.workers + 1, _MOST_WORKERS + 1):
        more = with_workers(config, workers)
        if not any(more.problems()) and fits(more):
            return {f"run.workers={workers}": partial(with_workers, workers=workers)}
    return {}


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
