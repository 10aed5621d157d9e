"""Independent pieces of work on warm Ray actors: a `FanOut` over a cluster."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import ray
import torch
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raid import log
from raid.distributed.fanout import depth

T = TypeVar("T")
R = TypeVar("R")

# An item that ends its process so often will do it again.
_RETRIES = 3
# What asks for nothing at all, Ray puts on a node by chance, whatever node is named (its scheduler looks at
# a soft affinity only after that): so each asks for one byte of the memory that every node lends.
_A_BYTE = 1


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
            num_cpus=0, num_gpus=gpus, memory=_A_BYTE, max_restarts=-1, max_task_retries=_RETRIES
        )(PoolProcess)
        # GPUs are reserved, and so Ray knows where some are left.
        strategies = ["SPREAD"] * size if gpus else [_on(node) for node in spread(size, _cpus())]
        processes = [actor.options(scheduling_strategy=how).remote(threads) for how in strategies]
        ray.get([process.ready.remote() for process in processes])
        return RayPool(processes)

    def share(self, value: T) -> T:
        """Put `value` into the object store once; arrays reach every item read-only, without a copy."""
        return cast(T, ray.put(value))

    def map(self, function: Callable[..., R], items: Iterable[Any], *shared: Any) -> Iterator[R]:
        """Yield `function(item, *shared)` in the order of the items.

        The next item goes to the process that is free first; `depth` says how many each has.
        `raid.methods.makespan` foretells what comes of it.
        """
        references = [ray.put(function), *(_reference(value) for value in shared)]
        waiting = deque(enumerate(items))
        running: dict[ray.ObjectRef, tuple[int, int]] = {}
        load = [0] * len(self._processes)
        done: dict[int, ray.ObjectRef] = {}
        following = 0
        while waiting or running:
            while waiting and min(load) < depth(len(waiting), len(load)):
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

    def close(self) -> None:
        """Stop the processes."""
        for process in self._processes:
            ray.kill(process)


def spread(size: int, cpus: Mapping[str, float]) -> list[str]:
    """Return the node of each process, in proportion to the nodes' CPUs; none on one without.

    Ray places what reserves nothing wherever its turn is, on a head that lends no CPU too.
    """
    load = dict.fromkeys(sorted(node for node, count in cpus.items() if count > 0), 0)
    chosen = []
    for _ in range(size):
        node = max(load, key=lambda node: cpus[node] / (load[node] + 1))
        load[node] += 1
        chosen.append(node)
    return chosen


def _cpus() -> dict[str, float]:
    return {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]}


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=True)  # elsewhere, when it is lost


def _reference(value: Any) -> ray.ObjectRef:
    return value if isinstance(value, ray.ObjectRef) else ray.put(value)


def _without_item(item: None, function: Callable[[], R]) -> R:
    return function()
