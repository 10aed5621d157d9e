"""The colours of trials by their values on one axis: words apart, numbers from faint to strong."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raid.report.charts import mark, number
from raid.report.markup import Html, element, join
from raid.report.reading import is_finite
from raid.report.style import NUM_LOOKS
from raid.report.sweep_reading import Sweep
from raid.report.sweep_values import heat, heat_steps, is_log, is_range, ordered, share_of, short, text
from raid.sweep_folder import Axis
from raid.sweep_points import applies, key_of

_MOST_SHADES = 8  # numbers that have an entry each in the legend
_OTHER = "c6"  # grey: trials in which the axis changes nothing
_LABEL = 24  # characters of a value


@dataclass(frozen=True)
class Colours:
    """How the lines of trials look.

    Attributes:
        styles: class by number of the trial.
        marks: look of the marker at a line's end, by number; none where a colour stands for a number.
        legend: (swatch, what it stands for, nothing).
        key: the same as a band of colours.
    """

    styles: dict[int, str]
    marks: dict[int, int] = field(default_factory=dict)
    legend: list[tuple[Html, str, str]] = field(default_factory=list)
    key: Html = Html()


def colours(sweep: Sweep, axis: Axis | None) -> Colours:
    """Return how the trials' lines look by their values on an axis; without an axis all alike."""
    if axis is None:
        legend = [(swatch("line c0 thin"), "a trial", "")]
        return Colours({trial.number: "c0" for trial in sweep.trials}, legend=legend)
    values = {trial.number: trial.point[axis.path] for trial in sweep.trials if applies(axis, trial.point)}
    found = _of_values(sweep, axis, values)
    others = {trial.number: _OTHER for trial in sweep.trials if trial.number not in values}
    legend = [(swatch(f"line {_OTHER}"), f"without {sweep.names[axis.path]}", "")] if others else []
    return replace(found, styles=others | found.styles, legend=[*found.legend, *legend])


def swatch(style: str, look: int | None = None) -> Html:
    """Return a line as it is drawn, for a legend, with its marker if it has one."""
    line = element("path", d="M1 6H27", class_=style)
    marker = "" if look is None else mark(look, 14, 6)
    return element("svg", line, marker, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def _of_values(sweep: Sweep, axis: Axis, values: Mapping[int, Any]) -> Colours:
    """Return the looks of the trials that have a value, by number."""
    order = ordered(axis, sweep.trials)
    numbers = all(map(is_finite, order))
    if is_range(axis, order) or (numbers and len(order) > _MOST_SHADES):
        return _band(sweep.names[axis.path], axis, values)
    keys = [key_of(value) for value in order]
    places = {number: keys.index(key_of(value)) for number, value in values.items()}
    names = [short(text(value), _LABEL) for value in order]
    if numbers:
        shades = [heat(share_of(place, 0, len(order) - 1, log=False)) for place in range(len(order))]
        legend = [(swatch(f"line {shade}"), name, "") for shade, name in zip(shades, names, strict=True)]
        return Colours({number: shades[place] for number, place in places.items()}, legend=legend)
    looks = {number: place % NUM_LOOKS for number, place in places.items()}
    legend = [
        (swatch(f"line c{place % NUM_LOOKS}", place % NUM_LOOKS), name, "")
        for place, name in enumerate(names)
    ]
    return Colours({number: f"c{look}" for number, look in looks.items()}, looks, legend)


def _band(name: str, axis: Axis, values: Mapping[int, float]) -> Colours:
    """Return the colours of numbers between the lowest and the highest."""
    low, high, log = min(values.values()), max(values.values()), is_log(axis, values.values())
    steps = join(element("i", class_=step) for step in heat_steps())
    band = element("span", steps, class_="steps", aria_hidden="true")
    ends = element("span", f"{name} {number(low)}"), element("span", number(high))
    styles = {trial: heat(share_of(value, low, high, log=log)) for trial, value in values.items()}
    return Colours(styles, key=element("div", ends[0], band, ends[1], class_="key"))
