"""What came of a sweep: the best point as a run file, the report, a table."""

import logging
from collections.abc import Sequence

from raid.config import as_run_file
from raid.errors import InputError
from raid.files import atomic_path
from raid.methods.sweeps.points import overrides_of, told
from raid.methods.sweeps.trial import Base
from raid.report.sweep import write_sweep_report
from raid.sweep_folder import SweepFolder
from raid.sweep_points import Point, badness, best_point, deviation, key_of, mean, mean_of, points

_MOST_ROWS = 20  # of the table on the terminal; the report has all
logger = logging.getLogger(__name__)


def concluded(base: Base) -> str:
    """Write best.yaml and the report, and return what came of the sweep as text.

    Raises:
        InputError: no trial came to an end.
    """
    folder, record = base.folder, base.record
    trials = folder.trials()
    failed = [trial for trial in trials if trial.state == "failed"]
    if not any(trial.state == "done" for trial in trials):
        reason = f": {failed[0].reason}" if failed else ""
        raise InputError(f"no trial of {folder.path} came to an end{reason}")
    found = points(record.axes, trials)
    best = best_point(record, found)
    if best is not None:
        _write_best(base, best)
    _write_report(folder)
    lines = ["", *_table(base, found), ""]
    left = (record.num_trials or 0) - sum(trial.state != "running" for trial in trials)
    if left > 0:
        lines.append(f"{left} trials have not come to an end; --resume goes on with them")
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


def _write_best(base: Base, best: Point) -> None:
    """Write the best point as a run file, whose head says how it came to be chosen."""
    record, folder = base.record, base.folder
    objective = record.objective
    seeds = ", ".join(map(str, best.figures))
    lines = [
        f"The best of the sweep {record.name} by {objective.name} ({objective.key}): "
        f"{mean_of(best):.4g}, mean of seed {seeds}."
    ]
    if objective.on_test_set:
        lines.append("It was chosen by looking at the test set: its figure is not a result.")
    lines.append(f"  raid {record.method} {folder.best}")
    settings = {
        path: value for path, value in base.settings.items() if not path.startswith(("run.", "track."))
    }
    settings |= overrides_of(record.axes, best.values)
    settings["run.folder"] = str(folder.path / "best")
    text = as_run_file(base.text, record.file, settings)
    with atomic_path(folder.best) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in lines) + text)


def _table(base: Base, found: Sequence[Point]) -> list[str]:
    """Return a line a point, best first; points without all their seeds come last."""
    record = base.record
    axes = [axis for axis in record.axes if len({key_of(point.values[axis.path]) for point in found}) > 1]
    ranked = sorted(
        (point for point in found if point.figures),
        key=lambda point: (not point.complete(record.seeds), badness(record.objective, mean_of(point))),
    )
    names = [told(axes or record.axes, point.values) for point in ranked]
    width = max(map(len, names)) + 2
    lines = [f"{'':{width}}{record.objective.name}"]
    for name, point in list(zip(names, ranked, strict=True))[:_MOST_ROWS]:
        states = ", ".join(trial.state for trial in point.trials)
        lines.append(
            f"{name:{width}}{_figure(point)}{'' if point.complete(record.seeds) else f'  ({states})'}"
        )
    if len(ranked) > _MOST_ROWS:
        lines.append(f"... and {len(ranked) - _MOST_ROWS} more in the report")
    return lines


def _figure(point: Point) -> str:
    values = list(point.figures.values())
    spread = deviation(values)
    return f"{mean(values):.4f}{'' if spread is None else f' +- {spread:.4f}'}"
