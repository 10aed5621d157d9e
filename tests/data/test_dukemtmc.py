import logging
from pathlib import Path

import layouts
import pytest

from raid.data import dukemtmc
from raid.errors import InputError

PATHS = [
    "bounding_box_train/0001_c2_f0046182.jpg",
    "bounding_box_train/0001_c8_f0046302.jpg",
    "query/0008_c1_f0044158.jpg",
    "bounding_box_test/0008_c3_f0044158.jpg",
    "bounding_box_test/7139_c2_f0184095.jpg",  # whom no query looks for
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = layouts.draw(tmp_path / "data" / dukemtmc.ARCHIVE, PATHS)
    (base / "query" / "Thumbs.db").write_bytes(b"x")
    (base / "CITATION_DukeMTMC.txt").write_text("x")
    return base


def test_reads_splits_identities_and_cameras(base: Path) -> None:
    samples = dukemtmc.load(base)
    assert layouts.rows(samples) == [
        ("bounding_box_test/0008_c3_f0044158.jpg", 8, 2, "gallery"),
        ("bounding_box_test/7139_c2_f0184095.jpg", 7139, 1, "gallery"),
        ("bounding_box_train/0001_c2_f0046182.jpg", 1, 1, "train"),
        ("bounding_box_train/0001_c8_f0046302.jpg", 1, 7, "train"),
        ("query/0008_c1_f0044158.jpg", 8, 0, "query"),
    ]
    assert samples.facts == {"set": "DukeMTMC-reID", "protocol": "standard"}
    assert samples.camera_names == tuple("12345678")
    assert dukemtmc.load(base.parent).fingerprint() == samples.fingerprint()


def test_its_withdrawal_is_said_once_and_counts_are_compared(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dukemtmc.load(base)
    first, *others = caplog.messages
    assert "withdrawn by its authors in 2019" in first
    assert "must not be used" in first
    assert not any("withdrawn" in message for message in others)
    assert any("gallery identities: 2, but 1110 were published for DukeMTMC-reID" in m for m in others)


def test_another_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder bounding_box_train here or in DukeMTMC-reID/"):
        dukemtmc.load(tmp_path)
