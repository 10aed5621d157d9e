import logging
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raid.data import samples as samples_module
from raid.data.manifest import relative_path
from raid.data.samples import Record, Samples, content_hash, relabel
from raid.errors import InputError


def draw(path: Path, size: tuple[int, int] = (6, 9), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(["b.png", "a/z.png", "a/y.png", "c.png"]):
        draw(tmp_path / "set" / name, size=(4 + seed, 9), seed=seed)
    return tmp_path / "set"


def records() -> list[Record]:
    return [
        Record("b.png", 7, 0, "train"),
        Record("a/z.png", None, 1, "gallery"),
        Record("a/y.png", -1, 2, "gallery"),
        Record("c.png", 7, 1, "query"),
    ]


def scanned(root: Path) -> Samples:
    return Samples.scan(root, records(), name="tiny", camera_names=["x", "y", "z"], facts={"version": "V2"})


def test_scan_sorts_by_path_and_reads_every_file(root: Path) -> None:
    samples = scanned(root)
    assert samples.paths == ["a/y.png", "a/z.png", "b.png", "c.png"]
    np.testing.assert_array_equal(samples.identities, [-1, -1, 7, 7])
    np.testing.assert_array_equal(samples.cameras, [2, 1, 0, 1])
    assert samples.identities.dtype == samples.cameras.dtype == np.int64
    assert samples.table["identity"].null_count == 1
    assert samples.table["width"].to_pylist() == [6, 5, 4, 7]
    assert samples.table["height"].to_pylist() == [9] * 4
    assert samples.table["content"].to_pylist() == [
        content_hash((root / p).read_bytes()) for p in samples.paths
    ]
    assert len(content_hash(b"")) == 32
    assert samples.splits == ("train", "query", "gallery")
    assert samples.camera_names == ("x", "y", "z")
    assert samples.has_cameras
    assert len(samples) == 4


def test_a_scan_may_leave_the_files_unread(tmp_path: Path) -> None:
    samples = Samples.scan(tmp_path / "nowhere", records(), name="tiny", on_error="unread")
    assert samples.paths == ["a/y.png", "a/z.png", "b.png", "c.png"]
    np.testing.assert_array_equal(samples.identities, [-1, -1, 7, 7])
    assert samples.table["content"].to_pylist() == [""] * 4
    assert samples.table["width"].to_pylist() == samples.table["height"].to_pylist() == [0] * 4


def test_split_and_take(root: Path) -> None:
    samples = scanned(root)
    gallery = samples.split("gallery")
    assert gallery.paths == ["a/y.png", "a/z.png"]
    assert gallery.splits == ("gallery",)
    assert gallery.camera_names == ("x", "y", "z")
    assert samples.take(np.array([3, 0])).paths == ["c.png", "a/y.png"]
    assert len(samples.take([])) == 0
    assert len(gallery.split("train")) == 0


def test_one_unknown_camera_means_no_cameras(root: Path) -> None:
    samples = Samples.scan(
        root, [Record("b.png", 1, None, "train"), Record("c.png", 1, 0, "train")], name="t"
    )
    assert not samples.has_cameras
    assert samples.take([1]).has_cameras


def test_parquet_round_trip(root: Path, tmp_path: Path) -> None:
    samples = scanned(root)
    file = tmp_path / "split=train" / "manifest.parquet"  # a folder that looks like a partition
    samples.write(file)
    again = Samples.read(file)
    assert again.table.equals(samples.table)
    assert (again.root, again.name, again.camera_names) == (root, "tiny", ("x", "y", "z"))
    assert again.facts == again.split("train").facts == {"version": "V2"}
    assert again.fingerprint() == samples.fingerprint()
    assert Samples.read(file, tmp_path).root == tmp_path
    assert [p.name for p in file.parent.iterdir()] == ["manifest.parquet"]


def test_fingerprint_follows_rows_and_not_the_place(root: Path, tmp_path: Path) -> None:
    samples = scanned(root)
    moved = tmp_path / "moved"
    root.rename(moved)
    assert scanned(moved).fingerprint() == samples.fingerprint()
    seen = {samples.fingerprint(), samples.take([1, 0, 2, 3]).fingerprint()}
    for change in (
        Record("b.png", 8, 0, "train"),
        Record("b.png", 7, 1, "train"),
        Record("b.png", 7, 0, "query"),
        Record("b.png", None, 0, "train"),
    ):
        seen.add(Samples.scan(moved, [change, *records()[1:]], name="tiny").fingerprint())
    draw(moved / "b.png", size=(4, 9), seed=99)
    seen.add(scanned(moved).fingerprint())
    assert len(seen) == 7


def test_unreadable_files_stop_and_are_named(root: Path) -> None:
    (root / "a/y.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a/y\.png: is empty.*on_error=skip") as raised:
        scanned(root)
    assert "\n" not in str(raised.value)
    (root / "a/y.png").write_text("not an image")
    (root / "c.png").unlink()
    with pytest.raises(InputError, match=r"a/y\.png: is not an image.*\(and 1 more\)"):
        scanned(root)


def test_unreadable_files_are_skipped_with_a_count(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "a/y.png").write_bytes(b"")
    (root / "c.png").write_text("text")
    with caplog.at_level(logging.WARNING):
        samples = Samples.scan(root, records(), name="tiny", on_error="skip")
    assert samples.paths == ["a/z.png", "b.png"]
    np.testing.assert_array_equal(samples.cameras, [1, 0])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "left out 2 of 4" in message
    assert "a/y.png" in message
    for path in samples.paths:
        (root / path).write_bytes(b"")
    with pytest.raises(InputError, match="none of the 4 images"):
        Samples.scan(root, records(), name="tiny", on_error="skip")


def test_scan_refuses_none_doubles_and_escapes(root: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        Samples.scan(root, [], name="t")
    with pytest.raises(InputError, match=r"b\.png is listed 2 times"):
        Samples.scan(root, [records()[0], records()[0]], name="t")
    with pytest.raises(InputError, match="not a file inside"):
        Samples.scan(root, [Record("../b.png", 0, 0, "train")], name="t")
    with pytest.raises(InputError, match="not UTF-8"):
        Samples.scan(root, [Record("b\udcff.png", 0, 0, "train")], name="t")


def test_scan_uses_the_threads_it_was_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=20)  # passes only when two files are read at a time
    read = samples_module._read_header

    def meet(file: Path) -> object:
        both.wait()
        return read(file)

    monkeypatch.setattr(samples_module, "_read_header", meet)
    assert len(Samples.scan(root, records(), name="t", num_threads=2)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(["content", "split"]), "lacks split, content"),
        (lambda t: t.set_column(1, "identity", pa.array(["a", "b", "c", "d"])), "not a manifest"),
        (lambda t: t.set_column(3, "split", pa.array(["train", "val", "train", "train"])), "'val'"),
        (lambda t: t.set_column(3, "split", pa.array(["train", None, "train", "train"])), "manifest|split"),
        (lambda t: t.set_column(0, "path", pa.array(["a", "b", "b", "c"])), "twice"),
        (lambda t: t.set_column(0, "path", pa.array(["a", "b", "../c", "d"])), "not a file inside"),
    ],
)
def test_read_refuses_other_tables(root: Path, tmp_path: Path, change, message: str) -> None:
    file = tmp_path / "other.parquet"
    pq.write_table(
        change(
            scanned(root).table.cast(pa.schema([f.with_nullable(True) for f in scanned(root).table.schema]))
        ),
        file,
    )
    with pytest.raises(InputError, match=message) as raised:
        Samples.read(file)
    assert "\n" not in str(raised.value)


def test_read_refuses_what_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Samples.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("path,identity")
    with pytest.raises(InputError, match="not a Parquet file"):
        Samples.read(tmp_path / "text.parquet")


def test_read_takes_another_programs_manifest(root: Path) -> None:
    """Without metadata the root is the manifest's folder; narrow types widen; unsorted rows are sorted."""
    table = scanned(root).table.take([2, 0, 3, 1]).replace_schema_metadata(None)
    table = table.set_column(2, "camera", table["camera"].cast(pa.int8()))
    pq.write_table(table, root / "m.parquet")
    samples = Samples.read(root / "m.parquet")
    assert samples.paths == scanned(root).paths
    assert samples.root == root
    assert samples.name == "m"
    assert samples.camera_names == ()
    assert samples.fingerprint() == scanned(root).fingerprint()


def test_relabel() -> None:
    np.testing.assert_array_equal(relabel(np.array([30, -1, 0, 30, 7, -2])), [2, -1, 0, 2, 1, -1])
    assert relabel(np.array([5])).dtype == np.int64
    assert len(relabel(np.array([], dtype=np.int64))) == 0


def test_relative_path(tmp_path: Path) -> None:
    assert relative_path(tmp_path, "a/./b/../c.jpg") == "a/c.jpg"
    assert relative_path(tmp_path, f"{tmp_path}/a.jpg") == "a.jpg"
    for path in ("../a.jpg", "a/../../b.jpg", "/etc/passwd", ".", f"{tmp_path}-other/a.jpg"):
        with pytest.raises(InputError, match="not a file inside"):
            relative_path(tmp_path, path)
    assert relative_path(tmp_path, "..a.jpg") == "..a.jpg"
