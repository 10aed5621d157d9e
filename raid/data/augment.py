"""Augmentation of a batch on the device it is on, from random numbers drawn beforehand (ICSR section 3.1).

The draws are the host's, and those of position i depend on the generator and i alone: so a worker that
holds part of a batch augments it as one that holds all of it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# torchvision's RandomErasing gives up after as many rectangles that do not fit.
ERASE_ATTEMPTS = 10

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Augmentation:
    """Flip, padded crop and erasing, in the order and with the numbers of the ICSR release.

    Attributes:
        input_size: height and width of the random crop; None: those of the image.
    """

    flip: float = 0.5
    pad: int = 10
    input_size: tuple[int, int] | None = None
    erase_probability: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    # Put in after the normalisation, so not the mean colour; kept as published.
    erase_fill: Triple = IMAGENET_MEAN
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def crop_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of what comes out of images of `height` x `width`."""
        return self.input_size or (height, width)

    def slack(self, height: int, width: int) -> tuple[int, int]:
        """Return how far the crop can move in the padded image, down and right; negative: it does not fit."""
        down, right = self.crop_size(height, width)
        return height + 2 * self.pad - down, width + 2 * self.pad - right


@dataclass(frozen=True)
class Draws:
    """What happens to each of B images.

    `flip` (B,) bool; `top`, `left` (B,) int64: corner of the crop in the padded image; `erase` (B, 4)
    int64: y, x, height, width of the rectangle erased in the crop, height 0 = none.
    """

    flip: NDArray[np.bool_]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    erase: NDArray[np.int64]

    def rows(self, rows: slice) -> "Draws":
        """Return the draws of some positions."""
        return Draws(self.flip[rows], self.top[rows], self.left[rows], self.erase[rows])


def draw(
    augmentation: Augmentation, count: int, height: int, width: int, generator: np.random.Generator
) -> Draws:
    """Draw what happens to `count` images of `height` x `width`.

    Every position uses the same number of random numbers, whatever they turn out to be.

    Raises:
        ValueError: the crop is larger than the padded image.
    """
    slack = np.array(augmentation.slack(height, width))
    if (slack < 0).any():
        raise ValueError(
            f"a crop of {augmentation.input_size} does not fit images of {height} x {width} with "
            f"{augmentation.pad} pixels on every side"
        )
    numbers = generator.random((count, 4 + ERASE_ATTEMPTS * 4))
    offsets = (numbers[:, 1:3] * (slack + 1)).astype(np.int64)
    attempts = numbers[:, 4:].reshape(count, ERASE_ATTEMPTS, 4)
    erase = _rectangles(augmentation, attempts, *augmentation.crop_size(height, width))
    erase[numbers[:, 3] >= augmentation.erase_probability] = 0
    return Draws(numbers[:, 0] < augmentation.flip, offsets[:, 0], offsets[:, 1], erase)


def augment(
    images: Tensor, draws: Draws, augmentation: Augmentation, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Flip, pad with black, crop, normalise and erase.

    Args:
        images: (B, 3, H, W) uint8, on any device.
        draws: of the B images.
        augmentation: that the draws were made for.
        dtype: of the result.

    Returns:
        (B, 3, H', W') of `dtype` on the device of `images`; H' and W' are those of the crop.
    """
    pad, (height, width) = augmentation.pad, images.shape[-2:]
    size = augmentation.crop_size(height, width)
    host = np.column_stack([draws.flip, draws.top, draws.left, draws.erase]).astype(np.int64)
    flip, top, left, *erase = torch.from_numpy(host).to(images.device).T[..., None]
    y, x = (torch.arange(side, device=images.device) for side in size)
    # One gather does flip, pad and crop: every pixel of the result looks up where it comes from.
    rows = y + top - pad
    columns = x + left - pad
    inside = _mask(_between(rows, 0, height), _between(columns, 0, width))
    columns = torch.where(flip.bool(), width - 1 - columns, columns)
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    source = source.flatten(1)[:, None, :].expand(-1, 3, -1)
    cropped = images.flatten(2).gather(2, source).unflatten(2, size) * inside
    erased = _mask(_between(y, erase[0], erase[0] + erase[2]), _between(x, erase[1], erase[1] + erase[3]))
    fill = _per_channel(augmentation.erase_fill, images.device, dtype)
    return torch.where(erased, fill, normalize(cropped, augmentation, dtype=dtype))


def normalize(images: Tensor, augmentation: Augmentation, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale uint8 images (B, 3, H, W) to 0..1, subtract the mean and divide by the deviation."""
    mean = _per_channel(augmentation.mean, images.device, dtype)
    std = _per_channel(augmentation.std, images.device, dtype)
    return images.to(dtype).div_(255).sub_(mean).div_(std)


def _rectangles(
    augmentation: Augmentation, numbers: NDArray[np.float64], height: int, width: int
) -> NDArray[np.int64]:
    """Return the first rectangle (y, x, h, w) of each position that fits, or zeros: (B, 4)."""
    smallest, largest = augmentation.erase_area
    low, high = (math.log(aspect) for aspect in augmentation.erase_aspect)
    area = height * width * (smallest + numbers[..., 0] * (largest - smallest))
    aspect = np.exp(low + numbers[..., 1] * (high - low))
    h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (h < height) & (w < width)
    y, x = np.floor(numbers[..., 2] * (height - h + 1)), np.floor(numbers[..., 3] * (width - w + 1))
    every = np.stack([y, x, h, w], axis=-1)
    first = every[np.arange(len(every)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1, keepdims=True), first, 0).astype(np.int64)


def _between(values: Tensor, start: Tensor | int, end: Tensor | int) -> Tensor:
    return (values >= start) & (values < end)


def _mask(rows: Tensor, columns: Tensor) -> Tensor:
    """Combine (B, H) and (B, W) to (B, 1, H, W)."""
    return rows[:, None, :, None] & columns[:, None, None, :]


def _per_channel(values: Triple, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1)
