"""What the sections of a report share: panels side by side, notes, alarms, durations."""

from collections.abc import Sequence

from raid.report.markup import Html, element, join

_SHOWN = 5  # of a kind, before the rest is folded away


def grid(panels: Sequence[Html]) -> Html:
    """Return the panels that show something, side by side where there is room."""
    shown = [panel for panel in panels if panel]
    return element("div", *shown, class_="grid") if shown else Html()


def note(text: str) -> Html:
    """Return a remark."""
    return element("p", text, class_="muted")


def alarm(text: str) -> Html:
    """Return something that nobody should overlook."""
    return element("p", element("b", "⚠ Alarm. "), text, class_="alarm")


def folded(boxes: Sequence[Html], what: str) -> Html:
    """Return the boxes, those after the first few folded: many do not bury the page."""
    shown, rest = boxes[:_SHOWN], boxes[_SHOWN:]
    more = element("details", element("summary", f"{len(rest)} more {what}"), *rest)
    return join([*shown, more] if rest else shown)


def seconds_text(seconds: float) -> str:
    """Return a duration: 1.25 s, 41 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    note: str = "",
    total: bool = False,
    group: str | None = None,
) -> Html:
    """Return a table that can be sorted, in a box that scrolls where it is wider than the page.

    Args:
        caption: above it.
        head: name of every column.
        rows: cells of every row, its name first.
        note: under the table.
        total: whether the last row is of all others, and stays the last.
        group: tables of one group are sorted as one, and each keeps its number of rows.
    """
    last = len(rows) - 1 if total else None
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", cell) for cell in cells),
            class_="total" if number == last else None,
        )
        for number, (name, *cells) in enumerate(rows)
    ]
    shown = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", name, scope="col") for name in head))),
        element("tbody", *lines),
        class_="sortable" if len(rows) > 1 + total else None,
        data_group=group,
    )
    scroll = element("div", shown, class_="scroll", tabindex=0, role="group", aria_label=caption)
    return element("figure", scroll, element("p", note, class_="muted") if note else "")
