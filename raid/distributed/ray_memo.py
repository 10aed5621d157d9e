"""Values that trials share, made when the first of them asks and kept in the object store."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import ray
from ray.actor import ActorHandle

from raid import log


class Memo:
    """Gives a value by its key, without a copy of its arrays, which are read-only; can be pickled."""

    def __init__(self, keeper: ActorHandle) -> None:
        self._keeper = keeper

    @staticmethod
    def start(make: Callable[..., Any], *shared: Any, at_most: int, order: Sequence[Hashable] = ()) -> "Memo":
        """Keep what `make(key, *shared)` returns, of the keys that were asked for last.

        Args:
            make: module-level; runs in a process of its own, and reserves no CPU: whoever asks waits for it.
            shared: put into the object store once.
            at_most: values that are kept beyond those that somebody holds; two at least.
            order: in which keys will be asked for, as far as that is known: the first is made at once, and
                every following one when the one before is asked for.
        """
        keeper = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_Keeper)
        return Memo(keeper.remote(make, [ray.put(value) for value in shared], at_most, list(order)))

    def get(self, key: Hashable) -> Any:
        """Return the value; an error of its making is raised here."""
        (reference,) = ray.get(self._keeper.reference.remote(key))
        return ray.get(reference)

    def close(self) -> None:
        """Forget all values."""
        ray.kill(self._keeper)


class _Keeper:
    """Starts the making of a value and hands out its reference; it never waits itself."""

    def __init__(
        self,
        make: Callable[..., Any],
        shared: list[ray.ObjectRef],
        at_most: int,
        order: list[Hashable],
    ) -> None:
        self._task = ray.remote(num_cpus=0, scheduling_strategy="DEFAULT")(_made)
        self._make, self._shared, self._at_most = make, shared, at_most
        self._references: OrderedDict[Hashable, ray.ObjectRef] = OrderedDict()
        self._next = dict(pairwise(order))
        for key in order[:1]:
            self._begin(key)

    def reference(self, key: Hashable) -> list[ray.ObjectRef]:
        """Return the reference in a list: alone it would be the value that is fetched."""
        self._begin(key)
        self._references.move_to_end(key)
        if key in self._next:
            self._begin(self._next[key])
        while len(self._references) > self._at_most:
            self._references.popitem(last=False)
        return [self._references[key]]

    def _begin(self, key: Hashable) -> None:
        if key not in self._references:
            self._references[key] = self._task.remote(self._make, key, *self._shared)


def _made(make: Callable[..., Any], key: Hashable, *shared: Any) -> Any:
    log.configure()
    return make(key, *shared)
