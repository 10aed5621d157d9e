"""Charts of a sweep whose rows have names: a name at the left, what belongs to it, a figure at the right."""

from collections.abc import Sequence

from raid.report.charts import Show
from raid.report.markup import Html, element, join
from raid.report.scale import Scale, spaced
from raid.report.sweep_values import short

WIDTH = 400
ROW = 26
TOP, _FOOT = 10, 38  # above the rows, and below them: ticks and label
_MOST = 20  # characters of a name
_LETTER = 6.2  # pixels of a character, about


def ends_of(names: Sequence[str], figures: Sequence[str]) -> tuple[float, float]:
    """Return where the x axis begins and ends, for the names and the figures to have room beside it."""
    left = 14 + _LETTER * min(_MOST, max(map(len, names)))
    return left, WIDTH - 14 - _LETTER * max(map(len, figures))


def height_of(count: int) -> int:
    """Return the height of a chart of so many rows."""
    return TOP + ROW * count + _FOOT


def middle_of(row: int) -> float:
    """Return the y of a row."""
    return TOP + ROW * (row + 0.5)


def rows_frame(x_scale: Scale, names: Sequence[str], figures: Sequence[str], label: str, show: Show) -> Html:
    """Return grid, ticks, names and figures of the rows, with what the x axis is."""
    bottom, end = TOP + ROW * len(names), x_scale.end
    parts = [element("path", d=f"M{x_scale.start:.1f} {bottom}H{end:.1f}", class_="axis")]
    ticks = [(x_scale(tick), show(tick)) for tick in x_scale.ticks]
    for x, told in spaced(ticks, _LETTER * (1 + max(len(told) for _, told in ticks))):
        parts.append(element("path", d=f"M{x:.1f} {TOP}V{bottom}", class_="rule"))
        parts.append(element("text", told, x=x, y=bottom + 14.0, class_="tick middle"))
    parts.append(element("text", label, x=(x_scale.start + end) / 2, y=bottom + 30.0, class_="label middle"))
    for row, (name, figure) in enumerate(zip(names, figures, strict=True)):
        y = middle_of(row) + 3.5
        title = element("title", name)
        parts.append(element("text", title, short(name, _MOST), x=x_scale.start - 8, y=y, class_="name end"))
        parts.append(element("text", figure, x=end + 8, y=y, class_="figure"))
    return join(parts)
