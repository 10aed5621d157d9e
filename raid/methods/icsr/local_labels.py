"""local_labels.parquet: the local labels of a run's training images, for its report and for other runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raid.data.samples import Samples, content_hash
from raid.errors import InputError, one_line
from raid.files import atomic_path
from raid.run_folder import RunFolder

Ints = NDArray[np.int64]
_COLUMNS = ("path", "identity", "camera", "local_label")
_IMAGES = b"raid.train"  # of the file's metadata: fingerprint of the training images


@dataclass(frozen=True, eq=False)
class TakenLabels:
    """The local labels of another run.

    Attributes:
        labels: (N,) numbered within each camera, -1 = outlier.
        content: of their file.
    """

    labels: Ints
    content: bytes

    @property
    def fingerprint(self) -> str:
        """What tells them from others."""
        return content_hash(self.content)

    def put_into(self, folder: RunFolder) -> Ints:
        """Leave a copy of the file where the run's own would be; return the labels."""
        with atomic_path(folder.local_labels) as temporary:
            temporary.write_bytes(self.content)
        return self.labels


def write_local_labels(train: Samples, labels: Ints, path: Path) -> None:
    """Write the local labels (N,) of the images `train`, and which images those are."""
    columns = [*(train.table[name] for name in _COLUMNS[:-1]), labels]
    table = pa.table(dict(zip(_COLUMNS, columns, strict=True)))
    table = table.replace_schema_metadata({_IMAGES: train.fingerprint()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def take_local_labels(path: Path, train: Samples) -> TakenLabels:
    """Read what another run wrote of the images `train`, once: what is checked is what is used.

    Raises:
        InputError: the file is missing, is no such file, or is of other images.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(
            f"intra.labels: {path}: there is no such file; a run of `raid icsr` leaves it as "
            "local_labels.parquet in its folder"
        )
    try:
        content = path.read_bytes()
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"intra.labels: {path}: not a Parquet file: {one_line(error)}") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            f"intra.labels: {path} is not a local_labels.parquet that `raid icsr` wrote: it has no column "
            f"{', '.join(missing)}"
        )
    if not _is_of(table, train):
        raise InputError(
            f"intra.labels: {path} is of other training images than those of section data: its labels say "
            "nothing of these; name the set it was made with, or leave it out"
        )
    return TakenLabels(_labels(table, train, path), content)


def _is_of(table: pa.Table, train: Samples) -> bool:
    """Whether the rows are those of `train`: the same files, and the same pictures in them.

    An older raid did not write the fingerprint, which knows the pictures: then the files' names decide.
    """
    written = (table.schema.metadata or {}).get(_IMAGES)
    rows = table["path"].to_pylist() == train.paths and table["camera"].to_pylist() == train.cameras.tolist()
    return rows and written in (None, train.fingerprint().encode())


def _labels(table: pa.Table, train: Samples, path: Path) -> Ints:
    """Return the labels (N,): of each camera not more than it has images."""
    column = table["local_label"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(f"intra.labels: {path}: column local_label holds {column.type} or gaps, no labels")
    labels: Ints = column.to_numpy().astype(np.int64)
    _, camera, sizes = np.unique(train.cameras, return_inverse=True, return_counts=True)
    wrong = np.flatnonzero((labels < -1) | (labels >= sizes[camera]))
    if len(wrong):
        raise InputError(
            f"intra.labels: {path}: {train.paths[wrong[0]]} has label {labels[wrong[0]]}; the labels of a "
            "camera are numbered from 0, -1 is for none"
        )
    return labels
