"""The tables of a sweep: its points with what seeds do to them, all trials, what it was told to do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raid.report.charts import number
from raid.report.markup import Html, element, join
from raid.report.panels import note, seconds_text, table
from raid.report.sweep_reading import STATES, Sweep, counted
from raid.report.sweep_values import Shown, distinct, short, text, text_of
from raid.sweep_folder import Axis, Trial
from raid.sweep_points import Point, badness, mean, mean_of

_MOST_ROWS = 25  # of a table, before the rest is folded away
_LONGEST = 28  # characters of a value in a cell
_RETRIEVAL = {"eval/mAP": "mAP", "eval/rank1": "rank-1"}


def points(sweep: Sweep) -> Iterator[Html]:
    """Yield a row for every point, the best first."""
    constant = [axis for axis in sweep.record.axes if axis not in sweep.varying]
    if constant:
        shown = ", ".join(f"{axis.path} {_constant(sweep, axis)}" for axis in constant)
        yield note(f"The same in all: {shown}.")
    reference = _reference(sweep)
    yield note(_said(sweep, reference))
    retrieval = [key for key in _RETRIEVAL if key != sweep.record.objective.key and _recorded(sweep, key)]
    by_seed = reference is not None and len(sweep.record.seeds) > 1
    head = ["place", *(sweep.names[axis.path] for axis in sweep.varying), *_heads(sweep, retrieval)]
    head += ["difference", "by seed"] if by_seed else []
    rows = [
        [
            f"{place}{' ★' if point is sweep.best else ''}",
            *(_value(axis, point.values) for axis in sweep.varying),
            *_figures(sweep, point, retrieval),
            *(_differences(sweep, point, reference) if by_seed and reference is not None else ()),
            counted(point.trials),
        ]
        for place, point in enumerate(_best_first(sweep), start=1)
    ]
    yield from _folded("Points", [*head, "trials"], rows, "points")


def trials(sweep: Sweep) -> Iterator[Html]:
    """Yield every trial with a way to its own page."""
    objective = sweep.record.objective
    shown = Shown.of(objective.key)
    head = ["trial", "state", "seed", *(sweep.names[axis.path] for axis in sweep.varying), objective.name]
    reasons = any(trial.reason for trial in sweep.trials)
    rows = [
        [
            _link(sweep, trial),
            STATES.get(trial.state, str(trial.state)),
            str(trial.seed),
            *(_value(axis, trial.point) for axis in sweep.varying),
            "–" if trial.value is None else shown.one(trial.value),
            "–" if trial.ended_s is None else seconds_text(trial.ended_s - trial.started_s),
            *([element("span", trial.reason or "–", class_="reason")] if reasons else ()),
        ]
        for trial in sweep.trials
    ]
    yield from _folded("All trials", [*head, "time", *(["reason"] if reasons else [])], rows, "trials")


def configuration(sweep: Sweep) -> Iterator[Html]:
    """Yield the run file, what was set beside it, and the axes as they were declared."""
    record = sweep.record
    yield element("p", "Run file: ", element("code", record.file))
    if record.overrides:
        yield element("p", "Set for all trials:")
        yield element("pre", "\n".join(record.overrides), class_="box")
    rows = [
        (
            axis.path,
            _tried(sweep, axis),
            "; ".join(f"{name}: {_settings(settings)}" for name, settings in axis.instead.items()) or "–",
            "; ".join(f"{path} {', '.join(map(text, values))}" for path, values in axis.only.items()) or "–",
        )
        for axis in record.axes
    ]
    yield table("Axes", ("setting", "values", "set in its place", "only with"), rows)


def _constant(sweep: Sweep, axis: Axis) -> str:
    """Return the only value of an axis that was tried where it changes something."""
    return text(next(iter(distinct(axis, sweep.trials).values()), "–"))


def _tried(sweep: Sweep, axis: Axis) -> str:
    if axis.low is None or axis.high is None or sweep.record.search == "grid":
        return ", ".join(map(text, axis.values))
    return f"{number(axis.low)} to {number(axis.high)}{', by its logarithm' if axis.log else ''}"


def _settings(settings: Any) -> str:
    return ", ".join(f"{path}={text(value)}" for path, value in settings.items()) or "nothing"


def _folded(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> Iterator[Html]:
    """Yield a table, and after its first rows another, folded away."""
    yield table(caption, head, rows[:_MOST_ROWS], group=what)
    rest = rows[_MOST_ROWS:]
    if rest:
        summary = element("summary", f"{len(rest)} more {what}")
        yield element("details", summary, table(f"{caption}, continued", head, rest, group=what))


def _reference(sweep: Sweep) -> Point | None:
    """Return the first point, which has the first value of every axis; None where points were drawn."""
    return sweep.points[0] if sweep.record.search == "grid" else None


def _said(sweep: Sweep, reference: Point | None) -> str:
    seeds = sweep.record.seeds
    parts = ["Figures are those of a trial's last epoch, of the trials that are done."]
    if len(seeds) > 1:
        parts.append("Mean ± deviation over seeds (n − 1).")
        if reference is not None and sweep.varying:
            values = ", ".join(
                f"{sweep.names[axis.path]} {text_of(axis, reference.values)}" for axis in sweep.varying
            )
            unit = ", in percentage points" if Shown.of(sweep.record.objective.key).unit else ""
            parts.append(f"Difference: to the first point ({values}), paired by seed{unit}.")
    if any(point.figures and not point.complete(seeds) for point in sweep.points):
        parts.append("Points that lack a seed come after those that lack none.")
    if any(not point.figures for point in sweep.points):
        parts.append(
            "In brackets: what a trial had that was stopped, failed or goes on, which cannot be compared."
        )
    return " ".join(parts)


def _heads(sweep: Sweep, retrieval: Sequence[str]) -> list[str]:
    objective = sweep.record.objective
    heads = [Shown.of(objective.key).head(objective.name)]
    seeds = ["seeds"] if len(sweep.record.seeds) > 1 else []
    return [*seeds, *heads, *(Shown.of(key).head(_RETRIEVAL[key]) for key in retrieval)]


def _recorded(sweep: Sweep, key: str) -> bool:
    return any(_last(sweep, trial, key) is not None for trial in sweep.trials)


def _last(sweep: Sweep, trial: Trial, key: str) -> float | None:
    """Return what the last epoch that has a figure says of it."""
    found = sweep.curve(trial.number, key)
    return found[-1][1] if found else None


def _best_first(sweep: Sweep) -> list[Point]:
    """Return the points that are done with every seed, those done with some, those that are not done."""
    objective = sweep.record.objective

    def order(point: Point) -> tuple[int, float]:
        if point.figures:
            return (0 if point.complete(sweep.record.seeds) else 1, badness(objective, mean_of(point)))
        values = _unfinished(sweep, point)
        return (2, badness(objective, mean(values))) if values else (3, 0.0)

    return sorted(sweep.points, key=order)


def _unfinished(sweep: Sweep, point: Point) -> list[float]:
    return [sweep.values[trial.number] for trial in point.trials if trial.number in sweep.values]


def _figures(sweep: Sweep, point: Point, retrieval: Sequence[str]) -> Iterator[str]:
    """Yield the number of seeds, and mean and deviation of the objective and of mAP and rank-1."""
    done = [trial for trial in point.trials if trial.state == "done"]
    shown = Shown.of(sweep.record.objective.key)
    if len(sweep.record.seeds) > 1:
        yield str(len(point.figures))
    if point.figures:
        yield shown.spread(list(point.figures.values()))
    else:
        values = _unfinished(sweep, point)
        yield f"({shown.spread(values)})" if values else "–"
    for key in retrieval:
        values = [value for trial in done if (value := _last(sweep, trial, key)) is not None]
        yield Shown.of(key).spread(values)


def _differences(sweep: Sweep, point: Point, reference: Point) -> Iterator[str]:
    """Yield mean and deviation of the differences to the reference by seed, and each of them."""
    if point is reference:
        yield from ("reference", "")
        return
    shown = Shown.of(sweep.record.objective.key)
    paired = {
        seed: value - reference.figures[seed]
        for seed, value in point.figures.items()
        if seed in reference.figures
    }
    yield shown.spread(list(paired.values()), signed=True)
    yield ", ".join(f"{seed}: {shown.spread([value], signed=True)}" for seed, value in paired.items())


def _value(axis: Axis, point: Mapping[str, Any]) -> Html:
    """Return a value as a cell; of a long one both ends."""
    shown = text_of(axis, point)
    return element("span", short(shown, _LONGEST), title=shown if len(shown) > _LONGEST else None)


def _link(sweep: Sweep, trial: Trial) -> Html:
    run = sweep.folder.run(trial.number)
    if not run.report.exists():
        return join([str(trial.number)])
    return element("a", str(trial.number), href=run.report.relative_to(sweep.folder.path).as_posix())
