import hashlib
import logging
from pathlib import Path

import layouts
import numpy as np
import pytest

from raid.data import viper
from raid.data.viper import training_half
from raid.errors import InputError

PEOPLE = [0, 1, 3, 7, 45, 873]  # the numbers have gaps
GOLDEN_FIRST = [0, 1, 3, 7, 10, 11, 14, 15, 16, 18, 21, 22]
GOLDEN_ALL = "e3072437bc9cd93ef50c3252c195e59a45416abea7b61524026d9a564a9fee2a"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "data" / viper.ARCHIVE
    layouts.draw(base / "cam_a", [f"{person:03d}_{angle}.bmp" for angle, person in enumerate(PEOPLE)])
    layouts.draw(base / "cam_b", [f"{person:03d}_180.bmp" for person in PEOPLE])
    (base / "cam_a" / "Thumbs.db").write_bytes(b"x")
    (base / "README.txt").write_text("x")
    return base


def test_half_of_the_people_are_trained_on(base: Path) -> None:
    samples = viper.load(base, split_number=2)
    trained = training_half(PEOPLE, 2)
    assert len(trained) == 3
    expected = []
    for angle, person in enumerate(PEOPLE):
        for camera, (folder, last, split) in enumerate(
            [("cam_a", angle, "query"), ("cam_b", 180, "gallery")]
        ):
            split = "train" if person in trained else split
            expected.append((f"{folder}/{person:03d}_{last}.bmp", person, camera, split))
    assert layouts.rows(samples) == sorted(expected)
    assert samples.splits == ("train", "query", "gallery")
    assert samples.facts == {"set": "VIPeR", "protocol": "viper", "split_number": "2"}
    assert samples.camera_names == ("cam_a", "cam_b")
    assert viper.load(base.parent, split_number=2).fingerprint() == samples.fingerprint()
    assert viper.load(base, split_number=3).fingerprint() != samples.fingerprint()


def test_the_halves_are_as_documented() -> None:
    people = list(range(632))
    for number in range(viper.NUM_SPLITS):
        philox = np.random.Philox(np.random.SeedSequence(0, spawn_key=(3, number)))
        order = np.argsort(np.random.Generator(philox).random(632))
        assert training_half(people, number) == set(order[:316].tolist())


def test_the_halves_never_change() -> None:
    """Figures of VIPeR are comparable only while they are of these halves."""
    halves = [sorted(training_half(list(range(632)), number)) for number in range(viper.NUM_SPLITS)]
    assert {len(half) for half in halves} == {316}
    assert halves[0][:12] == GOLDEN_FIRST
    assert hashlib.sha256(repr(halves).encode()).hexdigest() == GOLDEN_ALL


def test_counts_are_compared(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        viper.load(base)
    assert "train images: 6, but 632 were published for VIPeR" in caplog.text
    assert "cameras" not in caplog.text


def test_what_is_not_the_set_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folders cam_a and cam_b here or in VIPeR/; set data\.root"):
        viper.load(tmp_path)
    (base / "cam_b" / "007_180.bmp").unlink()
    with pytest.raises(InputError, match="person 7 is in cam_a and not in cam_b"):
        viper.load(base)
    (base / "cam_a" / "003_90.bmp").write_bytes((base / "cam_a" / "000_0.bmp").read_bytes())
    with pytest.raises(InputError, match=r"003_90\.bmp: person 3 has cam_a/003_2\.bmp too"):
        viper.load(base)
    (base / "cam_a" / "person.bmp").write_bytes(b"x")
    (base / "cam_a" / "003_90.bmp").unlink()
    with pytest.raises(InputError, match=r"person\.bmp: the name is not PERSON_ANGLE"):
        viper.load(base)


def test_an_unreadable_picture_is_left_out_alone(base: Path) -> None:
    (base / "cam_a" / "045_4.bmp").write_bytes(b"")
    with pytest.raises(InputError, match="045_4"):
        viper.load(base)
    assert len(viper.load(base, on_error="skip")) == 11
