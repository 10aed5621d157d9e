"""The similarity matrix of the cameras: a table whose cells are coloured by their value."""

import numpy as np
from numpy.typing import NDArray

from raid.report.markup import Html, element, join
from raid.report.style import HEAT_STEPS

_SHORT = 5  # characters of a name that fits above a cell


def heat_map(title: str, corner: str, names: list[str], values: NDArray[np.float64]) -> Html:
    """Return a symmetric matrix (C, C) as a table with its numbers.

    The colours run from the lowest to the highest value beside the diagonal, which is 1 by definition.

    Args:
        title: of the table.
        corner: what rows and columns are.
        names: of the C rows and columns.
        values: NaN where there is none.
    """
    beside = values[~np.eye(len(values), dtype=np.bool_)]
    beside = beside[np.isfinite(beside)]
    low, high = (beside.min(), beside.max()) if len(beside) else (0.0, 1.0)
    # Long names would make wide columns: these get numbers.
    numbered = any(len(name) > _SHORT for name in names)
    columns = [str(i) if numbered else name for i, name in enumerate(names, start=1)]
    head = element(
        "tr",
        element("th", corner, scope="col"),
        *(
            element("th", column, scope="col", title=name)
            for column, name in zip(columns, names, strict=True)
        ),
    )
    rows = []
    for i, name in enumerate(names):
        cells = [_cell(values[i, j], low, high, same=i == j) for j in range(len(names))]
        shown = f"{columns[i]}: {name}" if numbered else name
        rows.append(element("tr", element("th", shown, scope="row"), *cells))
    table = element(
        "table",
        element("caption", title),
        element("thead", head),
        element("tbody", *rows),
        class_="heat long" if numbered else "heat",
    )
    scroll = element("div", table, class_="scroll", tabindex=0, role="group", aria_label=title)
    return element("div", scroll, _key(low, high) if len(beside) else Html(), class_="box")


def _cell(value: float, low: float, high: float, *, same: bool) -> Html:
    if not np.isfinite(value):
        return element("td", "–", class_="same", title="no images")
    if same:
        return element("td", "1", class_="same")
    share = (value - low) / (high - low) if high > low else 0.5
    return element("td", f"{value:.2f}", class_=f"h{round(share * (HEAT_STEPS - 1))}")


def _key(low: float, high: float) -> Html:
    steps = join(element("i", class_=f"h{i}") for i in range(HEAT_STEPS))
    return element(
        "div",
        element("span", f"{low:.3f} (lowest pair)"),
        element("span", steps, class_="steps", aria_hidden="true"),
        element("span", f"{high:.3f} (highest pair)"),
        class_="key",
    )
