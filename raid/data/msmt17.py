"""MSMT17 (Wei et al., CVPR 2018; methods.md 1.1), in the three layouts that it is found in.

V1            train/ and test/ beside list_{train,val,query,gallery}.txt, as first published
V2            mask_train_v2/ and mask_test_v2/ beside the same lists: faces are blurred, and figures are lower
V1 repacked   the folders of Market-1501, with cameras of two digits: training and validation are one there

The people of the training and of the test half are both counted from 0. Here those of the test half follow
the training ones (1,041 and on, in the whole set), so that no number is two people's.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from raid.data import counts
from raid.data.bounding_boxes import FOLDERS, numbered_cameras, read_splits
from raid.data.manifest import relative_path
from raid.data.samples import OnError, Record, Samples
from raid.errors import InputError

REPACKED = "V1 repacked"
# The folders of training and test images, by version.
VERSIONS = {
    "V1": ("train", "test"),
    "V2": ("mask_train_v2", "mask_test_v2"),
    REPACKED: (FOLDERS["train"], FOLDERS["gallery"]),
}
ARCHIVES = ("MSMT17_V1", "MSMT17_V2", "MSMT17")
# The parts of the set: their lists, and the splits that they belong to.
LISTS = {
    "train": ("list_train.txt", "train"),
    "validation": ("list_val.txt", "train"),
    "query": ("list_query.txt", "query"),
    "gallery": ("list_gallery.txt", "gallery"),
}
_EXAMPLE = "0000/0000_000_01_0303morning_0008_0.jpg 0"


def load(root: Path, *, with_validation: bool = True, on_error: OnError = "fail") -> Samples:
    """Read MSMT17; the version is found out and is one of the facts.

    Args:
        root: the folder that holds the lists (or bounding_box_train), or its parent as unpacked.
        with_validation: train on the images of list_val too, as the papers do.
        on_error: an unreadable or missing image stops, or is left out with a count.

    Raises:
        InputError: there is no version, or more than one; a list is missing, or a line of it is not
            `PATH IDENTITY`, or names a file that is not there; the repacked set cannot leave list_val out.
    """
    base, version = _find(root)
    if version == REPACKED and not with_validation:
        raise InputError(
            f"{base}: this repacked MSMT17 does not say which training images are list_val's; "
            "set data.with_validation=true, or use the set as it was published (list_*.txt)"
        )
    parts = _repacked(base) if version == REPACKED else _listed(base, version, on_error)
    records = parts["train"] + (parts["validation"] if with_validation else [])
    # Whether or not it is trained on: the identities of the test half do not depend on it.
    offset = 1 + max(_identities(parts["train"] + parts["validation"]))
    records += [_moved(record, offset) for record in parts["query"] + parts["gallery"]]
    samples = Samples.scan(
        base,
        records,
        name="msmt17",
        on_error=on_error,
        camera_names=numbered_cameras(records),
        facts={
            "set": "MSMT17",
            "version": version,
            "protocol": "standard",
            "with_validation": str(with_validation).lower(),
        },
    )
    published = counts.MSMT17 if with_validation else counts.MSMT17_WITHOUT_VALIDATION
    counts.warn_of_differences(samples, published)
    return samples


def find_version(base: Path) -> list[str]:
    """Return the versions whose training folder `base` holds: one, of a set as it was unpacked, or none."""
    found = [version for version, (train, _) in VERSIONS.items() if (base / train).is_dir()]
    # Repacked beside what it was made from: the lists say more.
    return found if found == [REPACKED] else [version for version in found if version != REPACKED]


def _find(root: Path) -> tuple[Path, str]:
    bases = (root, *(root / archive for archive in ARCHIVES))
    found = [(base, version) for base in bases for version in find_version(base)]
    if not found:
        folders = ", ".join(f"{train} ({version})" for version, (train, _) in VERSIONS.items())
        raise InputError(
            f"{root}: no MSMT17 here or in {', '.join(f'{archive}/' for archive in ARCHIVES)}: looked for "
            f"{folders}; set data.root to where it is"
        )
    if len(found) > 1:
        shown = " and ".join(f"{base / VERSIONS[version][0]} ({version})" for base, version in found)
        raise InputError(f"{root}: MSMT17 is here more than once: {shown}; set data.root to one, on its own")
    return found[0]


def _repacked(base: Path) -> dict[str, list[Record]]:
    parts: dict[str, list[Record]] = {part: [] for part in LISTS}
    for record in read_splits(base):
        parts[record.split].append(record)
    return parts


def _listed(base: Path, version: str, on_error: OnError) -> dict[str, list[Record]]:
    train, test = VERSIONS[version]
    return {
        part: list(_read_list(base, train if split == "train" else test, name, split, on_error))
        for part, (name, split) in LISTS.items()
    }


def _read_list(base: Path, folder: str, name: str, split: str, on_error: OnError) -> Iterator[Record]:
    """Yield the records of a list; `folder` is where its paths begin."""
    file = base / name
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        record = _record(base, folder, line, split)
        if record is None:
            raise InputError(
                f"{file}: line {number}: {line!r} is not an image's path (PERSON/PERSON_NUMBER_CAMERA_..., "
                f"cameras from 1), a space, and the identity, as in {_EXAMPLE!r}; mend the line"
            )
        if on_error == "fail" and not (base / record.path).is_file():
            raise InputError(
                f"{file}: line {number}: there is no file {base / record.path}; unpack the set again, mend "
                "the line, or leave such images out with data.on_error=skip"
            )
        yield record


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: there is no such file, which lists images of MSMT17; unpack the set again"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list: {error}; unpack the set again") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{file}: lists no image; unpack the set again")
    return lines


def _record(base: Path, folder: str, line: str, split: str) -> Record | None:
    """Return what a line says; the identity is the last column, and the camera stands in the name."""
    path, _, identity = line.strip().rpartition(" ")
    parts = path.rpartition("/")[2].split("_")
    if len(parts) < 4 or not (_is_number(identity) and _is_number(parts[2]) and int(parts[2])):
        return None
    try:
        inside = relative_path(base / folder, path.strip())
    except InputError:  # not below the folder
        return None
    return Record(f"{folder}/{inside}", int(identity), int(parts[2]) - 1, split)


def _identities(records: list[Record]) -> list[int]:
    return [record.identity for record in records if record.identity is not None]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _moved(record: Record, offset: int) -> Record:
    """Return a test record whose identity follows the training ones; junk stays junk."""
    assert record.identity is not None
    return replace(record, identity=record.identity + offset) if record.identity >= 0 else record
