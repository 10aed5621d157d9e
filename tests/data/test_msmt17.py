import logging
from pathlib import Path

import layouts
import pytest

from raid.data import msmt17
from raid.errors import InputError

LISTS = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_004_15_0302noon_0011_2.jpg 1"],
    "list_val.txt": ["0002/0002_001_03_0303afternoon_0990_1.jpg 2"],
    # The test half counts its people from 0 too.
    "list_query.txt": ["0000/0000_010_14_0303morning_0045_0.jpg 0"],
    "list_gallery.txt": [
        "0000/0000_011_07_0303morning_0046_0.jpg 0",
        "0001/0001_000_01_0113noon_0001_0.jpg 1",
    ],
}
EXPECTED = [
    ("test/0000/0000_010_14_0303morning_0045_0.jpg", 3, 13, "query"),
    ("test/0000/0000_011_07_0303morning_0046_0.jpg", 3, 6, "gallery"),
    ("test/0001/0001_000_01_0113noon_0001_0.jpg", 4, 0, "gallery"),
    ("train/0000/0000_000_01_0303morning_0008_0.jpg", 0, 0, "train"),
    ("train/0001/0001_004_15_0302noon_0011_2.jpg", 1, 14, "train"),
    ("train/0002/0002_001_03_0303afternoon_0990_1.jpg", 2, 2, "train"),
]
REPACKED = {
    "bounding_box_train": ["0000_c1_0008.jpg", "0001_c15_0011.jpg", "0002_c03_0990.jpg"],
    "query": ["0000_c14_0045.jpg"],
    "bounding_box_test": ["0000_c7_0046.jpg", "0001_c1_0001.jpg"],
}


def published(base: Path, train: str, test: str) -> Path:
    """The set with its lists; Windows' line ends and a blank last line are in some copies."""
    for name, lines in LISTS.items():
        folder = train if name in ("list_train.txt", "list_val.txt") else test
        layouts.draw(base / folder, [line.split()[0] for line in lines])
        (base / name).write_bytes(("\r\n".join(lines) + "\r\n\r\n").encode())
    (base / train / "0000" / "Thumbs.db").write_bytes(b"x")
    return base


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    return published(tmp_path / "data" / "MSMT17_V1", "train", "test")


def test_v1(v1: Path) -> None:
    samples = msmt17.load(v1)
    assert layouts.rows(samples) == EXPECTED
    assert samples.facts == {
        "set": "MSMT17", "version": "V1", "protocol": "standard", "with_validation": "true",
    }  # fmt: skip
    assert samples.camera_names == tuple(str(camera) for camera in range(1, 16))
    assert samples.name == "msmt17"
    assert msmt17.load(v1.parent).fingerprint() == samples.fingerprint()


def test_v2(tmp_path: Path) -> None:
    base = published(tmp_path / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    samples = msmt17.load(base)
    expected = [
        (path.replace("train/", "mask_train_v2/").replace("test/", "mask_test_v2/"), *rest)
        for path, *rest in EXPECTED
    ]
    assert layouts.rows(samples) == sorted(expected)
    assert samples.facts["version"] == "V2"


def test_repacked_into_market_1501s_folders(tmp_path: Path) -> None:
    base = tmp_path / "MSMT17_V1"
    for folder, names in REPACKED.items():
        layouts.draw(base / folder, names)
    samples = msmt17.load(tmp_path)
    assert layouts.rows(samples) == [
        ("bounding_box_test/0000_c7_0046.jpg", 3, 6, "gallery"),
        ("bounding_box_test/0001_c1_0001.jpg", 4, 0, "gallery"),
        ("bounding_box_train/0000_c1_0008.jpg", 0, 0, "train"),
        ("bounding_box_train/0001_c15_0011.jpg", 1, 14, "train"),
        ("bounding_box_train/0002_c03_0990.jpg", 2, 2, "train"),
        ("query/0000_c14_0045.jpg", 3, 13, "query"),
    ]
    assert samples.facts["version"] == "V1 repacked"
    with pytest.raises(InputError, match=r"does not say which .* list_val's; set data\.with_validation=true"):
        msmt17.load(tmp_path, with_validation=False)


def test_without_validation_the_test_identities_are_the_same(v1: Path) -> None:
    samples = msmt17.load(v1, with_validation=False)
    assert layouts.rows(samples) == [row for row in EXPECTED if "0002_001" not in row[0]]
    assert samples.facts["with_validation"] == "false"


def test_two_versions_are_not_mixed(v1: Path) -> None:
    published(v1.parent / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    with pytest.raises(InputError, match=r"more than once: .*\(V1\) and .*\(V2\); set data\.root to one"):
        msmt17.load(v1.parent)
    assert msmt17.load(v1).facts["version"] == "V1"
    for folder in ("mask_train_v2", "mask_test_v2"):
        (v1 / folder).mkdir()
    with pytest.raises(InputError, match="more than once"):
        msmt17.load(v1)


def test_repacked_beside_the_lists_is_not_read_again(v1: Path) -> None:
    for folder, names in REPACKED.items():
        layouts.draw(v1 / folder, names)
    assert layouts.rows(msmt17.load(v1)) == EXPECTED


def test_a_listed_file_that_is_missing(v1: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = "test/0001/0001_000_01_0113noon_0001_0.jpg"
    (v1 / path).unlink()
    with pytest.raises(InputError, match=r"list_gallery\.txt: line 2: there is no file") as raised:
        msmt17.load(v1)
    assert str(v1 / path) in str(raised.value)
    with caplog.at_level(logging.WARNING):
        samples = msmt17.load(v1, on_error="skip")
    assert layouts.rows(samples) == [row for row in EXPECTED if row[0] != path]
    assert f"left out 1 of 6 images: {path}" in caplog.text
    assert "gallery images: 1, but 82161 were published for MSMT17" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_001_01_0303morning_0009_0.jpg",  # no identity
        "0000/0000_001_01_0303morning_0009_0.jpg x",
        "0000/0000_001_01_0303morning_0009_0.jpg -1",
        "0000/0000_001_01_0303morning_0009_0.jpg \u0663",
        "0000/0000_001_00_0303morning_0009_0.jpg 0",  # cameras are counted from 1
        "0000/0000_001_c1_0303morning_0009_0.jpg 0",
        "0000/0000.jpg 0",
        "../0000/0000_001_01_0303morning_0009_0.jpg 0",
        "7",
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_line_that_is_wrong_is_named(v1: Path, line: str, on_error: str) -> None:
    with (v1 / "list_val.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"list_val\.txt: line 3: .*mend the line") as raised:
        msmt17.load(v1, on_error=on_error)
    assert repr(line) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_image_listed_twice(v1: Path) -> None:
    (v1 / "list_val.txt").write_text("\n".join(LISTS["list_val.txt"] + LISTS["list_train.txt"]))
    with pytest.raises(InputError, match=r"train/0000/\S+ is listed 2 times"):
        msmt17.load(v1)


def test_lists_that_are_missing_or_empty(v1: Path) -> None:
    (v1 / "list_val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"list_val\.txt: lists no image"):
        msmt17.load(v1)
    (v1 / "list_val.txt").write_bytes(b"\xff\xfe0")
    with pytest.raises(InputError, match=r"list_val\.txt: cannot be read as a list"):
        msmt17.load(v1)
    (v1 / "list_val.txt").unlink()
    with pytest.raises(InputError, match=r"list_val\.txt: there is no such file"):
        msmt17.load(v1)


def test_another_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"train \(V1\), mask_train_v2 \(V2\), bounding_box_train .*data\.root"
    ):
        msmt17.load(tmp_path)
