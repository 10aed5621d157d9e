"""Packed sets, shared by the tests: small pictures, in shards of so few that there are several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from raid.data import packing
from raid.data.packed import INDEX, open_pack
from raid.data.samples import Record, Samples

ORIGIN = {"layout": "folder", "pattern": "x"}


def draw(root: Path, number: int = 9, *, side: int = 40, seed: int = 0) -> Samples:
    """Write PNG files of noise (some kB each) and read them; identities and cameras are not all known."""
    rng, records = np.random.default_rng(seed), []
    for image in range(number):
        path = f"{'train' if image % 3 else 'query'}/{image:03d}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side + image, side, 3), dtype=np.uint8)).save(root / path)
        identity = None if image == 1 else image % 4 - 1
        records.append(Record(path, identity, None if image == 2 else image % 2, path.split("/")[0]))
    facts = {"version": "2", "protocol": "standard"}
    return Samples.scan(root, records, name="made up/1", camera_names=["left", "right"], facts=facts)


def pack(samples: Samples, out: Path | str, shard_mib: float = 0.02, **how: Any) -> bool:
    """Pack in shards of some images each."""
    return packing.pack(samples, out, origin=ORIGIN, shard_mib=shard_mib, **how)


def opened(root: Path | str, cache: Path, limit_gib: float = 1.0, timeout_s: float = 20.0) -> Samples:
    return open_pack(root, cache_folder=cache, limit_gib=limit_gib, timeout_s=timeout_s)


def images_of(samples: Samples) -> list[bytes]:
    return [samples.root.read(path) for path in samples.paths]


def files_of(samples: Samples) -> list[bytes]:
    return [(samples.root / path).read_bytes() for path in samples.paths]


def shards_of(out: Path) -> list[Path]:
    return sorted(out.glob("shard-*.parquet"))


def forge(
    out: Path, change: Callable[[dict[str, Any]], object] = lambda record: None, **columns: Any
) -> None:
    """Write the index anew with a changed record of the shards, or with other columns."""
    table = pq.read_table(out / INDEX)
    metadata = dict(table.schema.metadata)
    record = json.loads(metadata[b"raid.pack"])
    change(record)
    for name, values in columns.items():
        field = table.schema.field(name)
        array = type(table[name].combine_chunks()).from_pandas(values, type=field.type)
        table = table.set_column(table.column_names.index(name), field, array)
    table = table.replace_schema_metadata(metadata | {b"raid.pack": json.dumps(record).encode()})
    pq.write_table(table, out / INDEX)
