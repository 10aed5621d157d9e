"""The manifest of an image set: an Arrow table, one row an image, and row i is image i everywhere."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tqdm import tqdm

from raid.data.manifest import SCHEMA, SPLITS, checked, metadata_of, read_parquet, relative_path, texts_of
from raid.data.pixels import upright_size
from raid.data.reading import read_bytes
from raid.errors import InputError, one_line
from raid.files import atomic_path

if TYPE_CHECKING:  # a pack is of samples
    from raid.data.image_files import Root

logger = logging.getLogger(__name__)

OnError = Literal["fail", "skip", "unread"]
T = TypeVar("T")

NUM_THREADS = min(16, os.cpu_count() or 1)
_PROGRESS_AFTER_SECONDS = 2.0
_UNREAD: dict[str, Any] | str = {"width": 0, "height": 0, "content": ""}


@dataclass(frozen=True)
class Record:
    """What a layout knows of an image before its file is read."""

    path: str  # posix, relative to the root
    identity: int | None  # None: unlabelled; -1: junk that a ranking drops
    camera: int | None  # 0-based
    split: str


@dataclass(frozen=True)
class Samples:
    """N images, sorted by path (a `take` keeps the order it was given).

    `table` has the columns path (string, posix, relative to `root`), identity and camera (int64, null =
    not known), split (one of SPLITS), width, height (int32) and content (blake2b-128 of the
    file, hexadecimal). Its schema's metadata carries the cameras' names and the facts. `root` is a folder, or
    the pack that the images are in: `raid.data.image_files` reads both.
    """

    root: "Root"
    table: pa.Table
    name: str

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def paths(self) -> list[str]:
        """The N paths relative to the root."""
        return texts_of(self.table, "path")

    @property
    def identities(self) -> NDArray[np.int64]:
        """(N,) int64; -1 = unlabelled or junk."""
        return self._integers("identity")

    @property
    def cameras(self) -> NDArray[np.int64]:
        """(N,) int64, 0-based; -1 = not known."""
        return self._integers("camera")

    @property
    def has_cameras(self) -> bool:
        """Whether the camera of every image is known."""
        return self.table["camera"].null_count == 0

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The name that camera 0, 1, ... has in the set; empty when it gave none."""
        return tuple(json.loads(metadata_of(self.table).get(b"raid.camera_names", b"[]")))

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the set beside its images, such as version and protocol: recorded with results."""
        return dict(json.loads(metadata_of(self.table).get(b"raid.facts", b"{}")))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have images, in the order of SPLITS."""
        present = set(texts_of(self.table, "split"))
        return tuple(split for split in SPLITS if split in present)

    def split(self, name: str) -> "Samples":
        """Return the images of one split, in order."""
        assert name in SPLITS, name
        return self.take(np.flatnonzero(np.array(texts_of(self.table, "split"), dtype=str) == name))

    def take(self, rows: ArrayLike) -> "Samples":
        """Return the images `rows` (M,), integers, in the order given."""
        return Samples(self.root, self.table.take(np.asarray(rows, dtype=np.int64)), self.name)

    def fingerprint(self) -> str:
        """Hash the rows: path, content, identity, camera and split, but not where the root is."""
        columns = [self.table[key].to_pylist() for key in ("path", "content", "identity", "camera", "split")]
        return hashlib.blake2b(json.dumps(columns).encode(), digest_size=16).hexdigest()

    def write(self, path: Path) -> None:
        """Write the manifest as Parquet, with the name and the absolute root in its metadata.

        Raises:
            InputError: the images are in a pack.
        """
        if not isinstance(self.root, Path):
            raise InputError(f"{self.root}: a pack is its own manifest: read it by data.layout=pack")
        own = {b"raid.name": self.name.encode(), b"raid.root": os.fsencode(self.root.absolute())}
        table = self.table.replace_schema_metadata(metadata_of(self.table) | own)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)

    @staticmethod
    def read(path: Path, root: Path | None = None) -> "Samples":
        """Read a manifest; `root` goes before the one it names, else the folder it lies in.

        Raises:
            InputError: no Parquet file is there, or its columns are not a manifest's.
        """
        table = checked(str(path), read_parquet(path), path.parent)
        metadata = metadata_of(table)
        named = Path(os.fsdecode(metadata[b"raid.root"])) if b"raid.root" in metadata else path.parent
        name = metadata.get(b"raid.name", path.stem.encode()).decode()
        return Samples(root if root is not None else named, table, name)

    @staticmethod
    def scan(
        root: Path,
        records: Iterable[Record],
        *,
        name: str,
        on_error: OnError = "fail",
        num_threads: int = NUM_THREADS,
        camera_names: Sequence[str] = (),
        facts: Mapping[str, str] | None = None,
    ) -> "Samples":
        """Read the size and hash the content of every record's file.

        Args:
            root: folder that the paths are relative to.
            records: in any order.
            name: of the set.
            on_error: an unreadable file (missing, empty, no image) stops, or is left out with a count;
                unread: none is opened, sizes are 0 and contents empty (for a check that reads them itself).
            num_threads: files read at a time.
            camera_names: what camera 0, 1, ... is called in the set.
            facts: see the property.

        Raises:
            InputError: there is no record, a path occurs twice or leaves the root, or a file is
                unreadable.
        """
        ordered = sorted(records, key=lambda record: record.path)
        _check_paths(root, ordered)
        if on_error == "unread":
            headers = [_UNREAD] * len(ordered)
        else:
            files = [root / record.path for record in ordered]
            with ThreadPoolExecutor(num_threads) as pool:
                headers = list(progress(pool.map(_read_header, files), len(files), f"reading {name}"))
        unreadable = [
            (record.path, header)
            for record, header in zip(ordered, headers, strict=True)
            if isinstance(header, str)
        ]
        skip_or_fail(unreadable, len(ordered), root=root, on_error=on_error)
        rows = [
            {**vars(record), **header}
            for record, header in zip(ordered, headers, strict=True)
            if not isinstance(header, str)
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        metadata = {"raid.camera_names": list(camera_names), "raid.facts": dict(facts or {})}
        table = table.replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()})
        return Samples(root, table, name)

    def _integers(self, column: str) -> NDArray[np.int64]:
        return np.array(
            [-1 if value is None else value for value in self.table[column].to_pylist()], np.int64
        )


def camera_name(names: Sequence[str], camera: int) -> str:
    """Return what a set whose cameras have these `names` calls `camera` (0-based): its number without."""
    return names[camera] if 0 <= camera < len(names) else str(camera)


def relabel(identities: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber identities or labels (N,) to 0..K-1 in sorted order; what is negative becomes -1."""
    labels = np.full(len(identities), -1, dtype=np.int64)
    known = identities >= 0
    labels[known] = np.unique(identities[known], return_inverse=True)[1]
    return labels


def skip_or_fail(bad: Sequence[tuple[str, str]], total: int, *, root: "Root", on_error: OnError) -> None:
    """Log how many of `total` images are left out, or stop.

    Args:
        bad: (path, what is wrong with it) of the images that cannot be used.
        total: images looked at.
        root: folder that the paths are relative to.
        on_error: whether to stop.

    Raises:
        InputError: some are bad and `on_error` is fail, or all are.
    """
    if not bad:
        return
    path, reason = bad[0]
    if on_error == "fail":
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(f"{root}/{path}: {reason}{more}; mend it, or leave it out with data.on_error=skip")
    if len(bad) == total:
        raise InputError(f"{root}: none of the {total} images can be read; the first is {path}: {reason}")
    shown = ", ".join(f"{path} ({reason})" for path, reason in bad[:3])
    logger.warning("%s: left out %d of %d images: %s", root, len(bad), total, shown)


def progress(values: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yield `values` with a bar on a terminal once it takes more than two seconds."""
    delay = _PROGRESS_AFTER_SECONDS
    yield from tqdm(values, description, total, disable=None, delay=delay, unit=" images", leave=False)


def content_hash(data: bytes) -> str:
    """Return the blake2b-128 of a file's bytes, hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_header(file: Path) -> dict[str, Any] | str:
    try:
        data = read_bytes(file)
    except OSError as error:
        return error.strerror or one_line(error)
    if not data:
        return "is empty (zero bytes)"
    try:
        with Image.open(BytesIO(data)) as image:
            width, height = upright_size(image)
    except Image.DecompressionBombError as error:
        return one_line(error)
    except Exception:  # damaged bytes make the decoders raise nearly anything
        return "is not an image that PIL can open"
    return {"width": width, "height": height, "content": content_hash(data)}


def _check_paths(root: Path, records: Sequence[Record]) -> None:
    if not records:
        raise InputError(f"{root}: there are no images")
    for record in records:
        relative_path(root, record.path)
        assert record.split in SPLITS, record.split
        try:
            record.path.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{root}: the file name {record.path!r} is not UTF-8; rename it") from error
    path, times = Counter(record.path for record in records).most_common(1)[0]
    if times > 1:
        raise InputError(f"{root}: {path} is listed {times} times; list every image once")
