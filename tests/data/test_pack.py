"""Packs in folders: what goes in comes out, and what is damaged, or lies, is named."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import packs
import pyarrow.parquet as pq
import pytest
from packs import files_of, images_of, opened, pack, shards_of

from raid.data import packing
from raid.data.check import check
from raid.data.images import DecodedImages, open_images
from raid.data.packed import INDEX, is_pack, origin_of
from raid.data.samples import Record, Samples
from raid.data.storage import Place
from raid.errors import InputError


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
