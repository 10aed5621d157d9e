"""The points of a sweep: trials that differ in their seed alone, put together, and the best of them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raid.sweep_folder import Axis, Objective, SweepRecord, Trial


@dataclass(frozen=True)
class Point:
    """A value for every axis, and the trials that were made with it.

    Attributes:
        values: of the axes, by path.
        trials: one a seed, by seed; of several with one seed the last that is done, or else the last.
    """

    values: Mapping[str, Any]
    trials: tuple[Trial, ...]

    @property
    def figures(self) -> dict[int, float]:
        """The objective by seed, of the trials that are done: what others stopped at is not comparable."""
        done = {trial.seed: trial.value for trial in self.trials if trial.state == "done"}
        return {seed: value for seed, value in done.items() if value is not None and math.isfinite(value)}

    def complete(self, seeds: Iterable[int]) -> bool:
        """Whether the trials of all these seeds are done, and have a value."""
        return set(seeds) <= set(self.figures)


def key_of(value: Any) -> str:
    """Return what tells values of an axis apart, which may be numbers, words, lists."""
    return json.dumps(value, sort_keys=True)


def applies(axis: Axis, point: Mapping[str, Any]) -> bool:
    """Whether an axis changes anything beside a point's values of the other axes, and the point has it."""
    beside = axis.only.items()
    return axis.path in point and all(path not in point or point[path] in values for path, values in beside)


def points(axes: Sequence[Axis], trials: Iterable[Trial]) -> list[Point]:
    """Return the points in the order in which they were begun."""
    found: dict[str, dict[int, Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        of_point = found.setdefault(key_of([trial.point.get(axis.path) for axis in axes]), {})
        before = of_point.get(trial.seed)
        if before is None or before.state != "done" or trial.state == "done":
            of_point[trial.seed] = trial
    return [
        Point(next(iter(by_seed.values())).point, tuple(by_seed[seed] for seed in sorted(by_seed)))
        for by_seed in found.values()
    ]


def best_point(record: SweepRecord, points: Iterable[Point]) -> Point | None:
    """Return the point of the best mean over seeds, the first of several that are equal.

    Only points count whose trials are done with every seed; None where there is none.
    """
    whole = [point for point in points if point.complete(record.seeds)]
    return min(whole, key=lambda point: badness(record.objective, mean_of(point)), default=None)


def mean_of(point: Point) -> float:
    """Return the mean of the objective over the seeds that are done, of which there is one at least."""
    return mean(list(point.figures.values()))


def badness(objective: Objective, value: float) -> float:
    """Return a figure that is the smaller, the better the objective."""
    return -value if objective.mode == "max" else value


def mean(values: Sequence[float]) -> float:
    """Return the mean of one value or more."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation (n - 1) of two values or more; None of one."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
