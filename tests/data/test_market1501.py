import logging
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from raid.data import market1501
from raid.data.render import Settings, write_market1501
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
    assert samples.facts == {"set": "Market-1501", "protocol": "standard"}


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


def test_multi_query_is_what_the_queries_person_and_camera_share(base: Path) -> None:
    names = ["0007_c3s3_077419_00.jpg", "0007_c3s3_077500_01.jpg", "0007_c2s3_1_00.jpg", "0002_c3s1_1_00.jpg"]
    layouts.draw(base / "gt_bbox", names)
    (base / "gt_bbox" / "Thumbs.db").write_bytes(b"x")
    assert "multi_query" not in market1501.load(base).splits
    more = market1501.load(base, multi_query=True)
    assert more.splits == ("train", "query", "gallery", "multi_query")
    assert layouts.rows(more.split("multi_query")) == [
        (f"gt_bbox/{name}", 7, 2, "multi_query") for name in names[:2]
    ]
    assert len(more) == len(market1501.load(base)) + 2


def test_distractors_are_nobody_whatever_they_are_called(base: Path) -> None:
    layouts.draw(base / "images", ["0000_c3s1_1_00.jpg", "-1_c1s1_2_00.jpg", "0_c9.jpg", "42.jpg", "a_b.JPG"])
    (base / "images" / "readme.txt").write_text("x")
    plain, more = market1501.load(base), market1501.load(base, distractors=True)
    added = [row for row in layouts.rows(more) if row[0].startswith("images/")]
    assert added == [
        ("images/-1_c1s1_2_00.jpg", 0, 0, "gallery"),
        ("images/0000_c3s1_1_00.jpg", 0, 2, "gallery"),
        ("images/0_c9.jpg", 0, 6, "gallery"),  # the set has six cameras
        ("images/42.jpg", 0, 6, "gallery"),
        ("images/a_b.JPG", 0, 6, "gallery"),
    ]
    assert [row for row in layouts.rows(more) if row not in added] == layouts.rows(plain)
    assert more.has_cameras  # or the same-camera rule would be given up for the whole gallery
    assert more.camera_names == (*plain.camera_names, "unknown")
    assert 0 not in more.split("query").identities


def test_cameras_that_distractors_have_need_no_other(base: Path) -> None:
    layouts.draw(base / "images", ["0000_c3s1_1_00.jpg"])
    assert market1501.load(base, distractors=True).camera_names == market1501.load(base).camera_names


@pytest.mark.parametrize(("option", "folder"), [("multi_query", "gt_bbox"), ("distractors", "images")])
def test_optional_folders_are_missed_when_asked_for(base: Path, option: str, folder: str) -> None:
    with pytest.raises(InputError, match=rf"no folder {folder} \("):
        market1501.load(base, **{option: True})
    (base / folder).mkdir()
    with pytest.raises(InputError, match=rf"{folder}: no \.jpg file here"):
        market1501.load(base, **{option: True})


def test_counts_are_compared_without_the_distractors(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.draw(base / "images", ["0000_c3s1_1_00.jpg"])
    layouts.draw(base / "gt_bbox", ["0007_c3s3_077419_00.jpg"])
    with caplog.at_level(logging.WARNING):
        market1501.load(base, distractors=True, multi_query=True)
    said = [message.removeprefix(f"{base}: ").partition(" were published")[0] for message in caplog.messages]
    assert sorted(said) == [
        "cameras: 4, but 6",
        "distractors in the gallery: 1, but 2798",
        "gallery identities: 1, but 750",
        "gallery images: 3, but 19732",
        "identities in gt_bbox: 1, but 1501",
        "images in gt_bbox: 1, but 25259",
        "junk images in the gallery: 1, but 3819",
        "query identities: 1, but 750",
        "query images: 1, but 3368",
        "train identities: 1, but 751",
        "train images: 2, but 12936",
        "training identities of camera 1, 2, 3, 4, 5 and 1 more: 1, 0, 0, 0, 0, but 652, 541, 694, 241, 576",
        "training images of camera 1, 2, 3, 4, 5 and 1 more: 1, 0, 0, 0, 0, but 2017, 1709, 2707, 920, 2338",
    ]
    assert all("for Market-1501; check that the set is whole" in message for message in caplog.messages)


def test_rendered_people_are_not_taken_for_the_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_market1501(tmp_path / "set", Settings(num_identities=4, num_cameras=2, height=32, width=16))
    with caplog.at_level(logging.WARNING):
        samples = market1501.load(tmp_path / "set")
    assert not caplog.messages
    assert samples.facts["set"] == "rendered"
