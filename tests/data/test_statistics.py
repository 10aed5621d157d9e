from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from raid.data.statistics import Statistics, channel_statistics
from raid.distributed.fanout import InProcess


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, and how many were asked for at a time."""

    pixels: np.ndarray
    asked: list[int]

    @property
    def height(self):
        return self.pixels.shape[2]

    @property
    def width(self):
        return self.pixels.shape[3]

    def __len__(self):
        return len(self.pixels)

    def gather(self, rows):
        self.asked.append(len(rows))
        return torch.from_numpy(self.pixels[rows])


def images_of(pixels):
    return ArrayImages(pixels, [])


def random_images(count=23, height=9, width=5):
    """Channels of different mean and spread."""
    generator = np.random.default_rng(0)
    values = generator.normal([200, 90, 30], [80, 40, 5], (count, height, width, 3))
    return values.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2).copy()


def exact(pixels):
    """Mean and variance as fractions, by the definition."""
    found = []
    for channel in range(3):
        values = [Fraction(int(value), 255) for value in pixels[:, channel].ravel()]
        mean = sum(values) / len(values)
        found.append((mean, sum((value - mean) ** 2 for value in values) / len(values)))
    return found


def test_mean_and_deviation_are_the_nearest_floats():
    pixels = random_images()
    found = channel_statistics(images_of(pixels))
    assert isinstance(found, Statistics)
    for channel, (mean, variance) in enumerate(exact(pixels)):
        assert found.mean[channel] == float(mean)
        assert found.std[channel] == pytest.approx(float(variance) ** 0.5, rel=3e-16)
        assert type(found.mean[channel]) is type(found.std[channel]) is float


def test_the_blocks_and_the_order_leave_every_bit():
    pixels = random_images()
    expected = channel_statistics(images_of(pixels))
    shuffled = pixels[np.random.default_rng(1).permutation(len(pixels))]
    for block_rows in (1, 2, 7, 23, 100):
        images = images_of(shuffled)
        assert channel_statistics(images, block_rows=block_rows, map_blocks=InProcess().map) == expected
        assert max(images.asked) == min(block_rows, 23)
        assert sum(images.asked) == 23
    assert channel_statistics(images_of(np.repeat(pixels, 3, axis=0))) == expected


def test_a_flat_channel_has_a_deviation_of_one_grey_level():
    pixels = random_images()
    pixels[:, 1] = 255
    pixels[:, 2] = 0
    found = channel_statistics(images_of(pixels))
    assert found.mean[1:] == (1.0, 0.0)
    assert found.std[1:] == (1 / 255, 1 / 255)
    assert found.std[0] > 0.1


def test_sums_beyond_32_bits_are_exact():
    pixels = np.full((2, 3, 400, 400), 255, np.uint8)  # squares of a channel: 10 times 2 ** 31
    pixels[1] = 254
    found = channel_statistics(images_of(pixels))
    assert found.mean == (254.5 / 255,) * 3
    pixels[1] = 251
    assert channel_statistics(images_of(pixels)).std == (2 / 255,) * 3


def test_no_image_has_no_statistics():
    with pytest.raises(ValueError, match="no image"):
        channel_statistics(images_of(np.empty((0, 3, 4, 4), np.uint8)))
