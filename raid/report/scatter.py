"""Points in a plane as inline SVG: thousands, so a group of them is one path, and a point a few letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.report.charts import LEFT, RIGHT, TOP, UNDER, WIDTH, Axes, figure, frame, mark, number
from raid.report.markup import Html, element, join
from raid.report.scale import Scale, fitted

_HEIGHT = 320
_FIRST = "h0"  # a line of no length: its round ends are a dot
# The markers of the lines (`charts`), smaller and from the point on.
_SHAPES = (
    _FIRST,
    "m0-2.2l2 3.3h-4z",
    "m-1.5-1.5h3v3h-3z",
    "m0-2.3l2.3 2.3-2.3 2.3-2.3-2.3z",
    "m0 2.2l2-3.3h-4z",
)


@dataclass(frozen=True)
class Cloud:
    """A group of points.

    Attributes:
        name: in the legend.
        label: short, drawn at its median.
        points: (n, 2) finite, at least one.
        told: in the legend, beside the name.
        look: chooses colour and marker.
    """

    name: str
    label: str
    points: NDArray[Any]
    told: str
    look: int


def scatter(title: str, clouds: Sequence[Cloud], axes: Axes, *, most: int, note: str = "") -> Html:
    """Return a chart of the points, a regular choice of each cloud where there are more than `most` in all.

    Args:
        title: of the chart.
        clouds: by their order in the legend.
        axes: labels.
        most: points to be drawn, and one more of each cloud at the most.
        note: under the chart.
    """
    total = sum(len(cloud.points) for cloud in clouds)
    drawn = [_chosen(cloud.points, min(1.0, most / total)) for cloud in clouds]
    everything = np.concatenate(drawn)
    x_scale = fitted(everything[:, 0].tolist(), LEFT, RIGHT)
    y_scale = fitted(everything[:, 1].tolist(), _HEIGHT - UNDER, TOP)
    parts = [frame(x_scale, y_scale, axes, height=_HEIGHT)]
    parts += [_dots(cloud, points, x_scale, y_scale) for cloud, points in zip(clouds, drawn, strict=True)]
    parts += [_label(cloud, x_scale, y_scale) for cloud in clouds]
    if len(everything) < total:
        chosen = f"{len(everything)} of {total} points are drawn, a regular choice of each group."
        note = f"{note} {chosen}" if note else chosen
    words = "; ".join(_told(cloud) for cloud in clouds)
    legend = [(_swatch(cloud.look), cloud.name, cloud.told) for cloud in clouds]
    said = f"{title}. {axes.y} against {axes.x}. {words}."
    return figure(title, parts, said, legend, note, height=_HEIGHT)


def _chosen(points: NDArray[Any], share: float) -> NDArray[Any]:
    """Return every n-th point, so that `share` of them remain, and at least one."""
    count = int(np.ceil(len(points) * share))
    return points[np.arange(count) * len(points) // count]


def _dots(cloud: Cloud, points: NDArray[Any], x_scale: Scale, y_scale: Scale) -> Html:
    shape = _SHAPES[cloud.look % len(_SHAPES)]
    path = "".join(f"M{x_scale(float(x)):.1f} {y_scale(float(y)):.1f}{shape}" for x, y in points)
    style = f"dots c{cloud.look}" + (" round" if shape == _FIRST else "")
    return element("path", element("title", f"{cloud.name}: {cloud.told}"), d=path, class_=style)


def _label(cloud: Cloud, x_scale: Scale, y_scale: Scale) -> Html:
    x, y = np.median(cloud.points, axis=0).tolist()
    place = min(max(x_scale(x), LEFT + 6), WIDTH - 20)
    return element("text", cloud.label, x=place, y=y_scale(y) + 4.5, class_="place middle")


def _told(cloud: Cloud) -> str:
    x, y = np.median(cloud.points, axis=0).tolist()
    return f"{cloud.name}: {cloud.told}, around {number(x)} and {number(y)}"


def _swatch(look: int) -> Html:
    parts = join([mark(look, 14, 6)])
    return element("svg", parts, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
