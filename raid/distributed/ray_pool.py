"""Independent pieces of work on warm Ray actors: a `FanOut` over a cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import ray
import torch
from ray.actor import ActorHandle

from raid import log

T = TypeVar("T")
R = TypeVar("R")

# An item that ends its process so often will do it again.
_RETRIES = 3


class PoolProcess:
    """One process of the pool. Ray starts it anew when it dies, and gives it the lost item again."""

    def __init__(self, threads: int) -> None:
        log.configure()
        torch.set_num_threads(threads)

    def ready(self) -> None:
        """Return once the process has started."""

    def run(self, function: Callable[..., R], item: Any, *shared: Any) -> R:
        """Return `function(item, *shared)`; Ray has put the shared values in their references' place."""
        return function(item, *shared)


class RayPool:
    """Runs items on actors that stay; can be pickled, so that a worker can use the driver's pool."""

    def __init__(self, processes: list[ActorHandle]) -> None:
        self._processes = processes

    @staticmethod
    def start(size: int, *, threads: int, gpus: float = 0.0) -> "RayPool":
        """Start `size` processes of `threads` CPU threads and wait until they are there.

        They reserve no CPU: they work while the training workers, which do, wait for them.
        """
        actor = ray.remote(
            num_cpus=0,
            num_gpus=gpus,
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=_RETRIES,
        )(PoolProcess)
        processes = [actor.remote(threads) for _ in range(size)]
        ray.get([process.ready.remote() for process in processes])
        return RayPool(processes)

    def share(self, value: T) -> T:
        """Put `value` into the object store once; arrays reach every item read-only, without a copy."""
        return cast(T, ray.put(value))

    def map(self, function: Callable[..., R], items: Iterable[Any], *shared: Any) -> Iterator[R]:
        """Yield `function(item, *shared)` in the order of the items.

        The next item goes to the process that is free first. While there are plenty, a process has one in
        waiting, which hides the way; towards the end it has not, so that nobody waits behind a long one.
        """
        references = [ray.put(function), *(_reference(value) for value in shared)]
        waiting = deque(enumerate(items))
        running: dict[ray.ObjectRef, tuple[int, int]] = {}
        load = [0] * len(self._processes)
        done: dict[int, ray.ObjectRef] = {}
        following = 0
        while waiting or running:
            while waiting and min(load) < self._depth(len(waiting)):
                process = load.index(min(load))
                number, item = waiting.popleft()
                task = self._processes[process].run.remote(references[0], item, *references[1:])
                running[task] = (number, process)
                load[process] += 1
            (task,), _ = ray.wait(list(running), num_returns=1)
            number, process = running.pop(task)
            load[process] -= 1
            done[number] = task
            while following in done:
                yield ray.get(done.pop(following))
                following += 1

    def on_each(self, function: Callable[[], R]) -> list[R]:
        """Return what `function` says in each of the processes."""
        calls = [process.run.remote(_without_item, None, function) for process in self._processes]
        return cast(list[R], ray.get(calls))

    def _depth(self, num_waiting: int) -> int:
        return 2 if num_waiting > 2 * len(self._processes) else 1

    def close(self) -> None:
        """Stop the processes."""
        for process in self._processes:
            ray.kill(process)


def _reference(value: Any) -> ray.ObjectRef:
    return value if isinstance(value, ray.ObjectRef) else ray.put(value)


def _without_item(item: None, function: Callable[[], R]) -> R:
    return function()
