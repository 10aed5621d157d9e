"""VIPeR (Gray and Tao, 2007; methods.md 1.1): 632 people, one picture of each by either of two cameras.

Its protocol is the mean over ten random halves, each in both directions. The halves are nowhere published;
these are drawn so, for a split number s from 0 to 9 and N people in the order of their numbers:

    u = numpy.random.Generator(numpy.random.Philox(numpy.random.SeedSequence(0, spawn_key=(3, s)))).random(N)
    order = numpy.argsort(u)

The first N // 2 people of `order` are trained on, the others tested.
"""

import re
from pathlib import Path

import numpy as np

from raid.data import counts
from raid.data.folder import SUFFIXES
from raid.data.samples import OnError, Record, Samples
from raid.data.streams import HALVES, stream
from raid.errors import InputError

ARCHIVE = "VIPeR"
CAMERAS = ("cam_a", "cam_b")
NUM_SPLITS = 10
_NAME = re.compile(r"(\d+)_(\d+)\.", re.ASCII)


def load(root: Path, *, split_number: int = 0, on_error: OnError = "fail") -> Samples:
    """Read VIPeR: of the people tested, cam_a's pictures are the queries and cam_b's the gallery.

    The evaluation goes both ways (facts: protocol is viper). Both cameras' pictures of the others are
    training images. Identities are the numbers in the names.

    Args:
        root: the folder that holds cam_a and cam_b, or its parent.
        split_number: which half is trained on, 0 to 9.
        on_error: an unreadable image stops, or is left out with a count.

    Raises:
        InputError: a folder is missing or empty, a name is not `PERSON_ANGLE.bmp`, or a person is not in
            both folders once.
    """
    assert 0 <= split_number < NUM_SPLITS, split_number
    base = _find(root)
    paths = [_paths(base, folder) for folder in CAMERAS]
    for person in sorted(set(paths[0]) ^ set(paths[1])):
        has, lacks = CAMERAS if person in paths[0] else CAMERAS[::-1]
        raise InputError(
            f"{base}: person {person} is in {has} and not in {lacks}; put the picture there, or take "
            "the other away"
        )
    trained = training_half(sorted(paths[0]), split_number)
    records = [
        Record(path, person, camera, "train" if person in trained else split)
        for camera, split in enumerate(("query", "gallery"))
        for person, path in paths[camera].items()
    ]
    samples = Samples.scan(
        base,
        records,
        name="viper",
        on_error=on_error,
        camera_names=CAMERAS,
        facts={"set": "VIPeR", "protocol": "viper", "split_number": str(split_number)},
    )
    counts.warn_of_differences(samples, counts.VIPER)
    return samples


def training_half(people: list[int], split_number: int) -> set[int]:
    """Return those of `people` (sorted) that a split trains on; see the module for how they are drawn."""
    order = np.argsort(stream(0, HALVES, split_number).random(len(people)))
    return {people[place] for place in order[: len(people) // 2]}


def _find(root: Path) -> Path:
    for base in (root, root / ARCHIVE):
        if all((base / folder).is_dir() for folder in CAMERAS):
            return base
    raise InputError(
        f"{root}: no folders {' and '.join(CAMERAS)} here or in {ARCHIVE}/; set data.root to where they are"
    )


def _paths(base: Path, folder: str) -> dict[int, str]:
    """Return the path of each person's picture in a folder."""
    paths: dict[int, str] = {}
    for file in sorted((base / folder).iterdir()):
        if file.suffix.lower() not in SUFFIXES or file.name.startswith("."):
            continue
        match = _NAME.match(file.name)
        if match is None:
            raise InputError(
                f"{file}: the name is not PERSON_ANGLE, as in 000_45.bmp; rename it, or take it away"
            )
        person = int(match[1])
        if person in paths:
            raise InputError(f"{file}: person {person} has {paths[person]} too; leave one picture a camera")
        paths[person] = f"{folder}/{file.name}"
    if not paths:
        raise InputError(
            f"{base / folder}: no picture here (PERSON_ANGLE.bmp); set data.root to the whole set"
        )
    return paths
