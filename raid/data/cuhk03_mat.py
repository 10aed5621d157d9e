"""What CUHK03 was released as: cuhk-03.mat, a MATLAB v7.3 file (HDF5), and how its pictures become files.

`detected` and `labeled` are cells of 5 x 1, one a pair of cameras; each holds references to N_i x 10 cells:
a person's pictures, the first five by one camera of the pair, the others by the other. `testsets` is 20 x 1
cells of (100, 2): pair and person of those who are tested. HDF5 gives every array transposed. A picture that
is not there is an empty cell, which MATLAB writes as an array of its size: (0, 0).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raid.data.samples import progress
from raid.errors import InputError, one_line
from raid.files import atomic_folder

VIEWS, PICTURES = 2, 10  # cameras of a pair; places for a person's pictures, a half for each
_AGAIN = "unpack cuhk03_release.zip again"


@dataclass(frozen=True)
class Person:
    """Pair of cameras, and the number of the person there; both from 1."""

    pair: int
    person: int


@dataclass(frozen=True)
class Picture:
    """One picture of the release.

    Attributes:
        name: of the file that it is extracted to, `PAIR_PERSON_VIEW_PICTURE.png`, all from 1.
        of: whom it shows.
        identity: the person's number in the whole release, from 0, pair after pair.
        view: 0 or 1: which camera of the pair.
    """

    name: str
    of: Person
    identity: int
    view: int


def pictures(mat: Path, key: str) -> list[Picture]:
    """Return the pictures of `detected` or `labeled`, without reading their pixels.

    Raises:
        InputError: the file is not the release's.
    """
    with _opened(mat) as file:
        return [picture for picture, _ in _pictures(file, key)]


def tested_people(mat: Path, split_number: int) -> set[Person]:
    """Return the people tested in one of the classic splits (from 0).

    Raises:
        InputError: the file is not the release's, or has no such split.
    """
    with _opened(mat) as file:
        splits = np.ravel(file["testsets"][()])
        if split_number >= len(splits):
            raise InputError(
                f"{mat}: has {len(splits)} test sets, and data.split_number is {split_number} (from 0)"
            )
        rows = file[splits[split_number]][()].T
        return {Person(int(pair), int(person)) for pair, person in rows}


def extract(mat: Path, key: str, folder: Path) -> None:
    """Write the pictures of `detected` or `labeled` to `folder` as PNG files: all of them, or no folder.

    Raises:
        InputError: the file is not the release's, or the folder cannot be written.
    """
    try:
        with _opened(mat) as file, atomic_folder(folder) as temporary:
            found = list(_pictures(file, key))
            for picture, array in progress(found, len(found), f"extracting {folder.name}"):
                Image.fromarray(_pixels(mat, array)).save(temporary / picture.name, compress_level=1)
    except OSError as error:
        if folder.is_dir():  # another process was quicker
            return
        raise InputError(
            f"{folder}: the pictures of {mat.name} cannot be extracted to here: {error.strerror or error}; "
            "make room, or copy the .mat file to a folder that can be written"
        ) from error


def _pixels(mat: Path, array: h5py.Dataset) -> NDArray[np.uint8]:
    """Return a picture (height, width, 3)."""
    try:
        pixels: NDArray[np.uint8] = array[()].T
    except OSError as error:
        raise InputError(f"{mat}: is damaged: {one_line(error)}; {_AGAIN}") from error
    return np.ascontiguousarray(pixels)


def _pictures(file: h5py.File, key: str) -> Iterator[tuple[Picture, h5py.Dataset]]:
    """Yield each picture with its array (3, width, height), uint8, which is not read yet."""
    first = 0
    for pair, reference in enumerate(np.ravel(file[key][()]), start=1):
        people = file[reference][()].T  # (N_i, 10)
        if people.ndim != 2 or people.shape[1] != PICTURES:
            raise ValueError(f"pair {pair} of {key} is {people.shape}, wanted (people, {PICTURES})")
        for person, cells in enumerate(people, start=1):
            for number, cell in enumerate(cells):
                array = file[cell]
                if array.ndim == 3 and array.size:
                    view = number // (PICTURES // VIEWS)
                    name = f"{pair}_{person:03d}_{view + 1}_{number + 1:02d}.png"
                    yield Picture(name, Person(pair, person), first + person - 1, view), array
        first += len(people)


@contextmanager
def _opened(mat: Path) -> Iterator[h5py.File]:
    try:
        # Without a lock, which some shared file systems refuse; nobody writes this file.
        file = h5py.File(mat, "r", locking=False)
    except OSError as error:
        raise InputError(
            f"{mat}: cannot be opened as a MATLAB v7.3 file: {one_line(error)}; {_AGAIN}"
        ) from error
    with file:
        try:
            yield file
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{mat}: is not cuhk-03.mat as it was released: {one_line(error)}; {_AGAIN}"
            ) from error
