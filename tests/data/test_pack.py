"""Packs in folders: what goes in comes out, and what is damaged, or lies, is named."""

import hashlib
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import packs
import pyarrow.parquet as pq
import pytest
from packs import files_of, forge, images_of, opened, pack, shards_of
from pyarrow import fs

from raid.data import packed as packed_module
from raid.data import packing, shard_cache, storage
from raid.data.check import check
from raid.data.image_files import read_image
from raid.data.images import DecodedImages, open_images
from raid.data.packed import INDEX, is_pack, origin_of
from raid.data.samples import Record, Samples, content_hash
from raid.data.storage import Place, place_of
from raid.errors import InputError


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return packs.draw(tmp_path / "set")


@pytest.fixture
def out(samples: Samples, tmp_path: Path) -> Path:
    assert pack(samples, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_manifest_and_bytes_come_back(samples, out, cache):
    packed = opened(out, cache)
    assert packed.table.equals(samples.table)
    assert (packed.name, packed.facts, packed.camera_names) == (
        samples.name, samples.facts, samples.camera_names,
    )  # fmt: skip
    assert packed.fingerprint() == samples.fingerprint()
    assert origin_of(packed) == packs.ORIGIN
    assert origin_of(samples) == {}
    assert images_of(packed) == files_of(samples)
    assert len(shards_of(out)) > 2
    assert sorted(path.name for path in out.iterdir()) == [INDEX, *(path.name for path in shards_of(out))]
    assert is_pack(out)
    assert not is_pack(samples.root)
    with pytest.raises(InputError, match=r"a pack is its own manifest"):
        packed.write(cache / "manifest.parquet")


def test_shards_are_plain_parquet_with_an_image_a_row(samples, out):
    tables = [pq.read_table(path) for path in shards_of(out)]
    assert tables[0].column_names == [
        "path", "identity", "camera", "split", "width", "height", "content", "image",
    ]  # fmt: skip
    assert str(tables[0].schema.field("image").type) == "large_binary"
    assert [path for table in tables for path in table["path"].to_pylist()] == samples.paths
    assert [image for table in tables for image in table["image"].to_pylist()] == files_of(samples)
    sizes = [sum(map(len, table["image"].to_pylist())) for table in tables]
    assert max(sizes) <= 0.02 * 2**20
    assert min(size + len(files_of(samples)[0]) for size in sizes[:-1]) > 0.02 * 2**20 - 5000


def test_the_same_set_gives_the_same_bytes_wherever_it_is(samples, out, tmp_path):
    other = packs.draw(tmp_path / "elsewhere" / "copy")
    pack(other, f"file://{tmp_path}/second")
    assert contents(tmp_path / "second") == contents(out)


def test_a_pack_of_a_pack_is_of_the_first_sets_origin(samples, out, tmp_path, cache):
    packing.pack(opened(out, cache), tmp_path / "again", origin={"layout": "pack"}, shard_mib=1)
    again = opened(tmp_path / "again", cache)
    assert len(shards_of(tmp_path / "again")) == 1
    assert origin_of(again) == packs.ORIGIN
    assert images_of(again) == files_of(samples)


def test_a_set_of_which_nothing_more_is_known_is_packed(samples, tmp_path, cache):
    bare = replace(samples, table=samples.table.replace_schema_metadata(None))
    pack(bare, tmp_path / "out")
    packed = opened(tmp_path / "out", cache)
    assert (packed.facts, packed.camera_names) == ({}, ())
    assert pack(bare, tmp_path / "out", resume=True) is False


def test_many_row_groups_and_an_image_larger_than_a_shard(tmp_path, cache):
    samples = packs.draw(tmp_path / "many", 150, side=3)
    samples = Samples.scan(
        samples.root,
        [
            *(record_of(samples, row) for row in range(len(samples))),
            record_of(packs.draw(tmp_path / "many" / "large", 1, side=230), 0, "large/"),
        ],
        name="many",
    )
    pack(samples, tmp_path / "out", 0.14)
    tables = [pq.ParquetFile(path) for path in shards_of(tmp_path / "out")]
    assert [table.metadata.num_rows for table in tables] == [1, 150]
    assert tables[1].num_row_groups == 3
    assert images_of(opened(tmp_path / "out", cache)) == files_of(samples)


def record_of(samples: Samples, row: int, below: str = "") -> Record:
    return Record(below + samples.paths[row], None, None, "train")


def test_decoded_images_are_equal_bit_for_bit_cached_and_on_the_fly(samples, out, cache):
    packed = opened(out, cache)
    _, files = open_images(samples, height=16, width=8, cache_folder=cache / "a")
    _, cached = open_images(packed, height=16, width=8, cache_folder=cache / "b")
    _, fly = open_images(packed, height=16, width=8, cache_folder=cache / "c", cache_limit_gib=0)
    assert isinstance(fly, DecodedImages)
    rows = list(range(len(samples)))[::-1]
    for images in (cached, fly, pickle.loads(pickle.dumps(fly))):
        assert images.gather(rows).equal(files.gather(rows))
    assert {path.name for path in (cache / "a").iterdir()} == {
        path.name for path in (cache / "b").glob("*.*")
    }  # which both may take of the other


def test_check_finds_the_same_in_the_pack(samples, out, cache):
    of_files, of_pack = check(samples), check(opened(out, cache))
    assert of_pack.fingerprint == of_files.fingerprint
    assert of_pack.findings == of_files.findings
    assert of_pack.root == str(out)


# Packing: what is in OUT


def test_what_is_there_is_refused_or_gone_on_with(samples, out, tmp_path, monkeypatch):
    before = contents(out)
    with pytest.raises(InputError, match=r"out: holds pack.parquet and \d more; .* --resume"):
        pack(samples, out)
    monkeypatch.setattr(packing, "put", None)  # nothing is written
    assert pack(samples, out, resume=True) is False
    assert contents(out) == before
    with pytest.raises(InputError, match="out: holds the pack of other images"):
        pack(packs.draw(tmp_path / "other", seed=1), out, resume=True)
    with pytest.raises(InputError, match="shards of another size"):
        pack(samples, out, 2, resume=True)
    assert contents(out) == before


def test_a_pack_that_was_broken_off_is_none_and_is_gone_on_with(samples, out, tmp_path, cache, monkeypatch):
    whole, written = contents(out), []
    put = packing.put

    def dying(place: Place, name: str, file: Path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(name)
        put(place, name, file)

    monkeypatch.setattr(packing, "put", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(samples, tmp_path / "half")
    with pytest.raises(InputError, match=r"half: there is no pack\.parquet, which .* writes last"):
        opened(tmp_path / "half", cache)
    written = [""] * 3

    def noting(place: Place, name: str, file: Path) -> None:
        written.append(name)
        put(place, name, file)

    monkeypatch.setattr(packing, "put", noting)
    assert pack(samples, tmp_path / "half", resume=True)
    assert written[3:] == [*(path.name for path in shards_of(out)[2:]), INDEX]
    assert contents(tmp_path / "half") == whole


@pytest.mark.parametrize("fault", ["damaged", "truncated", "empty", "of another size", "too many"])
def test_going_on_writes_again_what_is_not_right(samples, out, fault, caplog):
    whole = contents(out)
    (out / INDEX).unlink()
    shard = shards_of(out)[1]
    data = bytearray(shard.read_bytes())
    if fault == "damaged":
        data[len(data) // 3] ^= 1
    shard.write_bytes(data[: {"truncated": 4000, "empty": 0}.get(fault, len(data))])
    if fault == "of another size":
        shutil.rmtree(out)
        pack(samples, out, 0.04)
        (out / INDEX).unlink()
    elif fault == "too many":
        shutil.copy(shard, out / "shard-00099.parquet")
    assert pack(samples, out, resume=True)
    assert contents(out) == whole


def test_a_folder_of_something_else_is_left_alone(samples, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"mine: holds thesis\.txt"):
            pack(samples, tmp_path / "mine", resume=resume)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"x"}


def test_an_image_that_changed_or_went_is_named_and_there_is_no_pack(samples, tmp_path):
    image = samples.root / samples.paths[-1]
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(InputError, match=rf"{image}: has changed since the manifest was made"):
        pack(samples, tmp_path / "out")
    image.unlink()
    with pytest.raises(InputError, match=rf"{image}: No such file"):
        pack(samples, tmp_path / "out", resume=True)
    assert not is_pack(tmp_path / "out")


# Reading: what may be wrong


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


# An index that lies


def first_shard(**values):
    return lambda record: record["shards"][0].update(values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first_shard(name="../shard-00000.parquet"), "a shard cannot be called '../shard"),
        (first_shard(name="/etc/passwd"), "a shard cannot be called '/etc/passwd'"),
        (first_shard(name="shard-00000.parquet\n"), "a shard cannot be called"),
        (first_shard(name=3), "not the index of a pack"),
        (first_shard(sha256="../../" + "0" * 58), "has no SHA-256"),
        (first_shard(bytes=-1), "cannot have"),
        (first_shard(bytes=True), "cannot have"),
        (first_shard(bytes=1e9), "cannot have"),
        (first_shard(bytes=10), "an image is outside its shard"),
        (first_shard(rows=10**15), "do not have the rows"),
        (first_shard(rows=1), "do not have the rows"),
        (lambda record: record["shards"].pop(), "do not have the rows"),
        (lambda record: record["shards"].clear(), "do not have the rows"),
        (lambda record: record.update(shards=None), "not the index of a pack"),
        (lambda record: record.update(format=2), "of format 2, and this raid reads 1"),
    ],
)
def test_a_hostile_record_of_the_shards_is_refused(out, cache, change, said):
    forge(out, change)
    with pytest.raises(InputError, match=said) as raised:
        opened(out, cache)
    assert str(raised.value).startswith(f"{out}/pack.parquet: ")
    assert "\n" not in str(raised.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"path": ["../../x.png"]}, "is not a file inside"),
        ({"path": ["/etc/passwd"]}, "not relative"),
        ({"path": ["zzz.png"]}, "not sorted"),
        ({"offset": [-4]}, "outside its shard"),
        ({"offset": [2**62]}, "outside its shard"),
        ({"size": [2**63 - 1]}, "outside its shard"),
        ({"size": [0]}, "outside its shard"),
        ({"shard": [1]}, "do not have the rows"),
        ({"shard": [-1]}, "do not have the rows"),
        ({"split": ["test"]}, "column split has 'test'"),
    ],
)
def test_a_hostile_column_of_the_index_is_refused(out, cache, columns, said):
    ((name, (value,)),) = columns.items()
    forge(out, **{name: [value, *pq.read_table(out / INDEX)[name].to_pylist()[1:]]})
    with pytest.raises(InputError, match=said) as raised:
        opened(out, cache)
    assert "\n" not in str(raised.value)


def test_an_image_that_begins_in_its_shard_and_ends_behind_it_is_refused(out, cache):
    table = pq.read_table(out / INDEX)
    last = sum(shard == 0 for shard in table["shard"].to_pylist()) - 1
    size = shards_of(out)[0].stat().st_size
    for behind in (0, 1):
        offsets = table["offset"].to_pylist()
        offsets[last] = size - table["size"].to_pylist()[last] + behind
        forge(out, offset=offsets)
        if behind:
            with pytest.raises(InputError, match="outside its shard"):
                opened(out, cache)
        else:
            opened(out, cache)


@pytest.mark.parametrize("column", ["offset", "size", "content"])
def test_an_image_that_is_elsewhere_in_its_shard_is_refused(out, cache, column, caplog):
    values = pq.read_table(out / INDEX)[column].to_pylist()
    values[0] = values[1] if column == "content" else values[0] - 1
    forge(out, **{column: values})
    with pytest.raises(InputError, match=r"shard-00000\.parquet: does not hold query/000\.png where"):
        images_of(opened(out, cache))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"{}" * 50])
def test_an_index_that_is_no_parquet_is_refused(out, cache, content):
    (out / INDEX).write_bytes(content)
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack"):
        opened(out, cache)


@pytest.mark.parametrize("value", [b"[1, 2]", b"3", b"{", b"\xff"])
def test_an_origin_that_is_none_is_refused(out, cache, value):
    table = pq.read_table(out / INDEX)
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"raid.origin": value}), out / INDEX
    )
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack: "):
        opened(out, cache)


def test_a_manifest_is_not_an_index(samples, out, cache):
    samples.write(out / INDEX)
    with pytest.raises(InputError, match=r"pack\.parquet: not the index of a pack"):
        opened(out, cache)


# Places


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://people/sets/market", Place("s3", "people/sets/market")),
        ("s3://people/", Place("s3", "people")),
        ("gs://people/x", Place("gs", "people/x")),
        ("file:///data/my%20set", Place("file", "/data/my set")),
        ("file://localhost/data", Place("file", "/data")),
        (Path("/data/x"), Place("file", "/data/x")),
        ("~/x", Place("file", os.path.expanduser("~/x"))),
    ],
)
def test_places(text, place):
    assert place_of(text) == place
    assert place_of(str(place)) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "wanted s3://BUCKET/PREFIX"),
        ("s3:///x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people//x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people/../x", "wanted s3://BUCKET/PREFIX"),
        ("s3://people/x?region=eu", r"AWS_REGION"),
        ("http://people/x", "http:// cannot be read"),
        ("file://people/x", "wanted file:///FOLDER"),
    ],
)
def test_what_is_no_place_is_said(text, said):
    with pytest.raises(InputError, match=said):
        place_of(text)


def test_credentials_in_a_uri_are_refused_and_not_shown():
    with pytest.raises(InputError, match="credentials do not belong into a URI") as raised:
        place_of("s3://AKIA:secret@people/x")
    assert "secret" not in str(raised.value)
    assert "AKIA" not in str(raised.value)


def test_an_unwritable_cache_is_named(out, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"data\.cache_folder: .*file/shards: .*; choose another"):
        opened(out, tmp_path / "file")


def test_connections_are_tried_again_and_refusals_are_not(monkeypatch, caplog):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.0, 0.0))
    asked = []

    def failing(message):
        def action():
            asked.append(message)
            raise OSError(message)

        return action

    place = Place("s3", "people/set")
    with pytest.raises(InputError, match=r"s3://people/set/a\.parquet: no connection to the storage .*AWS"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error NETWORK_CONNECTION during GetObject"))
    assert len(asked) == 3
    assert caplog.text.count("s3://people/set/a.parquet") == 2
    asked.clear()
    with pytest.raises(InputError, match="the storage refuses the credentials"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error ACCESS_DENIED during GetObject"))
    with pytest.raises(InputError, match="set AWS_REGION"):
        storage._tried(place, "a.parquet", 5.0, failing("AWS Error UNKNOWN (HTTP status 301) during"))
    assert len(asked) == 2


def test_google_storage_is_asked_through_pyarrow_and_does_not_go_on_for_ever(cache, monkeypatch):
    """No network: a port of this machine at which nobody listens."""
    real, made = fs.GcsFileSystem, []

    def nearby(**options):
        made.append(options)
        options["retry_time_limit"] = timedelta(seconds=1)
        return real(anonymous=True, scheme="http", endpoint_override="127.0.0.1:9", **options)

    monkeypatch.setattr(storage.fs, "GcsFileSystem", nearby)
    storage._filesystem.cache_clear()
    try:
        with pytest.raises(InputError, match=r"gs://people/set/pack\.parquet: no connection to the storage"):
            opened("gs://people/set", cache)
    finally:
        storage._filesystem.cache_clear()
    assert made[0]["retry_time_limit"] <= timedelta(seconds=30)
