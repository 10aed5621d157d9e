"""Records of a run as lines of figures: read, and each checked for what is needed of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raid.errors import InputError

Epoch = dict[str, Any]


def records(path: Path, read: Callable[[], list[Epoch]], *needed: str) -> list[Epoch]:
    """Return the lines of a file, each of which has a number under the needed keys.

    Args:
        path: of the file, for the errors.
        read: returns its lines.
        needed: keys.

    Raises:
        InputError: the file is damaged, or a line lacks a key.
    """
    try:
        lines = read()
    except ValueError as error:  # no JSON, or no text at all
        raise InputError(f"{path}: is damaged: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not all(isinstance(line.get(key), (int, float)) for key in needed):
            raise InputError(f"{path}: line {number} lacks {' or '.join(needed)}")
    return lines


def is_finite(value: Any) -> bool:
    """Whether a recorded value is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
