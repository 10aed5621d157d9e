"""How much each axis matters to the objective, beside what the seed does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.importance import FEWEST, REPEATS, permutation_importance
from raid.report.charts import figure, number
from raid.report.markup import Html, element
from raid.report.panels import note
from raid.report.reading import is_finite
from raid.report.scale import fitted
from raid.report.sweep_reading import Sweep
from raid.report.sweep_rows import ROW, WIDTH, ends_of, height_of, middle_of, rows_frame
from raid.report.sweep_values import distinct
from raid.sweep_folder import Axis, Trial
from raid.sweep_points import key_of

Floats = NDArray[np.float64]
SEED = "seed"


@dataclass(frozen=True)
class Influence:
    """What the axes matter, the most important first.

    Attributes:
        axes: (path, drop of R^2, its deviation); the seed's path is SEED.
        r2: of the prediction, cross-validated.
        num_trials: that it was learned from.
        epoch: from 1, at which they are compared; None: each at its last.
    """

    axes: list[tuple[str, float, float]]
    r2: float
    num_trials: int
    epoch: int | None


def measured(sweep: Sweep) -> Influence | None:
    """Return what the axes matter; None where too few trials can be compared.

    Those that are done are compared. Where these are too few, or fewer than a scheduler has stopped, all are,
    at the last epoch that each of them has: those that are left were chosen for their values.
    """
    done = {trial.number: sweep.values[trial.number] for trial in sweep.valued if trial.state == "done"}
    num_stopped = sum(trial.state == "stopped" for trial in sweep.trials)
    epoch, values = (None, done) if len(done) >= max(FEWEST, num_stopped) else _at_one_epoch(sweep)
    compared = [trial for trial in sweep.trials if trial.number in values]
    axes = {
        axis.path: _columns(axis, compared) for axis in sweep.varying if len(distinct(axis, compared)) > 1
    }
    if len(compared) < FEWEST or not axes:
        return None
    # Seeds of one point tell each other's figure, whatever matters; but one axis alone is predicted by them.
    groups = _groups(sweep, compared) if len(axes) > 1 else np.arange(len(compared))
    if len({trial.seed for trial in compared}) > 1:
        axes[SEED] = _one_hot([trial.seed for trial in compared])
    if len(np.unique(groups)) < 2:
        return None
    figures = np.array([values[trial.number] for trial in compared])
    found = permutation_importance(list(axes.values()), figures, groups)
    of_axes = zip(axes, found.drops.tolist(), found.deviations.tolist(), strict=True)
    return Influence(sorted(of_axes, key=lambda of: -of[1]), found.r2, len(compared), epoch)


def importance(sweep: Sweep, influence: Influence | None) -> Iterator[Html]:
    """Yield a bar for every axis that varies and for the seed, or why there is none."""
    if influence is None:
        yield note(
            f"Not shown: it takes {FEWEST} trials or more that can be compared (done, or with a value at one "
            "epoch), and an axis that varies among them."
        )
        return
    of = f"{influence.num_trials} trials"
    of += "" if influence.epoch is None else f" at epoch {influence.epoch}, the last that all of them have"
    if influence.r2 <= 0:
        yield note(
            f"Not shown: from the axes of {of}, a random forest predicts no better than the mean does "
            f"(cross-validated R² {influence.r2:.2f}). Nothing here can be told from chance; more trials may."
        )
        return
    yield note(
        f"A random forest learned {sweep.record.objective.name} from the axes of {of}: it predicts "
        f"{100 * influence.r2:.0f} % of the variance of trials that it did not see (cross-validated R² "
        f"{influence.r2:.2f}). A bar is what R² loses where an axis's values are shuffled; the line is the "
        f"deviation over {REPEATS} repeats. What is no longer than its line, or below 0, does not matter. "
        "Axes that only matter together share their bars."
    )
    yield element("div", _bars(sweep, influence), class_="grid large")


def _at_one_epoch(sweep: Sweep) -> tuple[int | None, dict[int, float]]:
    """Return the last epoch (from 1) that all have which are done or were stopped, and their values."""
    key = sweep.record.objective.key
    ended = [trial.number for trial in sweep.trials if trial.state in ("done", "stopped")]
    curves = {trial: curve for trial in ended if (curve := sweep.curve(trial, key))}
    if not curves:
        return None, {}
    last = min(curve[-1][0] for curve in curves.values())
    values = {trial: value for trial, curve in curves.items() for epoch, value in curve if epoch == last}
    return int(last), values


def _groups(sweep: Sweep, trials: Sequence[Trial]) -> NDArray[np.int64]:
    """Return the number of every trial's point."""
    paths = [axis.path for axis in sweep.record.axes]
    keys = [key_of([trial.point.get(path) for path in paths]) for trial in trials]
    return np.array([keys.index(key) for key in keys], np.int64)


def _columns(axis: Axis, trials: Sequence[Trial]) -> Floats:
    """Return an axis as numbers (N, 1), or where it is not of numbers a column a value (N, d)."""
    values = [trial.point.get(axis.path) for trial in trials]
    if all(map(is_finite, values)):
        return np.array(values, np.float64)[:, None]
    return _one_hot(values)


def _one_hot(values: Sequence[Any]) -> Floats:
    names = sorted({key_of(value) for value in values})
    return np.array([[key_of(value) == name for name in names] for value in values], np.float64)


def _bars(sweep: Sweep, influence: Influence) -> Html:
    paths = [path for path, _, _ in influence.axes]
    names = ["seed (chance)" if path == SEED else sweep.names[path] for path in paths]
    figures = [f"{round(drop, 2) + 0.0:.2f} ± {around:.2f}" for _, drop, around in influence.axes]  # no -0.00
    ends = [end for _, drop, around in influence.axes for end in (drop - around, drop + around)]
    x_scale = fitted(ends, *ends_of(names, figures), zero=True)
    parts = [rows_frame(x_scale, names, figures, "fall of R²", number)]
    for row, (path, drop, around) in enumerate(influence.axes):
        y, (left, right) = middle_of(row), sorted((x_scale(0.0), x_scale(drop)))
        told = element("title", f"{path}: {figures[row]}")
        bar = element("rect", told, x=left, y=y - 0.3 * ROW, width=right - left, height=0.6 * ROW)
        parts.append(element("g", bar, class_=f"bar c{6 if path == SEED else 0}"))
        line = f"M{x_scale(drop - around):.1f} {y:.1f}H{x_scale(drop + around):.1f}"
        parts.append(element("path", d=line, class_="cut"))
    words = "; ".join(f"{name}: {told}" for name, told in zip(names, figures, strict=True))
    said = f"Importance of the axes: by how much R² falls where an axis is shuffled. {words}."
    return figure("Importance of the axes", parts, said, (), height=height_of(len(names)), width=WIDTH)
