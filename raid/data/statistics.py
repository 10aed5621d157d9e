"""Mean and deviation of a set's pixels, a channel each, which a method may normalise with (as MAR does)."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from raid.data.augment import IMAGENET_MEAN, IMAGENET_STD, Triple
from raid.data.images import Bytes, Images
from raid.ops.compiled import compiled
from raid.ops.neighbors import Block, MapBlocks, row_blocks

_LEAST_STD = 1 / 255


@dataclass(frozen=True)
class Statistics:
    """Of the red, green and blue values, scaled to 0..1."""

    mean: Triple
    std: Triple


IMAGENET = Statistics(IMAGENET_MEAN, IMAGENET_STD)


def channel_statistics(images: Images, *, block_rows: int = 256, map_blocks: MapBlocks = map) -> Statistics:
    """Return the mean and the population deviation of each channel over all pixels of all images.

    Exact: whole numbers are added up, and rounded once at the end. So the bits depend neither on the
    blocks, nor on the order of the images, nor on who read them. A deviation below one grey level, as that
    of a channel that is the same everywhere, is returned as one grey level: whoever divides by it gets
    finite numbers, 0 for the channel that never changes.

    Args:
        images: N of them.
        block_rows: images that are read at a time, block_rows * 3 * height * width bytes. Reading them is
            what takes the time: the sums alone are 0.04 ns a value.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Raises:
        ValueError: no image.
    """
    if len(images) == 0:
        raise ValueError("no image to take the statistics of")
    totals = [[0, 0], [0, 0], [0, 0]]
    for part in map_blocks(partial(_sums_of_block, images=images), row_blocks(len(images), block_rows)):
        for total, sums in zip(totals, part.tolist(), strict=True):
            total[0] += sums[0]
            total[1] += sums[1]
    count = len(images) * images.height * images.width
    red, green, blue = (_mean_and_std(count, *total) for total in totals)
    return Statistics((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))


def _mean_and_std(count: int, total: int, squares: int) -> tuple[float, float]:
    # Python's integers do not overflow, and their quotient is the nearest float.
    variance = (count * squares - total**2) / (255 * count) ** 2
    return total / (255 * count), max(math.sqrt(variance), _LEAST_STD)


def _sums_of_block(block: Block, images: Images) -> NDArray[np.int64]:
    pixels = images.gather(np.arange(*block)).numpy()
    return _sums(pixels.reshape(*pixels.shape[:2], -1))


@compiled
def _sums(pixels: Bytes) -> NDArray[np.int64]:
    """Return each channel's sum and sum of squares, (C, 2), of (B, C, P)."""
    sums = np.zeros((pixels.shape[1], 2), np.int64)
    for image in pixels:
        for channel in range(len(sums)):
            total, squares = np.int64(0), np.int64(0)
            for value in image[channel]:
                total += np.int64(value)
                squares += np.int64(value) * np.int64(value)
            sums[channel, 0] += total
            sums[channel, 1] += squares
    return sums
