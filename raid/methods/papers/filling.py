"""The papers' tables with what runs came to in them, and the record that `raid tables --json` writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.files import write_json
from raid.methods.papers import icsr, mar, slsr
from raid.methods.papers.tables import Cell, Table

Floats = NDArray[np.float64]
TABLES: tuple[Table, ...] = (*icsr.TABLES, *mar.TABLES, *slsr.TABLES)
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Measured:
    """What the runs of a cell came to.

    Attributes:
        runs: their folders, and what of theirs the cell lets vary.
        figures: by label, (S,) of every run, in percent.
    """

    runs: tuple[tuple[Path, Mapping[str, Any]], ...]
    figures: dict[str, Floats]


@dataclass(frozen=True)
class LeftOut:
    """A run, or what is none, that fills a cell less than it could."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Filled:
    """All tables, what was measured of their cells, and what was left out."""

    measured: Mapping[Cell, Measured] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    tables: Sequence[Table] = TABLES

    def as_record(self) -> dict[str, Any]:
        """Return what the JSON file holds: figures in percent, as the papers have them."""
        return {
            "format": FORMAT,
            "unit": "percent",
            "tables": [
                {
                    "paper": table.paper,
                    "table": table.number,
                    "title": table.title,
                    "notes": list(table.notes),
                    "cells": [self._cell(cell) for cell in table.cells],
                }
                for table in self.tables
            ],
            "left_out": [{"run": str(each.path), "reason": each.reason} for each in self.left_out],
        }

    def write(self, path: Path) -> None:
        """Write the record as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        write_json(path, self.as_record())

    def _cell(self, cell: Cell) -> dict[str, Any]:
        measured = self.measured.get(cell)
        runs = measured.runs if measured else ()
        return {
            "block": cell.block,
            "row": cell.row,
            "run_file": f"jobs/{cell.job.file}",
            "command": cell.job.command,
            "runs": [{"run": str(path), **varying} for path, varying in runs],
            "figures": {
                label: {"paper": paper, **_summary(measured.figures[label] if measured else None, paper)}
                for label, paper in cell.figures.items()
            },
        }


def _summary(values: Floats | None, paper: float) -> dict[str, Any]:
    if values is None:
        return {"mean": None, "deviation": None, "difference": None, "by_run": []}
    mean = float(values.mean())
    return {
        "mean": mean,
        "deviation": float(values.std(ddof=1)) if len(values) > 1 else None,
        "difference": mean - paper,
        "by_run": values.tolist(),
    }
