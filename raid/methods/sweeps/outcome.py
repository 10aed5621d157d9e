"""What came of a sweep: the points by their objective, the best as a run file, the report, a table."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.config import as_run_file
from raid.errors import InputError
from raid.files import atomic_path
from raid.methods.sweeps.points import overrides_of, told
from raid.methods.sweeps.trial import Base
from raid.report.sweep import write_sweep_report
from raid.sweep_folder import SweepFolder, SweepRecord, Trial

_MOST_ROWS = 20  # of the table on the terminal; the report has all
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tried:
    """A point with its trials of all seeds.

    Attributes:
        point: value of every axis, by path.
        trials: by seed.
        num_seeds: that the sweep wants of it.
    """

    point: Mapping[str, Any]
    trials: Sequence[Trial]
    num_seeds: int

    @property
    def complete(self) -> bool:
        """Whether every seed has come to its end."""
        return len(self.trials) == self.num_seeds and all(trial.state == "done" for trial in self.trials)

    @property
    def values(self) -> NDArray[np.float64]:
        """Objective of the trials that have one."""
        return np.array([trial.value for trial in self.trials if trial.value is not None])


def tried(folder: SweepFolder, record: SweepRecord) -> list[Tried]:
    """Return the points in the order of their first trials."""
    found: dict[str, list[Trial]] = {}
    for trial in folder.trials():
        found.setdefault(repr(sorted(trial.point.items())), []).append(trial)
    return [Tried(trials[0].point, trials, len(record.seeds)) for trials in found.values()]


def best_of(points: Sequence[Tried], record: SweepRecord) -> Tried | None:
    """Return the point with the best mean objective, of those whose seeds have all come to their end."""
    sign = 1.0 if record.objective.mode == "max" else -1.0
    complete = [point for point in points if point.complete and np.isfinite(point.values).all()]
    return max(complete, key=lambda point: sign * float(point.values.mean()), default=None)


def concluded(base: Base) -> str:
    """Write best.yaml and the report, and return what came of the sweep as text.

    Raises:
        InputError: no trial came to an end.
    """
    folder, record = base.folder, base.record
    points = tried(folder, record)
    failed = [trial for point in points for trial in point.trials if trial.state == "failed"]
    if not any(len(point.values) for point in points):
        reason = f": {failed[0].reason}" if failed else ""
        raise InputError(f"no trial of {folder.path} came to an end{reason}")
    best = best_of(points, record)
    if best is not None:
        _write_best(base, best)
    _write_report(folder)
    lines = ["", *_table(base, points, best), ""]
    if failed:
        lines.append(f"{len(failed)} trials failed, the first: {failed[0].reason}; --resume tries them again")
    lines += [f"best        {folder.best}" if best else "best        no point has all its seeds"]
    lines += [f"report      {folder.report}", f"trials      {folder.path / 'trials'}"]
    if len(record.seeds) > 1:
        lines.append(f"is it real? raid compare {folder.path / 'trials'}/*")
    return "\n".join(lines)


def _write_report(folder: SweepFolder) -> None:
    try:
        write_sweep_report(folder)
    except InputError as error:  # a full disk, say: the trials are done all the same
        logger.warning("no report: %s", error)


def _write_best(base: Base, best: Tried) -> None:
    """Write the best point as a run file, whose head says how it came to be chosen."""
    record, folder = base.record, base.folder
    objective, values = record.objective, best.values
    seeds = ", ".join(str(trial.seed) for trial in best.trials)
    lines = [
        f"The best of the sweep {record.name} by {objective.name} ({objective.key}): "
        f"{values.mean():.4g}, mean of seed {seeds}."
    ]
    if objective.on_test_set:
        lines.append("It was chosen by looking at the test set: its figure is not a result.")
    lines.append(f"  raid {record.method} {folder.best}")
    settings = {
        path: value for path, value in base.settings.items() if not path.startswith(("run.", "track."))
    }
    settings |= overrides_of(record.axes, best.point)
    settings["run.folder"] = str(folder.path / "best")
    text = as_run_file(base.text, record.file, settings)
    with atomic_path(folder.best) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in lines) + text)


def _table(base: Base, points: Sequence[Tried], best: Tried | None) -> list[str]:
    """Return a line a point, best first; of several seeds also the differences to the first point."""
    record = base.record
    axes = [axis for axis in record.axes if len({repr(point.point[axis.path]) for point in points}) > 1]
    sign = -1.0 if record.objective.mode == "max" else 1.0
    ranked = sorted(
        (point for point in points if len(point.values)),
        key=lambda point: (not point.complete, sign * float(point.values.mean())),
    )
    names = [told(axes or record.axes, point.point) for point in ranked]
    width = max(map(len, names)) + 2
    lines = [f"{'':{width}}{record.objective.name}"]
    for name, point in list(zip(names, ranked, strict=True))[:_MOST_ROWS]:
        states = "" if point.complete else f"  ({', '.join(trial.state for trial in point.trials)})"
        lines.append(f"{name:{width}}{_mean(point.values)}{states}")
    if len(ranked) > _MOST_ROWS:
        lines.append(f"... and {len(ranked) - _MOST_ROWS} more in the report")
    return lines


def _mean(values: NDArray[np.float64]) -> str:
    deviation = f" +- {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{deviation}"
