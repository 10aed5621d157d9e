"""The objective by the values of each axis: every trial as a dot, with the mean of a value's trials."""

from collections.abc import Iterator, Sequence
from typing import Any

from raid.report.charts import LEFT, RIGHT, TOP, UNDER, Axes, figure, frame, mark, number
from raid.report.charts import WIDTH as CHART_WIDTH
from raid.report.markup import Html, element, join
from raid.report.panels import note
from raid.report.reading import is_finite
from raid.report.scale import Scale, fitted, logarithmic
from raid.report.sweep_reading import STATES, Sweep
from raid.report.sweep_rows import ROW, WIDTH, ends_of, height_of, middle_of, rows_frame
from raid.report.sweep_values import Shown, is_log, is_range, ordered, text, text_of
from raid.sweep_folder import Axis, Trial
from raid.sweep_points import applies, deviation, key_of, mean

_MOST_ROWS = 12  # values of an axis; more numbers than these are put on a scale
_HEIGHT = 240
_TRIAL, _BEST = 0, 1  # looks: colour and marker


def effects(sweep: Sweep) -> Iterator[Html]:
    """Yield a chart for every axis that varies."""
    if not sweep.valued:
        yield note("No trial has a value.")
        return
    if not sweep.varying:
        yield note("No axis varies: all trials have the same values.")
        return
    if len(sweep.varying) > 1:
        yield note(
            "In each chart the other axes vary too: what differs within a row is theirs, and the seeds'."
        )
    charts = [_chart(sweep, axis) for axis in sweep.varying]
    yield element("div", *charts, class_="grid large")


def _chart(sweep: Sweep, axis: Axis) -> Html:
    """Return a chart of the trials with a value in which the axis changes something; empty without one."""
    trials = [trial for trial in sweep.valued if applies(axis, trial.point)]
    # The best point's dots are drawn last, above the others.
    trials.sort(key=lambda trial: trial.number in sweep.best_numbers)
    if not trials:
        return Html()
    values = ordered(axis, trials)
    if is_range(axis, values) or (len(values) > _MOST_ROWS and all(map(is_finite, values))):
        return _scatter(sweep, axis, trials)
    return _rows(sweep, axis, trials)


def _rows(sweep: Sweep, axis: Axis, trials: Sequence[Trial]) -> Html:
    """Return a chart with a row for every value."""
    objective, shown = sweep.record.objective, Shown.of(sweep.record.objective.key)
    values = ordered(axis, trials)
    of_value = [[trial for trial in trials if _is(trial, axis, value)] for value in values]
    done = [[sweep.values[trial.number] for trial in row if trial.state == "done"] for row in of_value]
    names, figures = [text(value) for value in values], [shown.spread(row) for row in done]
    ends = [end for row in done for end in _ends(row)]
    x_scale = fitted([*sweep.values.values(), *ends], *ends_of(names, figures))
    parts = [rows_frame(x_scale, names, figures, objective.name, shown.tick)]
    for row, of_row in enumerate(of_value):
        parts.append(_around(x_scale, done[row], middle_of(row)))
        for trial, y in _apart(of_row, row):
            parts.append(_dot(sweep, trial, x_scale(sweep.values[trial.number]), y))
    words = "; ".join(f"{name}: {told}" for name, told in zip(names, figures, strict=True))
    said = f"{objective.name} by {axis.path}, mean and deviation of the trials that are done. {words}."
    return figure(
        axis.path, parts, said, _legend(sweep, rows=True), height=height_of(len(values)), width=WIDTH
    )


def _scatter(sweep: Sweep, axis: Axis, trials: Sequence[Trial]) -> Html:
    """Return a chart with the values along x."""
    objective, shown = sweep.record.objective, Shown.of(sweep.record.objective.key)
    values = {trial.number: float(trial.point[axis.path]) for trial in trials}
    right = WIDTH - (CHART_WIDTH - RIGHT)
    scaled = logarithmic if is_log(axis, values.values()) else fitted
    x_scale = scaled(values.values(), LEFT + 6, right - 6)
    y_scale = fitted(sweep.values.values(), _HEIGHT - UNDER, TOP)
    axes = Axes(sweep.names[axis.path], objective.name, ticks=shown.tick)
    parts = [frame(x_scale, y_scale, axes, height=_HEIGHT, width=WIDTH)]
    for trial in trials:
        parts.append(_dot(sweep, trial, x_scale(values[trial.number]), y_scale(sweep.values[trial.number])))
    low, high = number(min(values.values())), number(max(values.values()))
    said = f"{objective.name} by {axis.path}: {len(values)} trials with values from {low} to {high}."
    return figure(axis.path, parts, said, _legend(sweep, rows=False), height=_HEIGHT, width=WIDTH)


def _is(trial: Trial, axis: Axis, value: Any) -> bool:
    return key_of(trial.point[axis.path]) == key_of(value)


def _apart(trials: Sequence[Trial], row: int) -> Iterator[tuple[Trial, float]]:
    """Yield the y of every trial in a row: seeds a little below each other, the first at the top."""
    seeds = sorted({trial.seed for trial in trials})
    step = min(5.0, 0.5 * ROW / len(seeds))
    for trial in trials:
        yield trial, middle_of(row) + step * (seeds.index(trial.seed) - (len(seeds) - 1) / 2)


def _around(x_scale: Scale, values: Sequence[float], y: float) -> Html:
    """Return mean and deviation as a bar and a line through it."""
    if not values:
        return Html()
    x, half = x_scale(mean(values)), 0.38 * ROW
    parts = [element("path", d=f"M{x:.1f} {y - half:.1f}V{y + half:.1f}", class_="cut")]
    if len(values) > 1:
        low, high = map(x_scale, _ends(values))
        parts.append(element("path", d=f"M{low:.1f} {y:.1f}H{high:.1f}", class_="cut"))
    return join(parts)


def _ends(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean less and plus the deviation; nothing of fewer than two."""
    around = deviation(values)
    return () if around is None else (mean(values) - around, mean(values) + around)


def _dot(sweep: Sweep, trial: Trial, x: float, y: float) -> Html:
    look = _BEST if trial.number in sweep.best_numbers else _TRIAL
    told = element("title", told_of(sweep, trial))
    return element("g", told, mark(look, x, y, hollow=trial.state != "done"), class_="dot")


def told_of(sweep: Sweep, trial: Trial) -> str:
    """Return what a trial tried and what came of it, for the pointer."""
    objective = sweep.record.objective
    value = "no value" if trial.value is None else Shown.of(objective.key).one(trial.value)
    tried = ", ".join(
        f"{sweep.names[axis.path]} {text_of(axis, trial.point)}"
        for axis in sweep.varying
        if applies(axis, trial.point)
    )
    about = f"trial {trial.number}, {STATES.get(trial.state, trial.state)}, seed {trial.seed}"
    return f"{objective.name} {value}: {tried} ({about})" if tried else f"{objective.name} {value} ({about})"


def _legend(sweep: Sweep, *, rows: bool) -> list[tuple[Html, str, str]]:
    """Return what the marks are, of those that are there."""
    entries = [(_swatch(mark(_TRIAL, 14, 6)), "a trial", "")]
    if any(trial.state != "done" for trial in sweep.valued):
        entries.append(
            (_swatch(mark(_TRIAL, 14, 6, hollow=True)), "not done: stopped, failed, or goes on", "")
        )
    if sweep.best is not None:
        entries.append((_swatch(mark(_BEST, 14, 6)), "of the best point", ""))
    if rows:
        entries.append(
            (
                _swatch(element("path", d="M14 1V11M4 6H24", class_="cut")),
                "mean and deviation of those done",
                "",
            )
        )
    return entries


def _swatch(part: Html) -> Html:
    return element("svg", part, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
