"""Images listed in a CSV or Parquet file with named columns."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raid.data.folder import number_cameras, number_identities
from raid.data.manifest import SPLITS, check_width, relative_path, whole_table
from raid.data.samples import OnError, Record, Samples
from raid.errors import InputError, one_line, some_of

Texts = list[str | None]

_LONGEST_HEADER = 2**20  # bytes
_DEFAULTS = ("identity", "camera", "split")
# How pandas writes an integer column that has a gap.
_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+", re.ASCII)


def load(
    file: Path,
    *,
    root: Path | None = None,
    path_column: str = "path",
    identity_column: str = "identity",
    camera_column: str = "camera",
    split_column: str = "split",
    on_error: OnError = "fail",
) -> Samples:
    """Read the images that a table lists, one a row.

    Identities and cameras may be integers or texts (numbered in sorted order) or be missing; without a
    split column all images are training images. Rows are counted from 1, the header not included.

    Args:
        file: `.csv` (UTF-8, with a header) or `.parquet`.
        root: folder that the paths are relative to; default: the file's own.
        path_column: of the paths; required.
        identity_column: of the identities; -1 = junk, empty = unlabelled.
        camera_column: of the cameras.
        split_column: train, query or gallery.
        on_error: a missing or unreadable image stops, or is left out with a count.

    Raises:
        InputError: the file cannot be read, lacks the column, or a row is wrong.
    """
    root = file.parent if root is None else root
    table = _read(file)
    paths = _paths(file, root, _column(file, table, path_column, required=True))
    optional = [
        _column(file, table, name, required=name != default)
        for name, default in zip((identity_column, camera_column, split_column), _DEFAULTS, strict=True)
    ]
    identities, cameras, splits = optional
    numbers, camera_names = number_cameras(cameras or [None] * len(paths))
    chosen = _splits(file, splits) if splits is not None else ["train"] * len(paths)
    if on_error == "fail":
        _check_files(file, root, paths)
    labels = number_identities(identities or [None] * len(paths))
    records = [Record(*values) for values in zip(paths, labels, numbers, chosen, strict=True)]
    return Samples.scan(root, records, name=file.stem, on_error=on_error, camera_names=camera_names)


def _read(file: Path) -> pa.Table:
    if not file.is_file():
        raise InputError(f"{file}: there is no such file; set data.root to the table")
    try:
        if file.suffix.lower() == ".csv":
            table = _read_csv(file)
        elif file.suffix.lower() == ".parquet":
            with pq.ParquetFile(file) as parquet:
                table = whole_table(str(file), parquet)
        else:
            raise InputError(f"{file}: a table is a .csv or a .parquet file")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: cannot be read as a table: {one_line(error)}") from error
    if table.num_rows == 0:
        raise InputError(f"{file}: the table has no rows")
    return table


def _read_csv(file: Path) -> pa.Table:
    with file.open("rb") as opened:
        check_width(file, opened.readline(_LONGEST_HEADER).count(b",") + 1)
    with pa.csv.open_csv(file) as reader:
        names = reader.schema.names
    # Everything as text: guessing types would turn camera 01 into 1 and an identity NA into a gap.
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    return pa.csv.read_csv(file, convert_options=options)


def _column(file: Path, table: pa.Table, name: str, *, required: bool) -> Texts | None:
    times = table.column_names.count(name)
    if times > 1 or (required and times == 0):
        there = some_of(table.column_names)
        raise InputError(f"{file}: {'two columns' if times else 'no column'} {name!r} (its columns: {there})")
    return [_text(value) for value in table[name].to_pylist()] if times else None


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole[1] if whole else text or None


def _paths(file: Path, root: Path, texts: Texts | None) -> list[str]:
    assert texts is not None  # the column is required
    paths = []
    for row, text in enumerate(texts, start=1):
        if text is None:
            raise InputError(f"{file}: row {row} has no path")
        try:
            paths.append(relative_path(root, text))
        except InputError as error:
            raise InputError(f"{file}: row {row}: {error}") from error
    return paths


def _splits(file: Path, texts: Texts) -> list[str]:
    splits = []
    for row, text in enumerate(texts, start=1):
        if text not in SPLITS:
            raise InputError(f"{file}: row {row} has split {text or ''!r}; it may be {', '.join(SPLITS)}")
        splits.append(text)
    return splits


def _check_files(file: Path, root: Path, paths: Sequence[str]) -> None:
    for row, path in enumerate(paths, start=1):
        if not os.path.isfile(root / path):  # Path's own raises for a name that is too long
            raise InputError(
                f"{file}: row {row}: there is no file {root / path}; mend the row, or leave it out with "
                "data.on_error=skip"
            )
