"""Ranked lists as a table: CSV that no spreadsheet takes for formulas, or Parquet, written as they come."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raid.errors import InputError
from raid.files import atomic_path, writing
from raid.report.answer_lists import Listed

COLUMNS: dict[str, pa.DataType] = {
    "query": pa.string(),
    "rank": pa.int32(),
    "gallery": pa.string(),
    "score": pa.float32(),
    "query_identity": pa.int64(),
    "query_camera": pa.string(),
    "gallery_identity": pa.int64(),
    "gallery_camera": pa.string(),
    "right": pa.bool_(),
}
_SCHEMA = pa.schema(list(COLUMNS.items()))
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet may take for one begins so
_RIGHT = {1: True, 0: False, -1: None}


class Lists(Protocol):
    """Lists of consecutive queries."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """(B, P) rows of the gallery; -1 where there is none."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """(B, P)."""

    @property
    def right(self) -> NDArray[np.int8]:
        """(B, P) 1, 0, or -1 where it is not known."""


L = TypeVar("L", bound=Lists)
Write = Callable[[L], L]


def check_out(path: Path, suffixes: Sequence[str], inputs: Sequence[Path]) -> None:
    """Look at where something is to be written.

    Raises:
        InputError: of another kind, a folder, or one of the inputs.
    """
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: name a file that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.exists() and any(one.exists() and path.samefile(one) for one in inputs):
        raise InputError(f"{path}: is an input; name another file")


@contextmanager
def writing_table(path: Path, query: Listed, gallery: Listed) -> Iterator[Write[Any]]:
    """Give what writes the lists of the next queries to the table; it is there when all are written.

    Raises:
        InputError: it cannot be written.
    """
    begin = _csv if path.suffix.lower() == ".csv" else _parquet
    with writing(path), atomic_path(path) as temporary, begin(temporary) as take:
        yield _writer(take, query, gallery)


def table_text(lists: Any) -> str:
    """Return all lists as the text of a CSV file, in which nothing steers a terminal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in _rows(lists, 0, lists.query, lists.gallery):
        writer.writerow([_printable(cell) for cell in _cells(row)])
    return text.getvalue().rstrip("\n")


def _writer(take: Callable[[list[list[Any]]], None], query: Listed, gallery: Listed) -> Write[Any]:
    first = 0

    def write(part: L) -> L:
        nonlocal first
        take(list(_rows(part, first, query, gallery)))
        first += len(part.rows)
        return part

    return write


def _rows(part: Lists, first: int, query: Listed, gallery: Listed) -> Iterator[list[Any]]:
    """Yield the rows of the table in the order of `COLUMNS`."""
    for number, rows in enumerate(part.rows.tolist()):
        of, scores, right = first + number, part.scores[number].tolist(), part.right[number].tolist()
        for place, row in enumerate(rows):
            if row < 0:
                break
            yield [
                query.paths[of],
                place + 1,
                gallery.paths[row],
                scores[place],
                query.identities[of],
                query.cameras[of],
                gallery.identities[row],
                gallery.cameras[row],
                _RIGHT[right[place]],
            ]


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[list[list[Any]]], None]]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield lambda rows: writer.writerows(_cells(row) for row in rows)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[list[list[Any]]], None]]:
    with pq.ParquetWriter(path, _SCHEMA) as writer:

        def take(rows: list[list[Any]]) -> None:
            columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, COLUMNS.values(), strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))

        yield take


def _cells(row: Sequence[Any]) -> list[str]:
    return [_cell(value) for value in row]


def _cell(value: Any) -> str:
    """Return a cell: numbers are numbers, and text is no formula."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.6f}"
        case int():
            return str(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
