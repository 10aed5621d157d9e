"""What a manifest is made of, and what is looked at in one that a stranger may have written."""

import json
import posixpath
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from raid.errors import InputError, one_line, some_of

NULLABLE = ("identity", "camera")
# multi_query: more images of a query's person by the query's camera, which are averaged into one query.
SPLITS = ("train", "query", "gallery", "multi_query")
MOST_COLUMNS, MOST_CAMERAS = 10_000, 1_000_000  # of a table, of a manifest
_LARGEST = 4 * 2**30  # bytes of a table in memory: some twenty million images
_ROWS_READ = 1024  # at a time
_COLUMNS: dict[str, pa.DataType] = {
    "path": pa.string(),
    "identity": pa.int64(),
    "camera": pa.int64(),
    "split": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "content": pa.string(),
}
SCHEMA = pa.schema([pa.field(name, kind, name in NULLABLE) for name, kind in _COLUMNS.items()])
_LONGEST_PATH = 4096


def checked(name: str, table: pa.Table, root: Path) -> pa.Table:
    """Return the columns of a manifest, sorted by path.

    Args:
        name: of the file, for errors.
        table: read from it.
        root: that the paths must not leave.

    Raises:
        InputError: they are not a manifest's.
    """
    missing = [column for column in SCHEMA.names if column not in table.column_names]
    if missing:
        raise InputError(
            f"{name}: not a manifest: it lacks {', '.join(missing)} (its columns: "
            f"{some_of(table.column_names)}); layout table reads other tables"
        )
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata))
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{name}: not a manifest: {one_line(error)}") from error
    unknown = set(texts_of(table, "split")) - set(SPLITS)
    if unknown:
        raise InputError(f"{name}: column split has {unknown.pop()!r}; it may be {', '.join(SPLITS)}")
    paths = texts_of(table, "path")
    if not paths or len(set(paths)) < len(paths):
        raise InputError(f"{name}: column path is empty or has a path twice; list every image once")
    _check_values(name, table, root)
    return table if paths == sorted(paths) else table.sort_by("path")


def read_parquet(path: Path) -> pa.Table:
    """Return the table of a file that should be a manifest.

    Raises:
        InputError: there is no file, none of Parquet, or it is too large.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; `raid data prepare` writes a manifest")
    try:
        # Not read_table: it takes a folder called `split=train` for a column.
        with pq.ParquetFile(path) as file:
            return whole_table(str(path), file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {one_line(error)}") from error


def whole_table(name: str, file: pq.ParquetFile, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns, that may be small on disk and fill the memory.

    Raises:
        InputError: it has too many columns, or it is too large.
    """
    check_width(name, len(file.schema_arrow))
    parts, size = [], 0
    for part in file.iter_batches(_ROWS_READ, columns=columns):
        size += part.nbytes
        if size > _LARGEST:
            raise InputError(
                f"{name}: takes more than {_LARGEST / 2**30:g} GiB of memory: not a list of images"
            )
        parts.append(part)
    return pa.Table.from_batches(parts) if parts else file.schema_arrow.empty_table()


def relative_path(root: Path, path: str) -> str:
    """Return `path` as a posix path relative to `root`, which need not exist.

    Raises:
        InputError: it leaves the root.
    """
    if "\0" in path or len(path) > _LONGEST_PATH:
        raise InputError(f"{path[:80]!r} is not the path of a file; give paths relative to {root}")
    relative = posixpath.normpath(path)
    if posixpath.isabs(relative):
        relative = posixpath.relpath(relative, root.absolute().as_posix())
    if relative.split("/", 1)[0] in ("..", "."):
        raise InputError(f"{path!r} is not a file inside {root}; give paths relative to that folder")
    return relative


def check_width(file: Path | str, num_columns: int) -> None:
    """Refuse a table that is far wider than any that is meant; to read one can fill the memory.

    Raises:
        InputError: it has too many columns.
    """
    if num_columns > MOST_COLUMNS:
        raise InputError(f"{file}: has more than {MOST_COLUMNS:,} columns; keep those you need")


def metadata_of(table: pa.Table) -> dict[bytes, bytes]:
    """Return what the schema of a table carries beside the columns."""
    return dict(table.schema.metadata or {})


def texts_of(table: pa.Table, column: str) -> list[str]:
    """Return a column of texts."""
    return cast(list[str], table[column].to_pylist())  # no nulls: the schema


def _check_values(name: str, table: pa.Table, root: Path) -> None:
    """Look at what a stranger may have written into a manifest."""
    for image in texts_of(table, "path"):
        try:
            relative_path(root, image)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    cameras = [camera for camera in table["camera"].to_pylist() if camera is not None]
    if cameras and not 0 <= min(cameras) <= max(cameras) < MOST_CAMERAS:
        raise InputError(f"{name}: column camera is not of numbers from 0 to {MOST_CAMERAS - 1:,}")
    metadata = metadata_of(table)
    try:
        metadata.get(b"raid.name", b"").decode()
        names = json.loads(metadata.get(b"raid.camera_names", b"[]"))
        facts = json.loads(metadata.get(b"raid.facts", b"{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: its metadata are not a manifest's: {one_line(error)}") from error
    texts = [*names, *facts.values()] if isinstance(names, list) and isinstance(facts, dict) else [None]
    if not all(isinstance(text, str) for text in texts) or b"\0" in metadata.get(b"raid.root", b""):
        raise InputError(f"{name}: its metadata are not a manifest's: wanted texts")
