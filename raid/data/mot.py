"""Boxes of people in the frames of a video, as the MOT challenge has them and trackers write them.

A line is `frame,id,left,top,width,height,confidence,x,y,z`; a ground truth (gt.txt) has
`...,considered,class,visibility` in place of what follows the height. What comes after the height may be left
out. Frames are numbered from 1; an id of -1 is nobody's, as in det.txt.
"""

import configparser
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raid.data.folder import SUFFIXES
from raid.data.manifest import relative_path
from raid.errors import InputError

NOBODY = -1
_NAMES = ("frame", "id", "left", "top", "width", "height")
_NUM_TRUTH = 9  # columns of a ground truth; a tracker's output has another number
_COLUMNS = 7  # kept of a line: its number and _NAMES
_MOST_PIXELS = 1e6
_MOST_WHOLE = 2**53  # what a float64 holds exactly
_LONGEST_LINE = 10_000
_NUMBERED = re.compile(r"(\d{1,15})$", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which boxes are taken.

    Attributes:
        every: frames 1, 1 + every, 1 + 2 * every, ...
        min_height: of what of the box is in the frame, in pixels.
        min_confidence: None: any, and of a ground truth those that are to be considered (flag 1).
        min_visibility: 0 to 1; of a ground truth.
        classes: of a ground truth; empty: all.
    """

    every: int = 1
    min_height: float = 1.0
    min_confidence: float | None = None
    min_visibility: float | None = None
    classes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Boxes:
    """What is wanted of a file.

    Attributes:
        file: where they stood.
        rows: (N, 7) float64: line, frame, id, left, top, width, height; sorted by frame, then line.
        left_out: how many others there are, by the reason.
    """

    file: Path
    rows: NDArray[np.float64]
    left_out: Counter[str]

    def frames(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield every frame with its rows."""
        numbers, starts = np.unique(self.rows[:, 1], return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], len(self.rows)], strict=False):
            yield int(number), self.rows[start:stop]


@dataclass(frozen=True)
class Video:
    """A sequence of frames with boxes."""

    name: str
    boxes: Boxes
    frames: dict[int, Path]  # the pictures by their numbers


def read_video(
    folder: Path,
    wanted: Wanted,
    boxes: Path | None = None,
    frames: Path | None = None,
    *,
    alone: bool = True,
) -> Video:
    """Read the boxes of a sequence and find its frames.

    Args:
        folder: of the sequence, with seqinfo.ini where there is one.
        wanted: which boxes.
        boxes: their file; None: gt/gt.txt, or else det/det.txt.
        frames: folder of the pictures; None: imDir of seqinfo.ini, or else img1.
        alone: where `boxes` and `frames` are not in the folder, they may be anywhere.

    Raises:
        InputError: a file is missing, a line is malformed, or a frame that has boxes has no picture.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder (of a sequence, with img1/ and gt/gt.txt)")
    info = _seqinfo(folder / "seqinfo.ini")
    file = _boxes_file(folder) if boxes is None else _given(folder, boxes, alone)
    found = read_boxes(file, wanted)
    own = Path(info.get("imdir", "img1"))
    place = _given(folder, own, False) if frames is None else _given(folder, frames, alone)
    pictures = _pictures(place, info.get("imext"))
    for number, rows in found.frames():
        if number not in pictures:
            raise InputError(
                f"{place}: there is no picture of frame {number}, of which {file} has a box (line "
                f"{int(rows[0, 0])})"
            )
    return Video(folder.resolve().name or "sequence", found, pictures)


def read_boxes(file: Path, wanted: Wanted) -> Boxes:
    """Read the boxes that are wanted of a file.

    Raises:
        InputError: it cannot be read, a line is malformed, or it lacks the columns that are asked for.

    Memory: 56 bytes a box.
    """
    kept, left_out = array("d"), Counter[str]()
    first = 0
    for line, texts in _lines(file):
        place = f"{file}: line {line}"
        first = first or len(texts)
        if len(texts) != first:
            raise InputError(f"{place} has {len(texts)} values, the lines before it {first}")
        row = [float(line), *_values(place, texts)]
        reason = _unwanted(place, row, texts, wanted)
        if reason is None:
            kept.extend(row)
        else:
            left_out[reason] += 1
    rows = np.array(kept).reshape(-1, _COLUMNS)
    return Boxes(file, rows[np.argsort(rows[:, 1], kind="stable")], left_out)


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number (from 1) and the values of every line that is not empty."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            line = 0
            while text := lines.readline(_LONGEST_LINE):
                line += 1
                if text.strip():
                    values = text.split(",")
                    if not len(_NAMES) <= len(values) <= 10 or len(text) == _LONGEST_LINE:
                        raise InputError(
                            f"{file}: line {line}: {text.strip()[:40]!r} is not "
                            "frame,id,left,top,width,height,confidence,x,y,z"
                        )
                    yield line, values
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error


def _values(place: str, texts: list[str]) -> Iterator[float]:
    """Yield frame, id, left, top, width and height."""
    for name, text in zip(_NAMES, texts, strict=False):
        value = _number(place, name, text)
        whole = name in ("frame", "id")
        if not abs(value) < (_MOST_WHOLE if whole else _MOST_PIXELS):
            raise InputError(f"{place}: {name} is {text.strip()[:40]}: too large")
        least = {"frame": 0, "id": NOBODY}.get(name, -math.inf)
        if value < least or (whole and value != int(value)):
            raise InputError(f"{place}: {name} is {text.strip()[:40]}: wanted a whole number from {least}")
        yield value


def _number(place: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{place}: {name} is {text.strip()[:40]!r}: not a number")
    return value


def _unwanted(place: str, row: list[float], texts: list[str], wanted: Wanted) -> str | None:
    """Return why a box is left out."""
    truth = len(texts) == _NUM_TRUTH
    if (wanted.classes or wanted.min_visibility is not None) and not truth:
        raise InputError(
            f"{place} has {len(texts)} values, and only the {_NUM_TRUTH} of a ground truth have class and "
            "visibility; leave out --classes and --min-visibility"
        )
    if int(row[1] - 1) % wanted.every:
        return "in other frames (--every)"
    if len(texts) > len(_NAMES):
        confidence = _number(place, "confidence", texts[6])
        if wanted.min_confidence is not None and confidence < wanted.min_confidence:
            return "below --min-confidence"
        if wanted.min_confidence is None and truth and confidence == 0:
            return "marked as not to be considered"
    if wanted.classes and _number(place, "class", texts[7]) not in wanted.classes:
        return "of other classes"
    if wanted.min_visibility is not None and _number(place, "visibility", texts[8]) < wanted.min_visibility:
        return "below --min-visibility"
    return None


def _boxes_file(folder: Path) -> Path:
    choices = [folder / "gt" / "gt.txt", folder / "det" / "det.txt"]
    for file in choices:
        if file.is_file():
            return file
    raise InputError(f"there is no {' and no '.join(map(str, choices))}; name the file by --boxes")


def _given(folder: Path, path: Path, alone: bool) -> Path:
    """Return a path in the folder of a sequence, or of a single one anywhere.

    Raises:
        InputError: it leaves the folder of one sequence of several.
    """
    if alone:
        return folder / path if (folder / path).exists() else path
    return folder / relative_path(folder, str(path))


def _seqinfo(file: Path) -> dict[str, str]:
    """Return the entries of seqinfo.ini, none where it is not there."""
    if not file.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with file.open(encoding="utf-8") as opened:
            parser.read_string(opened.read(_LONGEST_LINE))
        return dict(parser["Sequence"])
    except (configparser.Error, KeyError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not a sequence's description: {reason}; mend or remove it") from error


def _pictures(folder: Path, suffix: str | None) -> dict[int, Path]:
    """Return the pictures of a folder by the numbers at the end of their names: 000001.jpg is 1."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name that of the frames by --frames")
    found: dict[int, Path] = {}
    for file in folder.iterdir():
        numbered = _NUMBERED.search(file.stem)
        if (
            numbered is None
            or file.name.startswith(".")
            or file.suffix.lower() not in ({suffix.lower()} if suffix else SUFFIXES)
        ):
            continue
        number = int(numbered[1])
        if number in found:
            names = sorted((found[number].name, file.name))
            raise InputError(f"{folder}: {names[0]} and {names[1]} are both of frame {number}; keep one")
        found[number] = file
    return found
