"""Previews in which nobody is recognised: a picture of a few colours, of which the rest is gone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.images import Images, Ints

Bytes = NDArray[np.uint8]

NUM_COLUMNS = 8  # blocks across a picture: of a person seen whole, a face is one or two


def blurred(pixels: Bytes) -> Bytes:
    """Return pictures (..., H, W, C) whose blocks have the mean of their pixels, rounded; of the same shape.

    A picture has NUM_COLUMNS blocks across (or as many as pixels) and as many down as make them square.
    Pictures of equal means give the same result: what was inside a block cannot be had back.
    """
    height, width = pixels.shape[-3:-1]
    across = min(NUM_COLUMNS, width)
    down = min(height, max(1, round(height * across / width)))
    rows, columns = _edges(height, down), _edges(width, across)
    sums = np.add.reduceat(pixels.astype(np.int64), rows[:-1], axis=-3)
    sums = np.add.reduceat(sums, columns[:-1], axis=-2)
    counts = np.multiply.outer(np.diff(rows), np.diff(columns))[..., None]
    means = ((2 * sums + counts) // (2 * counts)).astype(np.uint8)
    tall = np.repeat(means, np.diff(rows), axis=-3)
    return np.repeat(tall, np.diff(columns), axis=-2)


def blurred_sheet(sheet: Bytes, height: int, width: int, gap: int) -> Bytes:
    """Return a sheet (H, W, C) of pictures side by side, each blurred by itself.

    Args:
        sheet: pictures of `height` x `width` with `gap` pixels between them; of any other size it is blurred
            as one picture, which leaves less of it.
        height: of a picture.
        width: of a picture.
        gap: between two.
    """
    tall, wide = sheet.shape[:2]
    if (tall + gap) % (height + gap) or (wide + gap) % (width + gap):
        return blurred(sheet)
    result = sheet.copy()
    for top in range(0, tall, height + gap):
        for left in range(0, wide, width + gap):
            place = slice(top, top + height), slice(left, left + width)
            result[place] = blurred(sheet[place])
    return result


@dataclass(frozen=True, eq=False)
class BlurredImages:
    """Images of which nothing but the blurred ones can be had; see `raid.data.images.Images`."""

    images: Images

    @property
    def height(self) -> int:
        """Pixels."""
        return self.images.height

    @property
    def width(self) -> int:
        """Pixels."""
        return self.images.width

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: Ints) -> Tensor:
        """Return the blurred images `rows` (B,): (B, 3, H, W) uint8."""
        pixels = self.images.gather(rows).numpy().transpose(0, 2, 3, 1)
        return torch.from_numpy(np.ascontiguousarray(blurred(pixels).transpose(0, 3, 1, 2)))

    def take(self, rows: Ints) -> "BlurredImages":
        """Return the images `rows`, blurred too."""
        return BlurredImages(self.images.take(rows))


def _edges(length: int, count: int) -> Ints:
    """Return where `count` blocks of about one size begin and end in `length` pixels."""
    return np.arange(count + 1) * length // count
