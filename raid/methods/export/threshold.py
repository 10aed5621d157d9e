"""The similarity from which two crops are taken for one person: given, or what `raid threshold` found."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raid.errors import InputError

_MOST_BYTES = 2**20
_MOST = 1 + 2**-20  # what `raid threshold` writes where nothing is to be accepted


@dataclass(frozen=True)
class Threshold:
    """A cosine similarity, -1 to 1, and the false-accept rate that it was chosen for where that is known."""

    similarity: float
    far: float | None = None


def given_threshold(similarity: float) -> Threshold:
    """Return the threshold of `--threshold`.

    Raises:
        InputError: it is no similarity.
    """
    return Threshold(_within("--threshold", similarity, -1.0, 1.0))


def read_threshold(path: Path, *, model: str, flip: bool, height: int, width: int) -> Threshold:
    """Read what `raid threshold` wrote.

    Args:
        path: of its JSON file.
        model: fingerprint of the model that is exported.
        flip: whether mirror images are added in the export.
        height: of its images.
        width: of its images.

    Raises:
        InputError: it is no such file, or is of another model, or of features that were made otherwise.
    """
    record = _record(path)
    missing = {"threshold", "far", "model", "flip"} - record.keys()
    if missing:
        raise InputError(f"{path}: not a file of `raid threshold`: it lacks {', '.join(sorted(missing))}")
    if record["model"] != model:
        raise InputError(
            f"{path}: is the threshold of another model ({str(record['model'])[:16]}, the checkpoint is "
            f"{model[:16]}); run `raid threshold` with features of this one"
        )
    if not isinstance(record["flip"], bool):
        raise InputError(f"{path}: flip: {str(record['flip'])[:40]} is neither true nor false")
    if record["flip"] is not flip:
        wanted = "--flip" if record["flip"] else "--no-flip"
        raise InputError(f"{path}: is of features made with {wanted}; export with {wanted} too")
    size = (record.get("height", height), record.get("width", width))
    if size != (height, width):
        raise InputError(
            f"{path}: is of features of images of {size[0]} x {size[1]}, the model's are {height} x {width}"
        )
    return Threshold(
        _within(f"{path}: threshold", record["threshold"], -1.0, _MOST),
        _within(f"{path}: far", record["far"], 0.0, 1.0),
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        record = json.loads(text) if len(text) <= _MOST_BYTES else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path}: not a file of `raid threshold`: it holds no JSON record")
    return record


def _within(name: str, value: Any, least: float, most: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        raise InputError(f"{name}: {str(value)[:40]} is not a number from {least:g} to {most:g}")
    return float(value)
