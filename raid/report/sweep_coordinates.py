"""Parallel coordinates: a line a trial, through its value on every axis, to what came of it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from raid.report.charts import number
from raid.report.markup import Html, element, join
from raid.report.panels import note
from raid.report.scale import Scale, fitted, logarithmic, spaced
from raid.report.sweep_colours import swatch
from raid.report.sweep_effects import told_of
from raid.report.sweep_reading import Sweep
from raid.report.sweep_values import Shown, goodness, heat, heat_steps, is_log, is_range, ordered, short, text
from raid.sweep_folder import Axis, Trial
from raid.sweep_points import applies, key_of

_TOP, _BOTTOM, _FOOT = 0, 300, 12
_BELOW = 324.0  # where trials pass in which an axis changes nothing
_SIDE = 12  # beside the labels of the first and the last line
_LINE = 13  # pixels from a line of a name to the next
_WIDTH = 1070  # that few axes do not fill, and many are not pressed into
_LEAST, _MOST = 92, 230  # pixels from a line to the next
_LABEL = 15  # characters of a value
_LETTER = 6.2  # pixels of a character, about
_GAP = 15  # pixels between two labels
_FAN = 16.0  # pixels that the lines of one word, or of one of a few numbers, take

_Ticks: TypeAlias = list[tuple[float, str]]
_Place: TypeAlias = Callable[[Trial], float]


@dataclass(frozen=True)
class _Line:
    """A vertical line.

    Attributes:
        name: above it.
        told: the whole of the name.
        ticks: (y, label).
        y: of a trial.
    """

    name: str
    told: str
    ticks: _Ticks
    y: _Place


def coordinates(sweep: Sweep) -> Iterator[Html]:
    """Yield the trials that have a value as lines over the axes that vary."""
    if not sweep.valued or not sweep.varying:
        yield note("There is nothing to draw: that needs trials with a value, and an axis that varies.")
        return
    shares = goodness(sweep.record.objective, sweep.values)
    told = "Parallel coordinates"
    drawing = _drawing(sweep, shares)
    scroll = element("div", drawing, class_="scroll", tabindex=0, role="group", aria_label=told)
    yield element("figure", scroll, _key(sweep, shares))


def _drawing(sweep: Sweep, shares: dict[int, float]) -> Html:
    """Return the lines; it is as wide as they need, and a narrow page scrolls it."""
    # The best point's lines are drawn last, above the others, and so are good ones.
    drawn = sorted(sweep.valued, key=lambda trial: (trial.number in sweep.best_numbers, shares[trial.number]))
    lines = [*(_line(sweep, axis, shares) for axis in sweep.varying), _objective(sweep)]
    left, right = _room(lines[0]), _room(lines[-1])
    apart = min(_MOST, max(_LEAST, (_WIDTH - left - right) / (len(lines) - 1)))
    places = [left + apart * i for i in range(len(lines))]
    width = round(places[-1] + right)
    lowest = max(y for line in lines for y, _ in line.ticks)
    head = 20 + _LINE * max(len(_broken(line.name)) for line in lines)
    height = head + round(lowest) + _FOOT
    parts = [
        *(_trial(sweep, trial, shares[trial.number], lines, places) for trial in drawn),
        *(_axis(line, x, last=line is lines[-1]) for line, x in zip(lines, places, strict=True)),
    ]
    names = ", ".join(axis.path for axis in sweep.varying)
    said = (
        f"Parallel coordinates: {len(drawn)} trials over {names} and {sweep.record.objective.name}. Best: "
        f"{told_of(sweep, drawn[-1])}."
    )
    return element(
        "svg", *parts, viewBox=f"0 {-head} {width} {height}", width=width, height=height, role="img",
        aria_label=said, class_="parallel",
    )  # fmt: skip


def _line(sweep: Sweep, axis: Axis, shares: dict[int, float]) -> _Line:
    """Return the line of an axis; trials in which it changes nothing pass below it."""
    values = ordered(axis, sweep.valued)
    ticks, y_of = _scaled(axis, values) if is_range(axis, values) else _side_by_side(axis, values, shares)
    ticks = spaced(ticks, _GAP)
    if not all(applies(axis, trial.point) for trial in sweep.valued):
        ticks = [*ticks, (_BELOW, "–")]
    name = sweep.names[axis.path]
    return _Line(name, axis.path, ticks, lambda trial: y_of(trial) if applies(axis, trial.point) else _BELOW)


def _scaled(axis: Axis, values: Sequence[float]) -> tuple[_Ticks, _Place]:
    """Return ticks and places of numbers on a scale."""
    scale = (logarithmic if is_log(axis, values) else fitted)(values, _BOTTOM, _TOP)
    return _ticks(scale, number), lambda trial: scale(trial.point[axis.path])


def _side_by_side(axis: Axis, values: Sequence[Any], shares: dict[int, float]) -> tuple[_Ticks, _Place]:
    """Return ticks and places of values at even distances, the first at the bottom."""
    step = (_BOTTOM - _TOP) / max(1, len(values) - 1)
    places = {key_of(value): _BOTTOM - step * i for i, value in enumerate(values)}
    # Lines of one value would lie on each other: the better lie higher.
    fan = min(_FAN, 0.5 * step)
    ticks = [(y, text(value)) for value, y in zip(values, places.values(), strict=True)]
    return ticks, lambda trial: places[key_of(trial.point[axis.path])] - fan * (shares[trial.number] - 0.5)


def _objective(sweep: Sweep) -> _Line:
    """Return the last line: the better, the higher."""
    objective = sweep.record.objective
    ends = (_BOTTOM, _TOP) if objective.mode == "max" else (_TOP, _BOTTOM)
    scale = fitted(sweep.values.values(), *ends)
    ticks = spaced(_ticks(scale, Shown.of(objective.key).tick), _GAP)
    return _Line(objective.name, objective.key, ticks, lambda trial: scale(sweep.values[trial.number]))


def _ticks(scale: Scale, show: Callable[[float], str]) -> _Ticks:
    return [(scale(tick), show(tick)) for tick in scale.ticks]


def _trial(sweep: Sweep, trial: Trial, share: float, lines: Sequence[_Line], places: Sequence[float]) -> Html:
    path = "M" + "L".join(f"{x:.1f} {line.y(trial):.1f}" for line, x in zip(lines, places, strict=True))
    look = "c1 strong" if trial.number in sweep.best_numbers else heat(share)
    dashed = "" if trial.state == "done" else " dashed"
    return element(
        "g",
        element("title", told_of(sweep, trial)),
        element("path", d=path, class_=f"line {look}{dashed}"),
        element("path", d=path, class_="reach"),
        class_="trial",
    )


def _room(line: _Line) -> float:
    """Return how much room labels and name of a line need beside it."""
    label = max(min(_LABEL, len(label)) for _, label in line.ticks)
    return _SIDE + _LETTER * max(label, max(map(len, _broken(line.name))) / 2)


def _broken(name: str) -> list[str]:
    """Return a name in lines that are no longer than those of a neighbour leave room for, if it has words."""
    lines: list[str] = []
    for word in re.findall(r".+?(?:[._]|$)", name):
        if lines and len(lines[-1] + word) <= _LABEL:
            lines[-1] += word
        else:
            lines.append(word)
    return lines


def _axis(line: _Line, x: float, *, last: bool) -> Html:
    """Return a vertical line with its ticks, whose labels are at the left, of the last at the right."""
    side, shift = ("", 7.0) if last else (" end", -7.0)
    parts = [element("path", d=f"M{x:.1f} {_TOP}V{_BOTTOM}", class_="axis")]
    for above, words in enumerate(reversed(_broken(line.name))):
        title, place = element("title", line.told), _TOP - 16 - _LINE * above
        parts.append(element("text", title, words, x=x, y=place, class_="middle name"))
    for y, label in line.ticks:
        parts.append(element("path", d=f"M{x - 3:.1f} {y:.1f}h6", class_="axis"))
        shown = element("title", label) if len(label) > _LABEL else ""
        parts.append(
            element("text", shown, short(label, _LABEL), x=x + shift, y=y + 3.5, class_=f"tick halo{side}")
        )
    return join(parts)


def _key(sweep: Sweep, shares: dict[int, float]) -> Html:
    """Return what colours and dashes mean."""
    objective, shown = sweep.record.objective, Shown.of(sweep.record.objective.key)
    worst, best = (sweep.values[find(shares, key=lambda number: shares[number])] for find in (min, max))
    steps = join(element("i", class_=step) for step in heat_steps())
    band = [
        element("span", f"{objective.name} {shown.one(worst)} (worst)"),
        element("span", steps, class_="steps", aria_hidden="true"),
        element("span", f"{shown.one(best)} (best)"),
    ]
    marks = []
    if sweep.best is not None:
        marks.append((swatch("line c1 strong"), "the best point"))
    if any(trial.state != "done" for trial in sweep.valued):
        marks.append((swatch("line h9 dashed"), "not done: stopped, failed, or goes on"))
    if not all(applies(axis, trial.point) for axis in sweep.varying for trial in sweep.valued):
        marks.append((Html(), "–: the axis changes nothing in these trials"))
    missing = len(sweep.trials) - len(sweep.valued)
    if missing:
        marks.append((Html(), f"{missing} without a value: not drawn"))
    entries = [element("li", line, element("span", name)) for line, name in marks]
    return join([element("div", *band, class_="key"), element("ul", *entries, class_="legend")])
