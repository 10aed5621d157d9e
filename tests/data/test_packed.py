"""Packs that are read: damaged shards are fetched once more, then named; the least recently used go."""

import hashlib
import multiprocessing
import shutil
from pathlib import Path

import packs
import pyarrow.parquet as pq
import pytest
from packs import files_of, images_of, opened, pack, shards_of

from raid.data import packed as packed_module
from raid.data import shard_cache, storage
from raid.data.image_files import read_image
from raid.data.samples import Samples, content_hash
from raid.errors import InputError


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("damaged", "is damaged: its SHA-256"),
        ("truncated", r"is truncated: 1000 of \d+ bytes"),
        ("longer", r"has more bytes than the \d+"),
        ("gone", "there is no such file: the pack is not whole"),
    ],
)
def test_a_shard_that_is_not_whole_is_named(out, cache, fault, said, caplog):
    shard = shards_of(out)[1]
    data = shard.read_bytes()
    match fault:
        case "damaged":
            flip(shard, 500)
        case "truncated":
            shard.write_bytes(data[:1000])
        case "longer":
            shard.write_bytes(data * 2)
        case "gone":
            shard.unlink()
    packed = opened(out, cache)
    with pytest.raises(InputError, match=rf"shard-00001\.parquet: {said}") as raised:
        images_of(packed)
    assert "\n" not in str(raised.value)
    assert ("fetched once more" in caplog.text) == (fault != "gone")
    assert len(list((cache / "shards").glob("*.parquet"))) == 1  # the first, and no rest of the second


def test_a_shard_that_came_damaged_is_fetched_once_more(samples, out, cache, monkeypatch, caplog):
    real, asked = storage.chunks, []

    def faulty(place, name, timeout_s):
        for piece in real(place, name, timeout_s):
            asked.append(name)
            yield piece if len(asked) > 1 else piece[:-1] + b"\0"

    monkeypatch.setattr(shard_cache, "chunks", faulty)
    assert images_of(opened(out, cache)) == files_of(samples)
    assert asked[:2] == ["shard-00000.parquet"] * 2
    assert asked[2:] == [path.name for path in shards_of(out)][1:]
    assert "shard-00000.parquet: is damaged" in caplog.text


@pytest.mark.parametrize("fault", ["damaged", "truncated"])
def test_a_shard_that_spoils_on_this_disk_is_fetched_anew(samples, out, cache, fault, caplog):
    packed = opened(out, cache)
    images_of(packed)
    for shard in (cache / "shards").glob("*.parquet"):
        if fault == "damaged":
            data = bytearray(shard.read_bytes())
            data[: 3 * len(data) // 4] = bytes(3 * len(data) // 4)
            shard.write_bytes(data)
        else:
            shard.write_bytes(shard.read_bytes()[:100])
    assert images_of(packed) == files_of(samples)
    assert caplog.text.count("damaged on this disk; fetched once more") == (
        len(shards_of(out)) if fault == "damaged" else 0
    )


def test_shards_are_fetched_once_and_then_not_asked_for(samples, out, cache):
    packed = opened(out, cache)
    assert images_of(packed) == files_of(samples)
    for shard in shards_of(out):
        shard.unlink()
    assert images_of(opened(out, cache)) == files_of(samples)


def test_the_least_recently_used_shards_go(samples, out, cache):
    sizes = [path.stat().st_size for path in shards_of(out)]
    limit = sum(sorted(sizes)[-2:])
    packed = opened(out, cache, limit / 2**30)
    first = [next(path for path in pq.read_table(shard)["path"].to_pylist()) for shard in shards_of(out)]
    names = {sha256_of(shard): number for number, shard in enumerate(shards_of(out))}

    def kept() -> set[int]:
        return {names[path.stem] for path in (cache / "shards").glob("*.parquet")}

    assert kept() == set()
    for shard, expected in [(0, {0}), (1, {0, 1}), (0, {0, 1}), (2, {0, 2}), (1, {1, 2}), (1, {1, 2})]:
        assert content_hash(read_image(packed.root, first[shard])) in packed.table["content"].to_pylist()
        assert kept() == expected
    assert images_of(packed) == files_of(samples)  # all of them, whatever the room
    assert sum(path.stat().st_size for path in (cache / "shards").glob("*.parquet")) <= limit


def sha256_of(shard: Path) -> str:
    return hashlib.sha256(shard.read_bytes()).hexdigest()


def test_a_shard_larger_than_the_room_is_said_at_once(out, cache):
    with pytest.raises(InputError, match=r"data\.fetch_limit_gib: is 1e-06, and .*shard-0000\d\.parquet has"):
        opened(out, cache, 1e-6)


def test_what_a_killed_process_left_goes(out, cache):
    (cache / "shards").mkdir(parents=True)
    left = cache / "shards" / f".{'0' * 64}.parquet.abc.parquet"
    left.write_bytes(bytes(2**20))
    images_of(opened(out, cache))
    assert not left.exists()


def _reads(packed: Samples, barrier, done) -> None:
    barrier.wait(60)
    done.put([content_hash(image) for image in images_of(packed)])


def test_two_processes_fetch_every_shard_once(samples, out, cache, tmp_path):
    packed = opened(out, cache, timeout_s=30)
    context = multiprocessing.get_context("fork")
    fetched = tmp_path / "fetched"
    real = storage.chunks

    def noting(place, name, timeout_s):
        with fetched.open("a") as log:
            log.write(f"{name}\n")
        yield from real(place, name, timeout_s)

    shard_cache.chunks, barrier, done = noting, context.Barrier(3), context.Queue()
    try:
        readers = [context.Process(target=_reads, args=(packed, barrier, done)) for _ in range(3)]
        for reader in readers:
            reader.start()
        read = [done.get(timeout=60) for _ in readers]
        for reader in readers:
            reader.join(30)
    finally:
        shard_cache.chunks = real
    assert read == [samples.table["content"].to_pylist()] * 3
    assert sorted(fetched.read_text().split()) == [path.name for path in shards_of(out)]


def test_a_node_without_the_index_reads_it_and_refuses_another(samples, out, cache, tmp_path):
    packed = opened(out, cache)
    shutil.rmtree(cache)
    packed_module._index.cache_clear()
    assert images_of(packed) == files_of(samples)
    shutil.rmtree(cache)
    packed_module._index.cache_clear()
    shutil.rmtree(out)
    pack(packs.draw(tmp_path / "other", seed=1), out)
    with pytest.raises(InputError, match=r"out/pack\.parquet: has changed since it was first read"):
        images_of(packed)
