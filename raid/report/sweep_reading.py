"""What the page of a sweep is made of: its records, read and checked, and what follows from them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from raid.errors import InputError
from raid.report.charts import Point as Place
from raid.report.reading import Epoch, is_finite, records
from raid.report.sweep_values import distinct
from raid.sweep_folder import Axis, SweepFolder, SweepRecord, Trial
from raid.sweep_points import Point, best_point, points

# The page's words. The records of a trial that goes on look like those of one that died.
STATES = {"done": "done", "stopped": "stopped", "failed": "failed", "running": "unfinished"}


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder records it.

    Attributes:
        folder: of the sweep.
        record: what determines it.
        trials: that have begun, by number, at least one.
        epochs: what they recorded, by number.
        values: finite ones of the objective, by number.
        points: in the order in which they were begun.
        best: the best of those that are done with every seed.
        varying: axes of which more than one value has been tried.
        names: of all axes, by path: as much of the path's end as tells it from the others.
    """

    folder: SweepFolder
    record: SweepRecord
    trials: list[Trial]
    epochs: dict[int, list[Epoch]]
    values: dict[int, float]
    points: list[Point]
    best: Point | None
    varying: list[Axis]
    names: dict[str, str]

    @staticmethod
    def read(folder: SweepFolder) -> "Sweep":
        """Read what the folder holds.

        Raises:
            InputError: it holds no sweep, no trial has begun, or a record is damaged.
        """
        record = folder.read()
        begun = folder.trials()
        if not begun:
            raise InputError(f"{folder.path}: no trial has begun yet: there is nothing to report")
        runs = {trial.number: folder.run(trial.number) for trial in begun}
        epochs = {
            number: records(run.path / "metrics.jsonl", run.metrics, "epoch") for number, run in runs.items()
        }
        trials = [_with_value(trial, record, epochs[trial.number]) for trial in begun]
        tried = points(record.axes, trials)
        return Sweep(
            folder=folder,
            record=record,
            trials=trials,
            epochs=epochs,
            values={
                trial.number: trial.value
                for trial in trials
                if trial.value is not None and math.isfinite(trial.value)
            },
            points=tried,
            best=best_point(record, tried),
            varying=[axis for axis in record.axes if len(distinct(axis, trials)) > 1],
            names=_names([axis.path for axis in record.axes]),
        )

    @property
    def valued(self) -> list[Trial]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial.number in self.values]

    @property
    def best_numbers(self) -> set[int]:
        """Numbers of the best point's trials."""
        return {trial.number for trial in self.best.trials} if self.best else set()

    def curve(self, number: int, key: str) -> list[Place]:
        """Return (epoch from 1, finite value) of what a trial recorded under `key`."""
        return [
            (epoch["epoch"] + 1, float(epoch[key]))
            for epoch in self.epochs[number]
            if is_finite(epoch.get(key))
        ]


def counted(trials: Iterable[Trial]) -> str:
    """Return how many trials are in which state, in words."""
    counts = Counter(STATES.get(trial.state, trial.state) for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in STATES.values() if counts[state])


def _with_value(trial: Trial, record: SweepRecord, epochs: list[Epoch]) -> Trial:
    """Return a trial that goes on with the value that its last epoch has."""
    return trial if trial.value is not None else replace(trial, value=record.objective.value(epochs))


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of every path that no other path ends in."""
    names = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-size:]) for size in range(1, len(parts) + 1)]
        alone = (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in paths) == 1)
        names[path] = next(alone, path)
    return names
