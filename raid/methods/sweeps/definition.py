"""What a sweep is: the settings it searches, what it is judged by, and what its trials have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raid.config import flatten
from raid.distributed.backend import Backend
from raid.errors import InputError
from raid.methods.sweeps.points import Point
from raid.sweep_folder import Axis, Objective

MAP = Objective("mAP", "eval/mAP", "max", "mean average precision of the queries", on_test_set=True)
RANK1 = Objective("rank1", "eval/rank1", "max", "queries whose first match is right", on_test_set=True)
SILHOUETTE = Objective(
    "silhouette", "cluster/silhouette", "max", "how much closer images are to their cluster than to the next"
)
CHURN = Objective(
    "churn", "cluster/churn", "min", "how unlike the epoch before an epoch clusters (1 - ARI): low is stable"
)


@dataclass(frozen=True)
class SharedStage:
    """A stage whose result is the same for many trials: it is done once, and they begin with it.

    Attributes:
        name: of its folder.
        setting: path of the configuration that takes the result.
        applies: whether a trial of this configuration takes it.
        prepare: does it in a folder (once) and returns the result's path; module-level.
        of: paths whose values tell one result from another; `seed` is always one.
        largest: paths that are prepared at the largest value of the sweep, which serves for smaller ones.
    """

    name: str
    setting: str
    applies: Callable[[Any], bool]
    prepare: Callable[[Any, Backend, Path], Path]
    of: tuple[str, ...] = ()
    largest: tuple[str, ...] = ()

    def key(self, config: Any) -> str:
        """Return the name of the folder of what a trial of this configuration takes."""
        values = flatten(config)
        parts = [f"{path.rpartition('.')[2]}{values[path]}" for path in ("seed", *self.of)]
        return "_".join([self.name, *parts])


@dataclass(frozen=True)
class Sweep:
    """A search over the settings of a method, as a script in tune/ defines it.

    Attributes:
        name: of the script.
        method: icsr, mar, slsr.
        title: what is searched, one line.
        axes: that can be searched.
        objectives: that trials can be compared by.
        shared: stages in the order of the method, each with those before.
    """

    name: str
    method: str
    title: str
    axes: tuple[Axis, ...]
    objectives: tuple[Objective, ...]
    shared: tuple[SharedStage, ...] = ()

    def objective(self, name: str) -> Objective:
        """Return the objective of this name.

        Raises:
            InputError: there is none.
        """
        for objective in self.objectives:
            if objective.name == name:
                return objective
        raise InputError(f"--objective {name}: unknown; {self.name} knows {', '.join(self.known())}")

    def known(self) -> Sequence[str]:
        """Return the names of the objectives."""
        return [objective.name for objective in self.objectives]


def widest(axes: Sequence[Axis], paths: Sequence[str], points: Sequence[Point]) -> dict[str, Any]:
    """Return the largest value of each of the paths that is searched.

    Args:
        axes: that are searched.
        paths: of numbers.
        points: that are tried; none where they are drawn as the search goes on: then it is what may be drawn.
    """
    found = {}
    for axis in axes:
        if axis.path in paths:
            drawn = axis.values if axis.high is None else (axis.high,)
            found[axis.path] = max(point[axis.path] for point in points) if points else max(drawn)
    return found
