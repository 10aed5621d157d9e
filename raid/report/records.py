"""The sections on the records of a run: times, all figures, the configuration."""

import re
from collections.abc import Iterator, Sequence

from raid.report.charts import Axes, Stack, number, percent, stacked_bars
from raid.report.markup import Html, element, join
from raid.report.panels import grid, note, seconds_text, table
from raid.report.run import Run
from raid.report.style import NUM_LOOKS

_BEFORE = ("prepare", "intra_camera", "startup", "statistics")  # recorded with the first epoch after them


def times(run: Run) -> Iterator[Html]:
    """Yield where the time of the epochs went."""
    stages = run.times
    if not stages:
        yield note("This run recorded no times.")
        return
    # What comes before the epochs would make their bars too small to be seen.
    stacks = [
        Stack(_words(name), seconds, i % NUM_LOOKS)
        for i, (name, seconds) in enumerate(item for item in stages.items() if item[0] not in _BEFORE)
    ]
    before = [_words(name) for name in stages if name in _BEFORE]
    left_out = f"Without {', '.join(before)}, which come before the epochs." if before else ""
    axes = Axes("epoch", "seconds", show=seconds_text)
    sums = {_words(name): sum(value for _, value in seconds) for name, seconds in stages.items()}
    total = sum(sums.values())
    rows = [(name, value, value / total if total else 0.0) for name, value in sums.items()]
    yield grid(
        [
            stacked_bars("Time by stage", stacks, axes, note=left_out),
            _totals([*rows, ("all", total, 1.0)]),
        ]
    )


def figures(run: Run) -> Iterator[Html]:
    """Yield every recorded figure of every epoch, as a table."""
    keys = list(dict.fromkeys(key for epoch in run.epochs for key in epoch if key != "epoch"))
    head = element(
        "tr",
        element("th", "epoch", scope="row"),
        *(element("th", str(epoch["epoch"] + 1), scope="col") for epoch in run.epochs),
    )
    rows = [
        element(
            "tr",
            element("th", _breakable(key), scope="row"),
            *(element("td", _figure(epoch.get(key))) for epoch in run.epochs),
        )
        for key in keys
    ]
    table = element("table", element("thead", head), element("tbody", *rows), class_="figures")
    box = element(
        "div", table, class_="scroll", tabindex=0, role="group", aria_label="Figures of every epoch"
    )
    yield element("details", element("summary", f"{len(keys)} figures of {len(run.epochs)} epochs"), box)


def configuration(run: Run) -> Iterator[Html]:
    """Yield the resolved configuration."""
    yield element("details", element("summary", "config.yaml, resolved"), element("pre", run.config_text))


def _totals(rows: Sequence[tuple[str, float, float]]) -> Html:
    lines = [(name, seconds_text(value), percent(share)) for name, value, share in rows]
    return table("Totals of the recorded epochs", ("stage", "time", "share"), lines, total=True)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _breakable(key: str) -> Html:
    """Return a key that a narrow column may break where its words end."""
    words = re.split(r"(?<=[/_])", key)
    return join(part for word in words for part in (word, element("wbr")))


def _figure(value: object) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, (int, float)) else str(value)
