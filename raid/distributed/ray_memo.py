"""Values that trials share, made when the first of them asks and kept in the object store."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from raid import log

_AHEAD = 2  # values that are made while others are looked at: one would leave cores idle


def begin(work: Callable[..., Any], *arguments: Any) -> ray.ObjectRef:
    """Begin `work(*arguments)` in a process of its own, and return the reference of what it will return.

    It reserves no CPU: whoever wants it waits for it. `work` is module-level; it and any argument may be
    references, whose values it gets.
    """
    return ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_done).remote(work, *arguments)


def _done(work: Callable[..., Any], *arguments: Any) -> Any:
    log.configure()
    return work(*arguments)


class Memo:
    """Gives a value by its key, without a copy of its arrays, which are read-only; can be pickled."""

    def __init__(self, keeper: ActorHandle) -> None:
        self._keeper = keeper

    @staticmethod
    def start(make: Callable[..., Any], *shared: Any, at_most: int, order: Sequence[Hashable] = ()) -> "Memo":
        """Keep what `make(key, *shared)` returns, of the keys that were asked for last.

        Args:
            make: as the work of `begin`.
            shared: put into the object store once; a reference stays what it is.
            at_most: values that are kept beside those that are made ahead and those that somebody holds.
            order: in which keys will be asked for, as far as that is known: the first two are made at once,
                and the two that follow a key when it is asked for.
        """
        keeper = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_Keeper)
        stored = [value if isinstance(value, ray.ObjectRef) else ray.put(value) for value in (make, *shared)]
        return Memo(keeper.remote(stored, at_most, list(order)))

    def get(self, key: Hashable) -> Any:
        """Return the value; an error of its making is raised here."""
        (reference,) = ray.get(self._keeper.reference.remote(key))
        return ray.get(reference)

    def close(self) -> None:
        """Forget all values."""
        ray.kill(self._keeper)


class _Keeper:
    """Starts the making of a value and hands out its reference; it never waits, nor looks at anything."""

    def __init__(self, stored: list[ray.ObjectRef], at_most: int, order: list[Hashable]) -> None:
        self._make, *self._shared = stored
        self._at_most = at_most + _AHEAD
        self._references: OrderedDict[Hashable, ray.ObjectRef] = OrderedDict()
        self._order = order
        self._place = {key: place for place, key in enumerate(order)}
        self._begin(order[:_AHEAD])

    def reference(self, key: Hashable) -> list[ray.ObjectRef]:
        """Return the reference in a list: alone it would be the value that is fetched."""
        self._begin([key])
        self._references.move_to_end(key)
        if key in self._place:
            place = self._place[key] + 1
            self._begin(self._order[place : place + _AHEAD])
        while len(self._references) > self._at_most:
            self._references.popitem(last=False)
        return [self._references[key]]

    def _begin(self, keys: Sequence[Hashable]) -> None:
        for key in keys:
            if key not in self._references:
                self._references[key] = begin(self._make, key, *self._shared)
