"""The layout of Market-1501 (methods.md 1.1): one folder a split, identity and camera in the file name.

DukeMTMC-reID and the repacked MSMT17 (`bounding_box_train/0000_c15_...jpg`) have the same layout.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from raid.data.samples import OnError, Record, Samples
from raid.errors import InputError

ARCHIVE = "Market-1501-v15.09.15"
FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# Cameras of more than one digit too: read as one digit, c15 of the repacked MSMT17 would become camera 1.
_NAME = re.compile(r"(-1|\d+)_c([1-9]\d*)")


def load(root: Path, *, on_error: OnError = "fail") -> Samples:
    """Read a set in Market-1501's layout.

    Identity -1 (junk) stays in the gallery as -1, for a ranking to drop, and is left out of the training
    images; 0000 (distractors) is identity 0. Cameras become 0-based.

    Args:
        root: the folder that holds bounding_box_train, or its parent as unpacked.
        on_error: an unreadable image stops, or is left out with a count.

    Raises:
        InputError: a folder is missing or empty, or a name is not `IDENTITY_cCAMERA...jpg`.
    """
    base = _base(root)
    records = [record for split, folder in FOLDERS.items() for record in _records(base, folder, split)]
    num_cameras = 1 + max(record.camera for record in records if record.camera is not None)
    names = [str(camera + 1) for camera in range(num_cameras)]
    return Samples.scan(base, records, name="market1501", on_error=on_error, camera_names=names)


def _base(root: Path) -> Path:
    for base in (root, root / ARCHIVE):
        if (base / FOLDERS["train"]).is_dir():
            return base
    raise InputError(
        f"{root}: no folder {FOLDERS['train']} here or in {ARCHIVE}/; set data.root to where it is"
    )


def _records(base: Path, folder: str, split: str) -> Iterator[Record]:
    if not (base / folder).is_dir():
        raise InputError(f"{base}: no folder {folder} (the {split} images) beside {FOLDERS['train']}")
    names = [file.name for file in (base / folder).iterdir() if _is_image(file.name)]
    if not names:
        raise InputError(
            f"{base / folder}: no .jpg file here (the {split} images); put them there, or set data.root"
        )
    for name in names:
        match = _NAME.match(name)
        if match is None:
            raise InputError(
                f"{base / folder / name}: the name does not begin IDENTITY_cCAMERA (cameras from 1), as in "
                "0002_c1s1_000451_03.jpg; rename it, or use layout folder with a pattern"
            )
        identity, camera = int(match[1]), int(match[2]) - 1
        if split != "train" or identity != -1:
            yield Record(f"{folder}/{name}", identity, camera, split)


def _is_image(name: str) -> bool:
    return name.lower().endswith(".jpg") and not name.startswith(".")
