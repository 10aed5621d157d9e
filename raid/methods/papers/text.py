"""What `raid tables` prints."""

import textwrap
from collections.abc import Iterator
from itertools import groupby

from raid.methods import seed_table
from raid.methods.papers.filling import Filled, Measured
from raid.methods.papers.tables import SEED, Cell, Table

WIDTH = 120
_EMPTY = "-"
_ABOUT = (
    "Measured: mean +- deviation (n - 1) over runs, of the last epoch, in percent; differences from the "
    "paper are in percentage points. The papers have one run each, no seeds.",
    "A command fills the figures above it: name its folder to raid tables. For a further seed, append seed=2 "
    "and a run.folder of its own. Rows of other methods are left out.",
)


def as_text(filled: Filled) -> str:
    """Return the tables with the commands that fill what is empty, and the runs that were left out."""
    lines: list[str] = []
    for table in filled.tables:
        lines += [*_table(table, filled), ""]
    for paragraph in _ABOUT:
        lines += _wrap(paragraph, first=0, others=0)
    if filled.left_out:
        lines += ["", "left out"]
    for each in filled.left_out:
        lines += _wrap(f"{each.path}: {each.reason}", first=0, others=4)
    return "\n".join(lines)


def as_markdown(filled: Filled) -> str:
    """Return the same in Markdown."""
    lines: list[str] = []
    for table in filled.tables:
        lines += [*_markdown(table, filled), ""]
    lines += _ABOUT
    if filled.left_out:
        lines += ["", "Left out:", ""]
    lines += [f"- `{each.path}`: {each.reason}" for each in filled.left_out]
    return "\n".join(lines)


def _wrap(text: str, *, first: int, others: int, width: int = WIDTH) -> list[str]:
    """Return the lines of a text, indented by so many places; paths and options stay whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _title(table: Table) -> str:
    return f"{table.name}: {table.title}"


def _table(table: Table, filled: Filled) -> Iterator[str]:
    width = 6 + max(len(cell.row) for each in filled.tables for cell in each.cells)
    yield _title(table)
    yield f"{'':<{width}}{'':<9}{'paper':>7}{'measured':>27}{'difference':>13}"
    for block, cells in groupby(table.cells, lambda cell: cell.block):
        yield f"  {block}"
        for cell in cells:
            yield from _rows(table, cell, filled.measured.get(cell), width)
    for note in table.notes:
        yield from _wrap(note, first=2, others=2)


def _rows(table: Table, cell: Cell, measured: Measured | None, width: int) -> Iterator[str]:
    for number, figure in enumerate(_figures(table, cell, measured)):
        name = "" if number else f"    {cell.row}"
        label, paper, found, difference = figure
        yield f"{name:<{width}}{label:<9}{paper:>7}{found:>27}{difference:>13}".rstrip()
    if measured is None:
        yield from _wrapped(cell.job.command)


def _wrapped(command: str) -> Iterator[str]:
    """Yield a command in lines that a shell takes for one."""
    *lines, last = _wrap(command, first=6, others=8, width=WIDTH - 2)
    yield from (f"{line} \\" for line in lines)
    yield last


def _figures(table: Table, cell: Cell, measured: Measured | None) -> Iterator[tuple[str, str, str, str]]:
    """Yield label, paper, measured and difference of every figure."""
    digits = table.digits
    for label, paper in cell.figures.items():
        printed = f"{paper:.{digits}f}"
        if measured is None:
            yield label, printed, _EMPTY, ""
            continue
        values = measured.figures[label]
        unit = "seed" if cell.varying == (SEED,) else "run"
        number = f"({len(values)} {unit}{'s' if len(values) > 1 else ''})"
        difference = f"{round(float(values.mean()) - paper, digits) + 0.0:+.{digits}f}"  # no -0.0
        yield label, printed, f"{seed_table.cell(values, digits=digits)} {number}", difference


def _markdown(table: Table, filled: Filled) -> Iterator[str]:
    yield f"**{_title(table)}**"
    yield from ("", "| | | | paper | measured | difference |", "| --- | --- | --- | ---: | ---: | ---: |")
    for cell in table.cells:
        measured = filled.measured.get(cell)
        for figure in _figures(table, cell, measured):
            yield f"| {' | '.join((cell.block, cell.row, *figure))} |"
    empty = [cell for cell in table.cells if cell not in filled.measured]
    if empty or table.notes:
        yield ""
    yield from (f"- {note}" for note in table.notes)
    yield from (f"- {cell.block}, {cell.row}: `{cell.job.command}`" for cell in empty)
