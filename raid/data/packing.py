"""Pack a set: its images into Parquet shards, its manifest into their index, deterministic to the byte."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raid.data.image_files import read_unchanged
from raid.data.packed import FORMAT, INDEX, LOCATION, SHARD_NAME, origin_of, parse_index
from raid.data.samples import NUM_THREADS, Samples, content_hash, progress
from raid.data.shard_cache import Shard
from raid.data.storage import Place, chunks, names, place_of, put, read_file, remove
from raid.errors import InputError

logger = logging.getLogger(__name__)

SHARD_MIB = 256
_GROUP_ROWS, _GROUP_BYTES = 64, 8 * 2**20  # of a row group: what is in memory at once
_LARGEST_IMAGE = 2**30  # a page of Parquet cannot hold 2 GiB
_MIB = 2**20


@dataclass(frozen=True)
class Written:
    """A shard in its place, and where in it its images are: (rows,) int64 each."""

    shard: Shard
    offsets: list[int]
    sizes: list[int]


def pack(
    samples: Samples,
    out: Path | str,
    *,
    origin: Mapping[str, Any],
    shard_mib: float = SHARD_MIB,
    resume: bool = False,
) -> bool:
    """Write the images of a set and their manifest to a folder or to object storage.

    The index comes last, so that a pack which was not finished is none. In memory is a row group at a time; a
    shard is made in the folder for temporary files.

    Args:
        samples: the set.
        out: folder, or `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///folder`.
        origin: how the set was read, by field of section data.
        shard_mib: MiB of images in a shard; a larger image has one to itself.
        resume: go on with what is in `out`.

    Returns:
        False where `out` held the whole pack of this set already.

    Raises:
        InputError: something is in `out` (with `resume`: something other than this pack), an image cannot be
            read or has changed since the manifest was made, or `out` cannot be written.
    """
    place = place_of(out)
    found = names(place)
    if found and not resume:
        raise InputError(
            f"{place}: holds {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}; choose "
            "another, or go on with a pack of the same set by --resume"
        )
    metadata = _metadata(samples, origin)
    if INDEX in found:
        _check_same(place, samples, metadata, shard_mib)
        return False
    strange = [name for name in found if not SHARD_NAME.fullmatch(name)]
    if strange:
        raise InputError(f"{place}: holds {strange[0]}, which is not of a pack; choose another")
    with tempfile.TemporaryDirectory(prefix="raid-pack-") as folder:
        written = list(_shards(samples, place, shard_mib, set(found), Path(folder)))
        for name in sorted(set(found) - {of.shard.name for of in written}):
            remove(place, name)  # of another number of MiB
        file = Path(folder) / INDEX
        _write_index(file, samples, metadata, written, shard_mib)
        put(place, INDEX, file)
    return True


def _shards(
    samples: Samples, place: Place, shard_mib: float, found: set[str], folder: Path
) -> Iterator[Written]:
    """Yield the shards in order; one that is in its place already, and whole, is taken as it is."""
    start, number, file = 0, 0, folder / "shard.parquet"
    bar = progress(range(len(samples)), len(samples), f"packing {samples.name}")
    while start < len(samples):
        name = f"shard-{number:05d}.parquet"
        written = None
        if name in found:
            written = _taken(samples, start, place, name, shard_mib, file)
        if written is None:
            _write(samples, start, shard_mib, file)
            written = _located(samples, start, name, file)
            assert written is not None, "what was written is not what was read"
            put(place, name, file)
        yield written
        for _ in range(written.shard.rows):
            next(bar)
        start, number = start + written.shard.rows, number + 1
    next(bar, None)


def _write(samples: Samples, start: int, shard_mib: float, file: Path) -> None:
    """Write the images from row `start` into a shard, until it is full."""
    of_set = samples.table.schema.remove_metadata()
    schema = of_set.append(pa.field("image", pa.large_binary(), False))
    # For a shard that is found again: it is of this size, and begins at this row.
    schema = schema.with_metadata({"raid.shard": _shard_metadata(start, shard_mib)})
    with pq.ParquetWriter(
        file,
        schema,
        compression="none",  # of what is compressed already; and an image can be read at its offset
        use_dictionary=False,
        write_statistics=False,
        data_page_size=2**31 - 1,  # a page a row group
    ) as writer:
        for row, images in _groups(samples, start, shard_mib * _MIB):
            group = samples.table.slice(row, len(images)).replace_schema_metadata(None)
            column = pa.array(images, pa.large_binary())
            table = group.append_column(schema.field("image"), column).replace_schema_metadata(
                schema.metadata
            )
            writer.write_table(table, row_group_size=len(images))


def _shard_metadata(start: int, shard_mib: float) -> str:
    return json.dumps({"format": FORMAT, "start": start, "shard_mib": shard_mib})


def _groups(samples: Samples, start: int, limit: float) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the row groups of one shard: first row, and images."""
    group: list[bytes] = []
    held = total = 0
    for row, image in enumerate(_images(samples, start), start):
        full = total + len(image) > limit and total > 0
        if group and (full or len(group) == _GROUP_ROWS or held + len(image) > _GROUP_BYTES):
            yield row - len(group), group
            group, held = [], 0
        if full:
            return
        group.append(image)
        held, total = held + len(image), total + len(image)
    yield len(samples) - len(group), group


def _images(samples: Samples, start: int) -> Iterator[bytes]:
    """Yield the bytes of the images from row `start`, read some at a time."""
    paths, contents = samples.paths[start:], samples.table["content"][start:].to_pylist()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for first in range(0, len(paths), NUM_THREADS):
            some = slice(first, first + NUM_THREADS)
            images = pool.map(partial(read_unchanged, samples.root), paths[some], contents[some])
            for path, image in zip(paths[some], images, strict=True):
                if len(image) > _LARGEST_IMAGE:
                    raise InputError(
                        f"{samples.root}/{path}: has {len(image)} bytes; a pack takes up to 2^30"
                    )
                yield image


def _located(samples: Samples, start: int, name: str, file: Path) -> Written | None:
    """Find the images in a shard; None where they are not those of the rows from `start`."""
    contents = samples.table["content"]
    offsets: list[int] = []
    sizes: list[int] = []
    with pq.ParquetFile(file) as shard, file.open("rb") as raw:
        for number in range(shard.num_row_groups):
            images = shard.read_row_group(number, columns=["image"])["image"]
            chunk = shard.metadata.row_group(number).column(shard.schema_arrow.get_field_index("image"))
            within = [4 + len(image.as_buffer()) for image in images]  # 4 bytes before each say its length
            end = chunk.data_page_offset + chunk.total_compressed_size
            begin = end - sum(within)
            ends = (begin + np.cumsum(within)).tolist()
            sizes += [size - 4 for size in within]
            offsets += [stop - size + 4 for stop, size in zip(ends, within, strict=True)]
        if not 0 < len(sizes) <= len(samples) - start:
            return None
        for row, (offset, size) in enumerate(zip(offsets, sizes, strict=True), start):
            raw.seek(offset)
            if content_hash(raw.read(size)) != contents[row].as_py():
                return None
    with file.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    return Written(Shard(name, len(sizes), file.stat().st_size, digest), offsets, sizes)


def _taken(
    samples: Samples, start: int, place: Place, name: str, shard_mib: float, file: Path
) -> Written | None:
    """Look at a shard that an earlier packing left; None where it has to be written again."""
    with file.open("wb") as copy:
        for piece in chunks(place, name):
            copy.write(piece)
    try:
        metadata = pq.read_schema(file).metadata or {}
        if metadata.get(b"raid.shard") != _shard_metadata(start, shard_mib).encode():
            return None
        return _located(samples, start, name, file)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        logger.warning("%s: is not whole; written again", place.key(name))
        return None


def _metadata(samples: Samples, origin: Mapping[str, Any]) -> dict[bytes, bytes]:
    of_table = samples.table.schema.metadata or {}
    return {
        b"raid.camera_names": of_table.get(b"raid.camera_names", b"[]"),
        b"raid.facts": of_table.get(b"raid.facts", b"{}"),
        b"raid.name": samples.name.encode(),
        # That of a pack stays: it says how its images were named, too.
        b"raid.origin": json.dumps(dict(origin_of(samples) or origin), sort_keys=True).encode(),
    }


def _write_index(
    file: Path,
    samples: Samples,
    metadata: dict[bytes, bytes],
    written: Sequence[Written],
    shard_mib: float,
) -> None:
    table = samples.table
    rows = [of.shard.rows for of in written]
    columns: list[Any] = [
        np.repeat(np.arange(len(written)), rows),
        [offset for of in written for offset in of.offsets],
        [size for of in written for size in of.sizes],
    ]
    for (name, kind), values in zip(LOCATION.items(), columns, strict=True):
        table = table.append_column(pa.field(name, kind, False), pa.array(values, kind))
    record = {"format": FORMAT, "shard_mib": shard_mib, "shards": [asdict(of.shard) for of in written]}
    of_pack = {b"raid.pack": json.dumps(record, sort_keys=True).encode()}
    pq.write_table(table.combine_chunks().replace_schema_metadata(metadata | of_pack), file)


def _check_same(place: Place, samples: Samples, metadata: dict[bytes, bytes], shard_mib: float) -> None:
    """Refuse a whole pack that is another's."""
    index = parse_index(place, read_file(place, INDEX) or b"")
    own = samples.table.replace_schema_metadata(metadata)
    there = dict(index.manifest.schema.metadata or {})
    there.pop(b"raid.pack", None)
    if not (index.manifest.equals(own) and there == metadata and index.shard_mib == shard_mib):
        raise InputError(
            f"{place}: holds the pack of other images, or one in shards of another size ({index.shard_mib:g} "
            "MiB); choose another"
        )
