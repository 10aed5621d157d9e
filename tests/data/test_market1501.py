import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raid.data import market1501
from raid.errors import InputError

FILES = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c6s1_000001_01.jpg", "-1_c1s1_000001_00.jpg"],
    "query": ["0007_c3s3_077419_00.jpg"],
    "bounding_box_test": ["-1_c1s1_000401_03.jpg", "0000_c2s1_000151_01.jpg", "0007_c1s6_028546_01.jpg.jpg"],
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "data" / market1501.ARCHIVE
    for number, (folder, names) in enumerate(FILES.items()):
        (base / folder).mkdir(parents=True)
        for place, name in enumerate(names):
            Image.new("RGB", (4, 8), (number, place, 0)).save(base / folder / name)
        (base / folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (base / folder / "._0002_c1s1_000451_03.jpg").write_bytes(b"AppleDouble")
        (base / folder / "notes.txt").write_text("x")
    return base


def test_reads_splits_identities_and_cameras(base: Path) -> None:
    samples = market1501.load(base)
    assert samples.paths == sorted(
        f"{folder}/{name}"
        for folder, names in FILES.items()
        for name in names
        if "train/-1" not in f"{folder[-5:]}/{name}"
    )
    train, query, gallery = (samples.split(name) for name in ("train", "query", "gallery"))
    np.testing.assert_array_equal(train.identities, [2, 2])
    np.testing.assert_array_equal(train.cameras, [0, 5])
    np.testing.assert_array_equal(query.identities, [7])
    np.testing.assert_array_equal(query.cameras, [2])
    np.testing.assert_array_equal(gallery.identities, [-1, 0, 7])
    np.testing.assert_array_equal(gallery.cameras, [0, 1, 0])
    assert gallery.table["identity"].null_count == 0
    assert samples.has_cameras
    assert samples.camera_names == ("1", "2", "3", "4", "5", "6")
    assert samples.name == "market1501"


def test_the_parent_gives_the_same_set(base: Path) -> None:
    inner, outer = market1501.load(base), market1501.load(base.parent)
    assert outer.fingerprint() == inner.fingerprint()
    assert outer.root == base


def test_two_digit_cameras_are_read_whole(base: Path) -> None:
    name = "0001_c15_0303morning.jpg"
    Image.new("RGB", (4, 8)).save(base / "query" / name)
    samples = market1501.load(base).split("query")
    assert dict(zip(samples.paths, samples.cameras, strict=True))[f"query/{name}"] == 14


@pytest.mark.parametrize(
    "name", ["person.jpg", "0002.jpg", "0002_s1.jpg", "x0002_c1s1.jpg", "-2_c1s1.jpg", "0002_c0s1.jpg"]
)
def test_other_names_are_refused(base: Path, name: str) -> None:
    Image.new("RGB", (4, 8)).save(base / "query" / name)
    with pytest.raises(InputError, match=r"IDENTITY_cCAMERA") as raised:
        market1501.load(base)
    assert str(base / "query" / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_and_empty_folders_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder bounding_box_train here or in Market-1501-v15\.09\.15"):
        market1501.load(tmp_path)
    shutil.rmtree(base / "query")
    with pytest.raises(InputError, match="no folder query"):
        market1501.load(base)
    (base / "query").mkdir()
    (base / "query" / "Thumbs.db").write_bytes(b"x")
    with pytest.raises(InputError, match=r"query: no \.jpg file"):
        market1501.load(base)


def test_unreadable_images(base: Path) -> None:
    (base / "query" / "0008_c1s1_000001_00.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="0008_c1s1_000001_00"):
        market1501.load(base)
    assert len(market1501.load(base, on_error="skip")) == 6
