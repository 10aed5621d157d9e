"""A packed set: its images are in Parquet shards, which `pack.parquet` lists, of a folder or a bucket."""

import hashlib
import json
import logging
import os
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raid.data.manifest import checked, whole_table
from raid.data.samples import Samples, content_hash
from raid.data.shard_cache import Shard, ShardCache
from raid.data.storage import Place, is_uri, place_of, read_file
from raid.errors import InputError, one_line
from raid.files import atomic_path

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]

INDEX = "pack.parquet"  # written last: without it there is no pack
FORMAT = 1
SHARD_NAME = re.compile(r"shard-\d{5,9}\.parquet", re.ASCII)
# Where an image is: the number of its shard, and its bytes in there.
LOCATION: dict[str, pa.DataType] = {"shard": pa.int32(), "offset": pa.int64(), "size": pa.int64()}
_TOLD = {b"raid.camera_names": list, b"raid.facts": dict, b"raid.origin": dict}  # and what each is
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_GIB = 2**30


@dataclass(frozen=True)
class Pack:
    """A pack, in place of the root of a set: small, can be pickled, and opens what it reads where it is used.

    Attributes:
        place: where it is.
        index: SHA-256 of its `pack.parquet`.
        cache: of shards.
    """

    place: Place
    index: str
    cache: ShardCache

    def __str__(self) -> str:
        return str(self.place)

    def read(self, path: str) -> bytes:
        """Return the bytes of the image `path`, out of its shard on this node's disk.

        Raises:
            InputError: the shard cannot be had, or its bytes are not those that were packed.
        """
        index = _index(self)
        row = index.row(path)
        assert row is not None, path
        shard, offset, size = index.shards[index.shard[row]], int(index.offset[row]), int(index.size[row])
        for again in (True, False):
            with self.cache.open(self.place, shard) as file:
                data = os.pread(file.fileno(), size, offset)
            if content_hash(data) == index.contents[row].as_py():
                return data
            self.cache.drop(shard)
            if again:
                logger.warning("%s: damaged on this disk; fetched once more", self.place.key(shard.name))
        raise InputError(
            f"{self.place.key(shard.name)}: does not hold {path} where {INDEX} says; pack the set again"
        )


@dataclass(frozen=True, eq=False)
class Index:
    """What `pack.parquet` says: N images, sorted by path.

    Attributes:
        manifest: of the set, as `Samples.table`.
        name: of the set.
        shards: in order.
        shard_mib: that it was packed with.
        paths: (N,) strings.
        contents: (N,) strings, hashes of the images.
        shard: (N,) number of the shard that an image is in.
        offset: (N,) of the image in it.
        size: (N,) of the image, in bytes.
    """

    manifest: pa.Table
    name: str
    shards: tuple[Shard, ...]
    shard_mib: float
    paths: pa.StringArray
    contents: pa.StringArray
    shard: Ints
    offset: Ints
    size: Ints

    def row(self, path: str) -> int | None:
        """Return the row of an image, None where there is none of this path."""
        row = bisect_left(range(len(self.paths)), path, key=lambda at: str(self.paths[at].as_py()))
        return row if row < len(self.paths) and self.paths[row].as_py() == path else None


def is_pack(root: Path | str) -> bool:
    """Whether a root is that of a pack: any URI, and a folder with the index of one."""
    return is_uri(root) or (Path(root).expanduser() / INDEX).is_file()


def open_pack(root: Path | str, *, cache_folder: Path, limit_gib: float, timeout_s: float) -> Samples:
    """Read the manifest of a pack, whose images are fetched when they are asked for.

    Args:
        root: folder, `file://`, `s3://bucket/prefix` or `gs://bucket/prefix`.
        cache_folder: its folder `shards` is where shards are kept on a node.
        limit_gib: that they take together at most; the least recently used go.
        timeout_s: to wait for a piece of a file.

    Raises:
        InputError: there is no pack, it is not one that can be read, or a shard is larger than the limit.
    """
    place = place_of(root)
    data = read_file(place, INDEX, timeout_s)
    if data is None:
        raise InputError(
            f"{place}: there is no {INDEX}, which `raid data pack` writes last: not a (whole) pack"
        )
    cache = ShardCache(cache_folder.absolute() / "shards", int(limit_gib * _GIB), timeout_s)
    pack = Pack(place, hashlib.sha256(data).hexdigest(), cache)
    index = parse_index(place, data)
    largest = max(index.shards, key=lambda shard: shard.bytes)
    if largest.bytes > cache.limit:
        raise InputError(
            f"data.fetch_limit_gib: is {limit_gib:g}, and {place.key(largest.name)} has "
            f"{largest.bytes / _GIB:.3g} GiB; raise it, or pack smaller shards (--shard-mib)"
        )
    _keep(pack, data)
    return Samples(pack, index.manifest, index.name)


def origin_of(samples: Samples) -> dict[str, Any]:
    """Return how the set was read that a pack was made of, by field of section data; none of other sets."""
    return dict(json.loads((samples.table.schema.metadata or {}).get(b"raid.origin", b"{}")))


def _local_index(pack: Pack) -> Path:
    return pack.cache.folder / f"{pack.index}.index"


def _keep(pack: Pack, data: bytes) -> None:
    """Leave the index on this node, for its processes."""
    file = _local_index(pack)
    try:
        if not file.exists() or file.read_bytes() != data:
            with atomic_path(file) as temporary:
                temporary.write_bytes(data)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"data.cache_folder: {file.parent}: {reason}; choose another") from error


@lru_cache(maxsize=4)
def _index(pack: Pack) -> Index:
    """Return the index, read once a process."""
    try:
        data = _local_index(pack).read_bytes()
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != pack.index:
        data = read_file(pack.place, INDEX, pack.cache.timeout_s) or b""
        if hashlib.sha256(data).hexdigest() != pack.index:
            raise InputError(f"{pack.place.key(INDEX)}: has changed since it was first read: packed anew?")
        _keep(pack, data)
    return parse_index(pack.place, data)


def parse_index(place: Place, data: bytes) -> Index:
    """Read the content of a `pack.parquet`, and believe nothing of it.

    Raises:
        InputError: it is none, or its images or shards cannot be where it says.
    """
    name = place.key(INDEX)
    try:
        with pq.ParquetFile(BytesIO(data)) as file:
            table = whole_table(name, file)
        metadata = dict(table.schema.metadata or {})
        record = json.loads(metadata[b"raid.pack"])
        shards = tuple(map(_shard, record["shards"]))
        number, shard_mib = record["format"], float(record["shard_mib"])
        told = [json.loads(metadata.get(key, b"null")) for key in _TOLD]
        location = [_whole(table[column].cast(kind)) for column, kind in LOCATION.items()]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: not the index of a pack: {one_line(error)}") from error
    if not all(isinstance(value, kind) for value, kind in zip(told, _TOLD.values(), strict=True)):
        raise InputError(
            f"{name}: not the index of a pack: {', '.join(map(bytes.decode, _TOLD))} are not there"
        )
    if number != FORMAT:
        raise InputError(f"{name}: of format {number!r}, and this raid reads {FORMAT}: pack the set again")
    manifest = checked(name, table, Path("/"))
    paths = manifest["path"].to_pylist()
    if paths != table["path"].to_pylist() or any(str(path).startswith("/") for path in paths):
        raise InputError(f"{name}: not the index of a pack: its paths are not sorted, or not relative")
    _check_locations(name, shards, *location)
    set_name = metadata.get(b"raid.name", b"pack").decode(errors="replace")
    texts = [cast(pa.StringArray, manifest[column].combine_chunks()) for column in ("path", "content")]
    return Index(manifest, set_name, shards, shard_mib, texts[0], texts[1], *location)


def _shard(record: dict[str, Any]) -> Shard:
    """Read what is said of a shard, whose name and hash become names of files."""
    shard = Shard(record["name"], record["rows"], record["bytes"], record["sha256"])
    if not SHARD_NAME.fullmatch(shard.name):
        raise ValueError(f"a shard cannot be called {shard.name!r}")
    if not _SHA256.fullmatch(shard.sha256):
        raise ValueError(f"{shard.name} has no SHA-256")
    if any(type(number) is not int or number <= 0 for number in (shard.rows, shard.bytes)):
        raise ValueError(f"{shard.name} cannot have {shard.rows!r} rows or {shard.bytes!r} bytes")
    return shard


def _whole(column: "pa.ChunkedArray[Any]") -> Ints:
    if column.null_count:
        raise ValueError("an image has no place")
    return column.to_numpy().astype(np.int64)


def _check_locations(name: str, shards: tuple[Shard, ...], shard: Ints, offset: Ints, size: Ints) -> None:
    rows = [of.rows for of in shards]
    if sum(rows) != len(shard) or not np.array_equal(shard, np.repeat(np.arange(len(rows)), rows)):
        raise InputError(f"{name}: not the index of a pack: its shards do not have the rows that it says")
    most = np.array([of.bytes for of in shards], dtype=np.int64)[shard]
    # No sum, which may overflow.
    if bool(((offset < 0) | (size <= 0) | (size > most) | (offset > most - size)).any()):
        raise InputError(f"{name}: not the index of a pack: an image is outside its shard")
