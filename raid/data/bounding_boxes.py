"""Folders of pictures whose names say who is seen where: `0002_c1s1_000451_03.jpg`.

Market-1501, DukeMTMC-reID and the repacked MSMT17 come so: one folder a split.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raid.data.samples import Record
from raid.errors import InputError

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
# Cameras of two digits too (c15, c03): read as one, c15 of the repacked MSMT17 would become camera 1.
_NAME = re.compile(r"(-1|\d+)_c0*([1-9]\d*)")


def find_base(root: Path, *archives: str) -> Path:
    """Return the folder that holds bounding_box_train: `root`, or an archive's folder in it.

    Raises:
        InputError: none does.
    """
    for base in (root, *(root / archive for archive in archives)):
        if (base / FOLDERS["train"]).is_dir():
            return base
    inside = ", ".join(f"{archive}/" for archive in archives)
    raise InputError(
        f"{root}: no folder {FOLDERS['train']} here or in {inside}; set data.root to where it is"
    )


def read_splits(base: Path) -> list[Record]:
    """Return the records of all three folders; see `read_folder`."""
    return [record for split, folder in FOLDERS.items() for record in read_folder(base, folder, split)]


def read_folder(base: Path, folder: str, split: str) -> Iterator[Record]:
    """Yield the records of one folder; junk (identity -1) is left out of the training images.

    Raises:
        InputError: the folder is missing or has no .jpg file, or a name is not `IDENTITY_cCAMERA...jpg`.
    """
    for name in image_names(base, folder, split):
        found = parse_name(name)
        if found is None:
            raise InputError(
                f"{base / folder / name}: the name does not begin IDENTITY_cCAMERA (cameras from 1), as in "
                "0002_c1s1_000451_03.jpg; rename it, or use layout folder with a pattern"
            )
        identity, camera = found
        if split != "train" or identity != -1:
            yield Record(f"{folder}/{name}", identity, camera, split)


def image_names(base: Path, folder: str, split: str) -> list[str]:
    """Return the names of a folder's .jpg files (`.jpg.jpg` too); Thumbs.db and the like are passed over.

    Raises:
        InputError: the folder is missing, or has none.
    """
    if not (base / folder).is_dir():
        raise InputError(f"{base}: no folder {folder} (the {split} images) beside {FOLDERS['train']}")
    names = [file.name for file in (base / folder).iterdir()]
    names = [name for name in names if name.lower().endswith(".jpg") and not name.startswith(".")]
    if not names:
        raise InputError(
            f"{base / folder}: no .jpg file here (the {split} images); put them there, or set data.root"
        )
    return names


def parse_name(name: str) -> tuple[int, int] | None:
    """Return (identity, camera from 0) of a file's name, or None where it says neither."""
    match = _NAME.match(name)
    return None if match is None else (int(match[1]), int(match[2]) - 1)


def numbered_cameras(records: Iterable[Record]) -> Sequence[str]:
    """Return the cameras' names in the set, which counts them from 1."""
    last = max(record.camera for record in records if record.camera is not None)
    return [str(camera + 1) for camera in range(last + 1)]
