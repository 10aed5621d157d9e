"""A file of features: Parquet, one row an image in the samples' order, with what they were made of."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from raid.data.manifest import relative_path, whole_table
from raid.data.samples import Samples
from raid.errors import InputError, one_line
from raid.files import atomic_path

Features = NDArray[np.float32]

_KEY = b"raid"  # of the metadata
_LABELS: dict[str, pa.DataType] = {
    "path": pa.string(),
    "identity": pa.int64(),
    "camera": pa.int64(),
    "split": pa.string(),
}
_NULLABLE = ("identity", "camera")


@dataclass(frozen=True, kw_only=True)
class FeatureFacts:
    """What the features of a file were made of.

    Attributes:
        model: fingerprint of the network and its weights.
        height: of the images in pixels, as is `width`.
        width: in pixels.
        flip: whether the features of the mirror images were added.
        dimension: D.
        root: folder that the paths are relative to, as it was given.
        name: of the set.
        camera_names: what camera 0, 1, ... is called in the set; empty when it gave none.
        raid: version that wrote the file.
    """

    model: str
    height: int
    width: int
    flip: bool
    dimension: int
    root: str
    name: str
    camera_names: tuple[str, ...]
    raid: str

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureFile:
    """N images and their features.

    Attributes:
        features: (N, D) float32, finite.
        table: columns path, split (string), identity and camera (int64, null = not known), of N rows.
        facts: of all rows.
    """

    features: Features
    table: pa.Table
    facts: FeatureFacts

    def __len__(self) -> int:
        return len(self.features)

    @property
    def paths(self) -> list[str]:
        """The N paths relative to `facts.root`, posix."""
        return [str(path) for path in self.table["path"].to_pylist()]

    @property
    def splits(self) -> list[str]:
        """The N splits."""
        return [str(split) for split in self.table["split"].to_pylist()]

    @property
    def identities(self) -> NDArray[np.int64]:
        """(N,) int64; -1 = unlabelled or junk."""
        return _integers(self.table, "identity")

    @property
    def cameras(self) -> NDArray[np.int64]:
        """(N,) int64, 0-based; -1 = not known."""
        return _integers(self.table, "camera")

    @property
    def has_cameras(self) -> bool:
        """Whether the camera of every image is known."""
        return self.table["camera"].null_count == 0


def write_features(path: Path, samples: Samples, blocks: Iterable[Features], facts: FeatureFacts) -> None:
    """Write a file of features, whole or not at all; a block becomes a row group.

    Args:
        path: of the file.
        samples: N images.
        blocks: (B, D) float32 each, N rows together, in the samples' order; an empty one is passed over.
        facts: of all of them.

    Raises:
        OSError: it cannot be written.

    Memory: of the features, one block.
    """
    schema = _schema(facts)
    # Features are not compressed, their digits are noise.
    options: Any = {"compression": dict.fromkeys(_LABELS, "zstd"), "use_dictionary": ["split"]}
    start = 0
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, **options) as writer,
    ):
        for block in filter(len, blocks):
            labels = samples.table.select(list(_LABELS)).slice(start, len(block)).combine_chunks()
            values = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("features").type)
            group = pa.Table.from_arrays([*labels.columns, column], schema=schema)
            writer.write_table(group, row_group_size=len(block))
            start += len(block)
        assert start == len(samples), f"{start} rows of features, {len(samples)} samples"


def read_features(path: Path) -> FeatureFile:
    """Read a file of features.

    Raises:
        InputError: the file is missing, no Parquet file, none of features that raid wrote, without rows, or
            a feature is not finite.

    Memory: N * D numbers and one row group.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; `raid extract` writes a file of features")
    try:
        with pq.ParquetFile(path) as file:
            facts = _checked_facts(path, file)
            table = whole_table(str(path), file, list(_LABELS))
            features = _read_blocks(path, file, facts.dimension)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise InputError(f"{path}: not a Parquet file, or a damaged one: {one_line(error)}") from error
    found = FeatureFile(features=features, table=table, facts=facts)
    for image in found.paths:
        relative_path(path.parent, image)  # before anybody joins it to the root
    return found


def _schema(facts: FeatureFacts) -> pa.Schema:
    labels = [pa.field(name, kind, name in _NULLABLE) for name, kind in _LABELS.items()]
    number = pa.field("element", pa.float32(), nullable=False)
    features = pa.field("features", pa.list_(number, facts.dimension), nullable=False)
    return pa.schema([*labels, features], metadata={_KEY: json.dumps(asdict(facts))})


def _checked_facts(path: Path, file: pq.ParquetFile) -> FeatureFacts:
    """Return the facts of a file that raid wrote and that has rows."""
    schema = file.schema_arrow
    facts = _facts((schema.metadata or {}).get(_KEY))
    if facts is None or not schema.equals(_schema(facts)):
        raise InputError(
            f"{path}: not a file of features that raid wrote (its columns: {', '.join(schema.names)}); "
            "make one by `raid extract`"
        )
    if file.metadata.num_rows == 0:
        raise InputError(f"{path}: has no rows: there is no image to answer about")
    return facts


def _facts(text: bytes | None) -> FeatureFacts | None:
    """Read the metadata; None where it is none of raid's."""
    try:
        facts = TypeAdapter(FeatureFacts).validate_json(text or b"", strict=True)
    except ValidationError:
        return None
    return facts if facts.dimension > 0 else None


def _read_blocks(path: Path, file: pq.ParquetFile, dimension: int) -> Features:
    features = np.empty((file.metadata.num_rows, dimension), np.float32)
    start = 0
    for number in range(file.num_row_groups):
        column = cast(Any, file.read_row_group(number, columns=["features"])["features"].combine_chunks())
        block = column.flatten().to_numpy().reshape(-1, dimension)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise InputError(
                f"{path}: the features of row {start + bad[0] + 1} are not finite: the training of the model "
                "has diverged, or the file is damaged"
            )
        features[start : start + len(block)] = block
        start += len(block)
    return features


def _integers(table: pa.Table, column: str) -> NDArray[np.int64]:
    values = [-1 if value is None else value for value in table[column].to_pylist()]
    return np.array(values, np.int64)
