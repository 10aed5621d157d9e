"""Figures that tell whether a generator has collapsed: how far its samples vary, and whether they are copies.

Images are (N, ...) arrays of numbers or bytes, on one scale: samples are compared with real images as they
are. They may be mapped from a file; nothing is held in another form but a block of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.neighbors import Block, row_blocks
from raid.ops.products import as_slices, products

_BLOCK_ROWS = 256  # images of 128 x 128: 50 MB in float32

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NearestImages:
    """The image of a gallery that each image is nearest to.

    Attributes:
        distances: (N,) float64, root of the mean squared difference of their pixels, in the images' scale.
        index: (N,) int64, its place in the gallery; of equally near ones the first, within rounding.
    """

    distances: Floats
    index: NDArray[np.int64]


def pixel_variance(images: NDArray[Any]) -> Floats:
    """Return the variance over the images of every pixel and channel, float64, the shape of one image.

    Divided by N. Two passes over blocks: exact to rounding also where pixels hardly vary.

    Args:
        images: (N, ...), at least one.

    Raises:
        ValueError: no image, or one that is not finite.

    Memory: a block of 256 images in float64, and three images.
    """
    if len(images) == 0:
        raise ValueError("no images: there is nothing to vary")
    mean = sum(block.sum(axis=0, dtype=np.float64) for _, block in _blocks(images)) / len(images)
    if not np.isfinite(mean).all():
        raise ValueError("images must be finite")
    squares = sum(np.square(block - mean).sum(axis=0) for _, block in _blocks(images))
    return np.asarray(squares / len(images))


def variance_ratio(samples: NDArray[Any], real: NDArray[Any]) -> float:
    """Return the samples' mean pixel variance over that of the real images: near 0 after a mode collapse.

    Infinite where the real images do not vary: nothing falls short of them.

    Args:
        samples: (n, ...) generated images.
        real: (N, ...) images of the same shape and scale.

    Raises:
        ValueError: no samples or no real images, images that differ in shape or kind of
            number, or that are not finite.
    """
    _check_alike(samples, real)
    expected = float(pixel_variance(real).mean())
    return float(pixel_variance(samples).mean()) / expected if expected > 0 else float("inf")


def nearest_images(samples: NDArray[Any], gallery: NDArray[Any]) -> NearestImages:
    """Find the image of the gallery that each sample is nearest to: a copy, if the distance is near 0.

    What is near is told by the real images: their distances among themselves (`nearest_others`). A copy that
    is flipped, or shifted by a pixel, is not at 0.

    The nearest is found with float32 products, and may be another one that is as near within rounding (.01
    of 256 levels); its distance is exact, from the differences of the pixels: 0 for a copy, and for it alone.

    Args:
        samples: (n, ...).
        gallery: (N, ...), images of the same shape and scale.

    Raises:
        ValueError: no image in the gallery, images that differ in shape or kind of
            number, or that are not finite.

    Memory: two blocks of 256 images in float32, twice, and one of them in float64.
    """
    _check_alike(samples, gallery)
    if len(gallery) == 0:
        raise ValueError("no images to be near to")
    return _nearest(samples, gallery, itself=False)


def nearest_others(images: NDArray[Any]) -> NearestImages:
    """Find, for each image, the nearest one of the others: all near 0 after a mode collapse.

    Args:
        images: (N, ...), at least two.

    Raises:
        ValueError: fewer than two images, or one that is not finite.

    Precision and memory: as `nearest_images`.
    """
    if len(images) < 2:
        raise ValueError(f"need at least two images, got {len(images)}")
    return _nearest(images, images, itself=True)


def _nearest(samples: NDArray[Any], gallery: NDArray[Any], *, itself: bool) -> NearestImages:
    """Search block by block; `itself`: the gallery is the samples, and none is its own neighbour."""
    index, distances = np.zeros(len(samples), np.int64), np.zeros(len(samples))
    centre = gallery[:_BLOCK_ROWS].mean(axis=0, dtype=np.float64)  # the nearer to 0, the less rounding
    for (start, stop), block in _blocks(samples):
        rows = as_slices(_centred(block, centre))
        least = np.full(len(block), np.inf)
        for (first, _), others in _blocks(gallery):
            scores = _scores(rows, _centred(others, centre))
            if itself and first == start:
                np.fill_diagonal(scores, np.inf)
            places = scores.argmin(axis=1)
            found = scores[np.arange(len(block)), places]
            nearer = found < least
            least[nearer], index[start:stop][nearer] = found[nearer], first + places[nearer]
        squares = np.square(block - gallery[index[start:stop]].astype(np.float64))
        distances[start:stop] = np.sqrt(squares.reshape(len(block), -1).mean(axis=1))
    return NearestImages(distances, index)


def _scores(rows: list[torch.Tensor], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return |y|^2 / 2 - x . y for rows x and others y: least where the distance is."""
    norms = np.einsum("nd,nd->n", others, others, dtype=np.float64) / 2
    return np.asarray(norms.astype(np.float32) - products(rows, as_slices(others)))


def _centred(images: NDArray[Any], centre: Floats) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        rows = (images - centre).reshape(len(images), -1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("images must be finite")
    return rows


def _blocks(images: NDArray[Any]) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Yield which images a block holds, and the images."""
    for start, stop in row_blocks(len(images), _BLOCK_ROWS):
        yield (start, stop), images[start:stop]


def _check_alike(samples: NDArray[Any], real: NDArray[Any]) -> None:
    """Refuse images of two shapes, and bytes beside floats: their scales differ."""
    if samples.shape[1:] != real.shape[1:] or samples.dtype.kind != real.dtype.kind:
        raise ValueError(
            f"images must be alike, got {samples.shape[1:]} {samples.dtype} and {real.shape[1:]} {real.dtype}"
        )
