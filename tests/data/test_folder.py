import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raid.data import folder
from raid.data.folder import number_cameras, number_identities
from raid.data.samples import Samples
from raid.errors import InputError


def fill(root: Path, *paths: str) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 5), (number, 0, 0)).save(root / path)
    return root


def test_integers_are_kept_and_cameras_renumbered(tmp_path: Path) -> None:
    fill(tmp_path, "a/12_c10.png", "a/3_c9.png", "b/-1_c9.png", "b/12_c09.JPG")
    samples = folder.load(
        tmp_path,
        r"^(?P<split>[ab])/(?P<identity>-?\d+)_c(?P<camera>\d+)",
        splits={"a": "train", "b": "gallery"},
    )
    assert samples.paths == ["a/12_c10.png", "a/3_c9.png", "b/-1_c9.png", "b/12_c09.JPG"]
    np.testing.assert_array_equal(samples.identities, [12, 3, -1, 12])
    np.testing.assert_array_equal(samples.cameras, [1, 0, 0, 0])  # by value, so 9 comes before 10
    assert samples.camera_names == ("9", "10")
    assert samples.table["split"].to_pylist() == ["train", "train", "gallery", "gallery"]
    assert samples.name == tmp_path.name


def test_camera_names_outlive_the_manifest(tmp_path: Path) -> None:
    fill(tmp_path / "set", "door-1.png", "yard-2.png")
    samples = folder.load(tmp_path / "set", r"(?P<camera>[a-z]+)-(?P<identity>\d)")
    samples.write(tmp_path / "m.parquet")
    assert Samples.read(tmp_path / "m.parquet").camera_names == ("door", "yard")


def test_groups_are_optional(tmp_path: Path) -> None:
    fill(tmp_path, "anna/1.png", "bert/2.png", "stray.png")
    samples = folder.load(tmp_path, r"^(?:(?P<identity>\w+)/)?\w+\.png", default_split="gallery")
    assert samples.table["identity"].to_pylist() == [0, 1, None]
    assert samples.table["camera"].null_count == 3
    assert not samples.has_cameras
    assert samples.splits == ("gallery",)
    assert folder.load(tmp_path, ".").table["identity"].null_count == 3


def test_an_optional_split_falls_back(tmp_path: Path) -> None:
    fill(tmp_path, "query/1.png", "1.png")
    samples = folder.load(tmp_path, r"^(?:(?P<split>\w+)/)?(?P<identity>\d)")
    assert samples.table["split"].to_pylist() == ["train", "query"]


def test_what_is_no_image_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "1.png", ".hidden.png", ".cache/2.png", "other.png")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    with caplog.at_level(logging.WARNING):
        samples = folder.load(tmp_path, r"(?P<identity>\d+)\.png")
    assert samples.paths == ["1.png"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "left out 1 of 2 images" in message
    assert "other.png" in message


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    assert folder.load(tmp_path / "set", r"(?P<identity>\d+)\.png").paths == ["link/1.png"]


def test_unmatched_patterns_show_an_example(tmp_path: Path) -> None:
    fill(tmp_path, "a/person.png")
    with pytest.raises(InputError, match=r"\\d\+.*none of 1 paths, such as a/person\.png"):
        folder.load(tmp_path, r"(?P<identity>\d+)")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?P<identity>\d+", "not a regular expression"),
        (r"(?P<pid>\d+)_c(?P<camera>\d)", r"group 'pid' is unknown.*\(\?P<identity>"),
        (r"(\d+)_c(\d)", "have no names"),
    ],
)
def test_bad_patterns(tmp_path: Path, pattern: str, message: str) -> None:
    fill(tmp_path, "1_c1.png")
    with pytest.raises(InputError, match=r"data\.pattern.*" + message) as raised:
        folder.load(tmp_path, pattern)
    assert "\n" not in str(raised.value)


def test_bad_splits(tmp_path: Path) -> None:
    fill(tmp_path, "val/1.png")
    pattern = r"(?P<split>\w+)/(?P<identity>\d)"
    with pytest.raises(InputError, match=r"data\.splits.*'val' of val/1\.png is not among train"):
        folder.load(tmp_path, pattern)
    with pytest.raises(InputError, match="'val' means 'test'"):
        folder.load(tmp_path, pattern, splits={"val": "test"})
    with pytest.raises(InputError, match="'validation'"):
        folder.load(tmp_path, ".", default_split="validation")
    assert folder.load(tmp_path, pattern, splits={"val": "query"}).splits == ("query",)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        folder.load(tmp_path / "none", ".")
    with pytest.raises(InputError, match="no image file below"):
        folder.load(tmp_path, ".")


def test_numbering() -> None:
    assert number_identities(["007", "-1", None, "7"]) == [7, -1, None, 7]
    assert number_identities(["b", "-1", None, "a", "10"]) == [2, -1, None, 1, 0]
    assert number_identities(["9" * 19, "1"]) == [1, 0]  # more than an int64 holds: a text
    assert number_identities(["1_0", "٣"]) == [0, 1]  # int() would take both for numbers
    assert number_cameras(["10", "9", None, "09"]) == ([1, 0, None, 0], ["9", "10"])
    assert number_cameras(["10", "9", "x"]) == ([0, 1, 2], ["10", "9", "x"])
