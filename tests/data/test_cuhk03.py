import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import layouts
import numpy as np
import pytest
import scipy.io
from PIL import Image

from raid.data import cuhk03, cuhk03_mat
from raid.errors import InputError

# By pair: a person's places (from 1, ten a person) that hold a picture; the others are empty cells.
PLACES = [[[1, 2, 6], [1, 7, 10]], [[3, 8]], [[5, 6]]]
PAIRS_OF_TEST_SETS = [[(1, 2), (2, 1)], [(3, 1)]]
NAMES = [
    "1_001_1_01.png", "1_001_1_02.png", "1_001_2_06.png",
    "1_002_1_01.png", "1_002_2_07.png", "1_002_2_10.png",
    "2_001_1_03.png", "2_001_2_08.png",
    "3_001_1_05.png", "3_001_2_06.png",
]  # fmt: skip
IDENTITIES = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
VIEWS = [0, 0, 1, 0, 1, 1, 0, 1, 0, 1]
CONFIG = "cuhk03_new_protocol_config_{}.mat"


def write_mat(path: Path, *, offset: int = 0) -> None:
    """Write cuhk-03.mat as MATLAB does: references to arrays in #refs#, and every array transposed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        store = file.create_group("#refs#")

        def stored(array: np.ndarray, **attributes: Any) -> h5py.Reference:
            dataset = store.create_dataset(str(len(store)), data=array)
            dataset.attrs.update(attributes)
            return dataset.ref

        def cells(references: list[list[h5py.Reference]]) -> np.ndarray:
            array = np.empty((len(references), len(references[0])), h5py.ref_dtype)
            for row, line in enumerate(references):
                array[row] = line
            return array.T

        for key in ("detected", "labeled"):
            pairs, number = [], offset + (100 if key == "labeled" else 0)
            for people in PLACES:
                rows = []
                for places in people:
                    row = []
                    for place in range(1, 11):
                        if place in places:
                            row.append(stored(layouts.picture(number).T, MATLAB_class=b"uint8"))
                            number += 1
                        else:
                            row.append(stored(np.zeros(2, np.uint64), MATLAB_empty=1, MATLAB_class=b"double"))
                    rows.append(row)
                pairs.append([stored(cells(rows))])
            file.create_dataset(key, data=cells(pairs))
        tests = [[stored(np.array(people, np.float64).T)] for people in PAIRS_OF_TEST_SETS]
        file.create_dataset("testsets", data=cells(tests))


def write_config(folder: Path, key: str = "detected", **changes: Any) -> None:
    """Write the new protocol's file: indices from 1, in columns; labels are its own numbers."""
    filelist = np.empty((len(NAMES), 1), object)
    filelist[:, 0] = NAMES
    values = {
        "train_idx": np.array([[1], [2], [3], [9], [10]]),
        "query_idx": np.array([[4], [7]], np.uint16),
        "gallery_idx": np.array([[5], [6], [8]]),
        "labels": np.array([[5], [5], [5], [6], [6], [6], [8], [8], [9], [9]], np.float64),
        "filelist": filelist,
    }
    scipy.io.savemat(folder / CONFIG.format(key), {**values, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cuhk03"
    write_mat(root / "cuhk03_release" / "cuhk-03.mat")
    write_config(root)
    write_config(root, "labeled")
    return root


def expected(key: str, splits: list[str], identities: list[int] = IDENTITIES) -> list[layouts.Row]:
    names = [f"images_{key}/{name}" for name in NAMES]
    return list(zip(names, identities, VIEWS, splits, strict=True))


def test_classic(root: Path) -> None:
    samples = cuhk03.load(root, protocol="classic")
    # People 2 of pair 1 and 1 of pair 2; as queries the evaluation takes the gallery.
    splits = ["train"] * 3 + ["gallery"] * 5 + ["train"] * 2
    assert layouts.rows(samples) == expected("detected", splits)
    assert samples.facts == {
        "set": "CUHK03", "protocol": "cuhk03_classic", "boxes": "detected", "split_number": "0",
    }  # fmt: skip
    assert samples.root == root / "cuhk03_release"
    assert samples.name == "cuhk03"
    other = cuhk03.load(root, protocol="classic", split_number=1)
    assert layouts.rows(other) == expected("detected", ["train"] * 8 + ["gallery"] * 2)
    assert other.facts["split_number"] == "1"


def test_new(root: Path) -> None:
    samples = cuhk03.load(root)
    splits = ["train"] * 3 + ["query", "gallery", "gallery", "query", "gallery"] + ["train"] * 2
    assert layouts.rows(samples) == expected("detected", splits, [5, 5, 5, 6, 6, 6, 8, 8, 9, 9])
    assert samples.facts == {"set": "CUHK03", "protocol": "standard", "boxes": "detected"}


def test_labelled_boxes_are_other_pictures(root: Path) -> None:
    detected, labelled = cuhk03.load(root), cuhk03.load(root, boxes="labelled")
    assert labelled.facts["boxes"] == "labelled"
    assert [path.replace("labeled", "detected") for path in labelled.paths] == detected.paths
    assert set(labelled.table["content"].to_pylist()).isdisjoint(detected.table["content"].to_pylist())


def test_pictures_are_extracted_as_they_are(root: Path) -> None:
    samples = cuhk03.load(root)
    for number, path in enumerate(samples.paths):
        np.testing.assert_array_equal(np.array(Image.open(samples.root / path)), layouts.picture(number))
    assert sorted(path.name for path in samples.root.iterdir()) == ["cuhk-03.mat", "images_detected"]


def test_pictures_are_extracted_once(root: Path) -> None:
    before = cuhk03.load(root)
    write_mat(root / "cuhk03_release" / "cuhk-03.mat", offset=1000)
    assert cuhk03.load(root).fingerprint() == before.fingerprint()


@contextmanager
def failing_after(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pixels, calls = cuhk03_mat._pixels, iter(range(number))

    def fail(*arguments: Any) -> np.ndarray:
        if next(calls, None) is None:
            raise error
        return pixels(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cuhk03_mat, "_pixels", fail)
        yield


def test_half_an_extraction_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = root / "cuhk03_release"
    with failing_after(4, KeyboardInterrupt(), monkeypatch), pytest.raises(KeyboardInterrupt):
        cuhk03.load(root)
    assert [path.name for path in release.iterdir()] == ["cuhk-03.mat"]
    full = OSError(28, "No space left on device")
    with (
        failing_after(4, full, monkeypatch),
        pytest.raises(InputError, match=r"images_detected: .*No space left on device; make room"),
    ):
        cuhk03.load(root)
    # A process that was killed could not clear up; its folder is not taken for the pictures.
    (release / ".images_detected.dead").mkdir()
    assert len(cuhk03.load(root)) == 10


def test_a_quicker_process_is_let_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuhk03.load(root)
    images = root / "cuhk03_release" / "images_detected"
    cuhk03_mat.extract(root / "cuhk03_release" / "cuhk-03.mat", "detected", images)
    assert len(list(images.iterdir())) == 10


def test_pictures_of_another_program_are_enough_for_the_new_protocol(root: Path) -> None:
    before = cuhk03.load(root)
    shutil.move(before.root / "images_detected", root / "images_detected")  # where torchreid puts them
    shutil.rmtree(root / "cuhk03_release")
    samples = cuhk03.load(root)
    assert samples.root == root
    assert samples.fingerprint() == before.fingerprint()
    with pytest.raises(
        InputError, match=r"no cuhk-03\.mat in .*the classic protocol's test sets stand in it"
    ):
        cuhk03.load(root, protocol="classic")
    with pytest.raises(InputError, match=r"no cuhk-03\.mat and no images_labeled in .*set data\.root"):
        cuhk03.load(root, boxes="labelled")


def test_a_folder_that_lacks_pictures_is_not_taken_for_whole(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = cuhk03.load(root)
    (samples.root / samples.paths[0]).unlink()
    message = r"lacks 1 of 10 pictures, such as images_detected/1_001_1_01\.png: it is not whole; remove it"
    for protocol in ("new", "classic"):
        with pytest.raises(InputError, match=message):
            cuhk03.load(root, protocol=protocol)
    with caplog.at_level(logging.WARNING):
        assert len(cuhk03.load(root, on_error="skip")) == 9
    assert "left out 1 of 10 images" in caplog.text


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        ({}, ["train images: 5, but 7365", "query images: 2, but 1400", "gallery images: 3, but 5332"]),
        ({"boxes": "labelled"}, ["train images: 5, but 7368", "gallery images: 3, but 5328"]),
        ({"protocol": "classic"}, ["train images: 5, but 13113", "gallery images: 5, but 984"]),
        (
            {"protocol": "classic", "split_number": 1},
            ["images: 10, but 14097", "train identities: 3, but 1367", "gallery identities: 1, but 100"],
        ),
        ({"protocol": "classic", "boxes": "labelled"}, ["images: 10, but 14096"]),
    ],
)
def test_counts_are_compared(
    root: Path, options: dict[str, Any], differences: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cuhk03.load(root, **options)
    for difference in differences:
        assert f": {difference} were published for CUHK03" in caplog.text
    if options.get("split_number"):
        assert "gallery images" not in caplog.text  # they are known of the first split alone


def test_a_missing_protocol_file_is_named_with_its_source(root: Path) -> None:
    (root / CONFIG.format("detected")).unlink()
    with pytest.raises(InputError, match=r"no cuhk03_new_protocol_config_detected\.mat in .*CUHK03-NP"):
        cuhk03.load(root)
    assert not (root / "cuhk03_release" / "images_detected").exists()  # said before minutes of extraction
    assert len(cuhk03.load(root, protocol="classic")) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_idx": np.array([[11]])}, "query_idx has 11, and filelist has 10 names"),
        ({"query_idx": np.array([[0]])}, "query_idx has 0"),  # the last, if taken for an index
        ({"filelist": np.array([["person.png"]] * 10, object)}, r"filelist has 'person\.png', which is not"),
        ({"labels": np.array([[1.0]])}, "it has 1 labels of 10 names"),
    ],
)
def test_a_protocol_file_that_is_wrong(root: Path, changes: dict[str, Any], message: str) -> None:
    write_config(root, **changes)
    with pytest.raises(
        InputError, match=rf"config_detected\.mat: is not the new protocol's file: .*{message}"
    ):
        cuhk03.load(root)
    (root / CONFIG.format("detected")).write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"config_detected\.mat: is not the new protocol's file") as raised:
        cuhk03.load(root)
    assert "\n" not in str(raised.value)


def test_a_release_that_is_wrong(root: Path) -> None:
    mat = root / "cuhk03_release" / "cuhk-03.mat"
    with pytest.raises(InputError, match=r"has 2 test sets, and data\.split_number is 5"):
        cuhk03.load(root, protocol="classic", split_number=5)
    with h5py.File(mat, "a") as file:
        del file["testsets"]
    with pytest.raises(InputError, match=r"is not cuhk-03\.mat as it was released: .*testsets"):
        cuhk03.load(root, protocol="classic")
    mat.write_bytes(mat.read_bytes()[:600])
    with pytest.raises(
        InputError, match=r"cannot be opened as a MATLAB v7\.3 file: .*unpack .* again"
    ) as raised:
        cuhk03.load(root)
    assert "\n" not in str(raised.value)


def test_another_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    folders = " or ".join(re.escape(str(folder)) for folder in (tmp_path, tmp_path / "cuhk03_release"))
    looked_for = rf"no cuhk-03\.mat and no images_detected in {folders}"
    with pytest.raises(InputError, match=looked_for):
        cuhk03.load(tmp_path)
    with pytest.raises(InputError, match=looked_for):
        cuhk03.load(tmp_path, protocol="classic")
