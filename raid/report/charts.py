"""Charts as inline SVG: lines and stacked bars. No library, no script; a value shows when pointed at.

Series differ by colour and by marker or dash, and each chart says in words what it shows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from raid.report.markup import Html, element, join
from raid.report.scale import Scale, fitted, linear, logarithmic

Point = tuple[float, float]
Show = Callable[[float], str]

WIDTH, HEIGHT = 320, 208
LEFT, RIGHT, TOP = 42, 306, 24
UNDER = 40  # below the x axis: ticks and label
_BOTTOM = HEIGHT - UNDER
_MOST_MARKS = 13
_MOST_COLUMNS = 300  # of a long line: more than the pixels it has on a screen
_MARKS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0Z",  # circle
    "M0 -3.8L3.6 2.8L-3.6 2.8Z",  # triangle
    "M-2.8 -2.8H2.8V2.8H-2.8Z",  # square
    "M0 -4L4 0L0 4L-4 0Z",  # diamond
    "M0 3.8L3.6 -2.8L-3.6 -2.8Z",  # triangle on its head
)


def number(value: float) -> str:
    """Return a figure as text, of about four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def whole_percent(share: float) -> str:
    """Return a share of 1 in percent, for ticks."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: in the legend.
        points: finite (x, y) by rising x.
        look: chooses colour and marker.
        dashed: and hollow markers.
        marked: with markers.
        background: thin, and its values are not shown when pointed at.
        value: in the legend, in place of the last one.
    """

    name: str
    points: Sequence[Point]
    look: int = 0
    dashed: bool = False
    marked: bool = True
    background: bool = False
    value: str | None = None


@dataclass(frozen=True)
class Axes:
    """What a chart says of its axes.

    Attributes:
        x: label.
        y: label.
        limits: of y, or as the values need it.
        zero: y begins at 0 at the latest.
        logarithmic: y; values that are not positive are left out.
        show: y value to text.
        ticks: the same on the axis.
        show_x: x value to text, beside the axis.
        whole: ticks of x are whole numbers.
    """

    x: str
    y: str
    limits: tuple[float, float] | None = None
    zero: bool = False
    logarithmic: bool = False
    show: Show = "{:.3f}".format
    ticks: Show = number
    show_x: Show = number
    whole: bool = True


def line_chart(
    title: str,
    series: Sequence[Series],
    axes: Axes,
    *,
    rule: tuple[str, float] | None = None,
    note: str = "",
) -> Html:
    """Return a chart of the series that have points; empty where none has.

    Args:
        title: of the chart.
        series: lines by their order in the legend.
        axes: labels and range.
        rule: name and x of a line across the others.
        note: under the chart.
    """
    drawn = [_positive(line) if axes.logarithmic else line for line in series]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return Html()
    extent = _extent(x for line in drawn for x, _ in line.points)
    x_scale = linear(*extent, LEFT + 6, RIGHT - 6, whole=axes.whole, most=6 if axes.whole else 8)
    y_scale = _y_scale([y for line in drawn for _, y in line.points], axes)
    parts = [frame(x_scale, y_scale, axes)]
    words = "; ".join(_told(line, axes) for line in drawn)
    if rule is not None and x_scale.low <= rule[1] <= x_scale.high:
        parts.append(_rule(rule[0], x_scale(rule[1])))
        words += f". {rule[0]}: {axes.x} {axes.show_x(rule[1])}"
    parts += [_line(line, x_scale, y_scale) for line in drawn]
    parts += [_hits(line, x_scale, y_scale, axes) for line in drawn if not line.background]
    legend = [(_swatch(line), line.name, line.value or axes.show(line.points[-1][1])) for line in drawn]
    return figure(title, parts, f"{title}. {axes.y} against {axes.x}. {words}.", legend, note)


@dataclass(frozen=True)
class Stack:
    """One part of every bar: (x, height) by rising x."""

    name: str
    points: Sequence[Point]
    look: int


def stacked_bars(
    title: str,
    stacks: Sequence[Stack],
    axes: Axes,
    *,
    width: float = 1.0,
    rule: tuple[str, float] | None = None,
    note: str = "",
) -> Html:
    """Return bars of several parts on top of each other, the first at the bottom; empty without parts.

    Args:
        title: of the chart.
        stacks: parts by their order in the legend, which has their sums.
        axes: labels.
        width: from one bar to the next, of x; ticks are whole numbers where it is 1.
        rule: name and x of a line across the bars.
        note: under the chart.
    """
    stacks = [stack for stack in stacks if stack.points]
    if not stacks:
        return Html()
    totals: dict[float, float] = {}
    for stack in stacks:
        for x, height in stack.points:
            totals[x] = totals.get(x, 0.0) + height
    low, high = _extent(totals)
    x_scale = linear(low - width / 2, high + width / 2, LEFT, RIGHT, whole=width == 1)
    y_scale = fitted(totals.values(), _BOTTOM, TOP, zero=True)
    parts = [frame(x_scale, y_scale, axes)]
    below = dict.fromkeys(totals, 0.0)
    for stack in stacks:
        parts.append(_bars(stack, below, x_scale, y_scale, axes, width))
    sums = [(stack.name, sum(height for _, height in stack.points)) for stack in stacks]
    words = ", ".join(f"{name} {axes.show(total)}" for name, total in sums)
    if rule is not None and x_scale.low <= rule[1] <= x_scale.high:
        parts.append(_rule(rule[0], x_scale(rule[1])))
        words += f". {rule[0]}: {axes.x} {number(rule[1])}"
    legend = [
        (_box(stack.look), name, axes.show(total)) for stack, (name, total) in zip(stacks, sums, strict=True)
    ]
    return figure(title, parts, f"{title}. {axes.y} against {axes.x}. In all: {words}.", legend, note)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return a long line with fewer points: its ends, and the lowest and the highest of each piece."""
    size = math.ceil(len(points) / _MOST_COLUMNS)
    if size <= 2:
        return list(points)
    kept = {points[0], points[-1]}
    for start in range(0, len(points), size):
        piece = points[start : start + size]
        kept |= {min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])}
    return sorted(kept)


def _positive(line: Series) -> Series:
    points = [point for point in line.points if point[1] > 0]
    return replace(line, points=points)


def _extent(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _y_scale(values: Sequence[float], axes: Axes) -> Scale:
    if axes.limits is not None:
        return linear(*axes.limits, _BOTTOM, TOP)
    if axes.logarithmic:
        return logarithmic(values, _BOTTOM, TOP)
    return fitted(values, _BOTTOM, TOP, zero=axes.zero)


def frame(x_scale: Scale, y_scale: Scale, axes: Axes, *, height: int = HEIGHT, width: int = WIDTH) -> Html:
    """Return grid, ticks and labels of a chart `height` high, whose y scale ends UNDER above its foot."""
    bottom, right = height - UNDER, width - (WIDTH - RIGHT)
    parts = [
        element("text", axes.y, x=2, y=11, class_="label"),
        element("text", axes.x, x=(LEFT + right) / 2, y=height - 6, class_="label middle"),
        element("path", d=f"M{LEFT} {bottom}H{right}", class_="axis"),
    ]
    for tick in y_scale.ticks:
        y = y_scale(tick)
        parts.append(element("path", d=f"M{LEFT} {y:.1f}H{right}", class_="rule"))
        parts.append(element("text", axes.ticks(tick), x=LEFT - 5, y=y + 3.5, class_="tick end"))
    for tick in x_scale.ticks:
        x = x_scale(tick)
        parts.append(element("path", d=f"M{x:.1f} {bottom}v4", class_="axis"))
        parts.append(element("text", number(tick), x=x, y=bottom + 16.0, class_="tick middle"))
    return join(parts)


def _line(line: Series, x_scale: Scale, y_scale: Scale) -> Html:
    places = [(x_scale(x), y_scale(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    style = f"line c{line.look}" + (" dashed" if line.dashed else "") + (" thin" if line.background else "")
    parts = [element("path", d=path, class_=style)]
    if line.marked:
        every = math.ceil(len(places) / _MOST_MARKS)
        # Counted from the end: the last value is the result.
        parts += [mark(line.look, x, y, hollow=line.dashed) for x, y in places[::-1][::every]]
    return join(parts)


def mark(look: int, x: float, y: float, *, hollow: bool = False) -> Html:
    """Return the marker of a look around a place."""
    style = f"mark c{look}" + (" hollow" if hollow else "")
    return element(
        "path", d=_MARKS[look % len(_MARKS)], class_=style, transform=f"translate({x:.1f} {y:.1f})"
    )


def _hits(line: Series, x_scale: Scale, y_scale: Scale, axes: Axes) -> Html:
    """Return what answers the pointer: a circle around every value."""
    return join(
        element(
            "circle",
            element("title", f"{line.name}, {axes.x} {axes.show_x(x)}: {axes.show(y)}"),
            cx=x_scale(x),
            cy=y_scale(y),
            r=6,
            class_="hit",
        )
        for x, y in line.points
    )


def _bars(
    stack: Stack, below: dict[float, float], x_scale: Scale, y_scale: Scale, axes: Axes, wide: float
) -> Html:
    """Return the bars of one stack; `below` is what lies under them, and grows by them."""
    width = min(40.0, 0.8 * (x_scale(wide) - x_scale(0.0)))
    bars = []
    for x, height in stack.points:
        bottom, top = y_scale(below[x]), y_scale(below[x] + height)
        below[x] += height
        told = element("title", f"{stack.name}, {axes.x} {axes.show_x(x)}: {axes.show(height)}")
        left = x_scale(x) - width / 2
        bars.append(element("rect", told, x=left, y=top, width=width, height=bottom - top))
    return element("g", *bars, class_=f"bar c{stack.look}")


def _rule(name: str, x: float) -> Html:
    """Return a line across the bars, with an edge that parts it from them, and its name above."""
    path = f"M{x:.1f} {TOP}V{_BOTTOM}"
    side = " end" if x > RIGHT - 30 else " middle" if x > LEFT + 30 else ""
    label = element("text", name, x=x, y=TOP - 5, class_=f"label{side}")
    return join([element("path", d=path, class_="edge"), element("path", d=path, class_="cut"), label])


def _told(line: Series, axes: Axes) -> str:
    """Return what a line does, in words."""
    (first_x, first), (last_x, last) = line.points[0], line.points[-1]
    if len(line.points) == 1:
        return f"{line.name}: {axes.show(last)} at {axes.x} {axes.show_x(last_x)}"
    low, high = _extent([y for _, y in line.points])
    return (
        f"{line.name}: {axes.show(first)} at {axes.x} {axes.show_x(first_x)}, {axes.show(last)} at "
        f"{axes.x} {axes.show_x(last_x)}, between {axes.show(low)} and {axes.show(high)}"
    )


def _swatch(line: Series) -> Html:
    style = f"line c{line.look}" + (" dashed" if line.dashed else "") + (" thin" if line.background else "")
    parts = [element("path", d="M1 6H27", class_=style)]
    if line.marked:
        parts.append(mark(line.look, 14, 6, hollow=line.dashed))
    return element("svg", *parts, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def _box(look: int) -> Html:
    box = element("g", element("rect", x=8, y=0, width=12, height=12), class_=f"bar c{look}")
    return element("svg", box, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")


def figure(
    title: str,
    parts: Sequence[Html],
    words: str,
    legend: Sequence[tuple[Html, str, str]],
    note: str = "",
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Html:
    """Return a chart with its title, its legend (swatch, name, value) and a note, and words for it."""
    entries = [
        element("li", swatch, element("span", name), element("b", last)) for swatch, name, last in legend
    ]
    return element(
        "figure",
        element("figcaption", title),
        element("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=words, class_="chart"),
        element("ul", *entries, class_="legend"),
        element("p", note, class_="muted") if note else "",
    )
