"""Pictures side by side in a PNG file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raid.data.blurring import blurred
from raid.files import atomic_path
from raid.run_folder import GRID_GAP

_COLUMNS = 8


def grid(images: NDArray[np.uint8], columns: int = _COLUMNS) -> NDArray[np.uint8]:
    """Lay `images` (N, 3, h, w), at least one, out in rows of `columns`: (H, W, 3) uint8, white between."""
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + GRID_GAP) - GRID_GAP, columns * (width + GRID_GAP) - GRID_GAP, 3),
        255,
        dtype=np.uint8,
    )
    for number, image in enumerate(images):
        top, left = number // columns * (height + GRID_GAP), number % columns * (width + GRID_GAP)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet


def write_grid(path: Path, images: NDArray[np.uint8], *, blur: bool = False) -> None:
    """Write `images` (N, 3, h, w) to a PNG file, blurred if need be: as a whole, or not at all."""
    if blur:
        images = blurred(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with atomic_path(path) as temporary:
        Image.fromarray(grid(images)).save(temporary, "PNG")
