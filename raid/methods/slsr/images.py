"""Images of another size, from a file of generated ones, and two sets as one."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from raid.data.images import Images
from raid.errors import InputError
from raid.ops.neighbors import row_blocks

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

_BLOCK_ROWS = 256


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Return `images` (B, 3, H, W) uint8 on the CPU, whole, as (B, 3, height, width) uint8.

    Bicubic with antialiasing, as the training images are decoded, in integer arithmetic: the bits of an
    image depend neither on the others nor on the number of threads.
    """
    if images.shape[2:] == (height, width) or not len(images):
        return images.reshape(len(images), 3, height, width)
    # Contiguous, which torch's result is not: it would be copied again wherever it goes.
    return functional.interpolate(
        images, (height, width), mode="bicubic", antialias=True, align_corners=False
    ).contiguous()


def resized_array(images: Images, height: int, width: int) -> Bytes:
    """Return all `images` resized: (N, 3, height, width), N * 3 * height * width bytes."""
    pixels = np.empty((len(images), 3, height, width), dtype=np.uint8)
    start = 0
    for block in resized_blocks(images, height, width):
        pixels[start : start + len(block)] = block
        start += len(block)
    return pixels


def resized_blocks(images: Images, height: int, width: int) -> Iterator[Bytes]:
    """Yield all `images` resized, some at a time: (b, 3, height, width)."""
    for start, stop in row_blocks(len(images), _BLOCK_ROWS):
        block = images.gather(np.arange(start, stop, dtype=np.int64))
        yield resized(block, height, width).numpy()


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """Rows of a file of generated images (n, 3, h, w) uint8, resized to `height` x `width` where asked for.

    The file is mapped where it is used, once a process; all processes must see it at this path.
    """

    file: Path
    file_rows: Ints
    height: int
    width: int

    @staticmethod
    def open(file: Path, *, height: int, width: int) -> "GeneratedImages":
        """Return all images of `file`.

        Raises:
            InputError: the file is missing, or holds no images.
        """
        try:
            pixels = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file}: cannot be read as generated images: {error}") from error
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(f"{file}: holds {pixels.shape} {pixels.dtype}, no images (n, 3, h, w) uint8")
        return GeneratedImages(file.absolute(), np.arange(len(pixels), dtype=np.int64), height, width)

    def __len__(self) -> int:
        return len(self.file_rows)

    def gather(self, rows: Ints) -> Tensor:
        """Return the images `rows` (B,): (B, 3, height, width) uint8, the caller's own."""
        status = self.file.stat()
        pixels = _mapped(self.file, status.st_ino, status.st_mtime_ns)
        return resized(torch.from_numpy(pixels[self.file_rows[rows]]), self.height, self.width)

    def take(self, rows: Ints) -> "GeneratedImages":
        """Return the images `rows`, of the same file."""
        return replace(self, file_rows=self.file_rows[rows])


@functools.lru_cache(maxsize=4)
def _mapped(file: Path, inode: int, modified: int) -> Bytes:
    """Map the file read-only; its inode and time in the key, for another run may write it anew."""
    pixels: Bytes = np.load(file, mmap_mode="r")
    return pixels


@dataclass(frozen=True, eq=False)
class JoinedImages:
    """The images of two sets: row i is row i of `first`, or, from len(first) on, the next of `second`.

    Attributes:
        first: for example the real images.
        second: for example the generated ones, of the same size.
        rows: (N,) the rows of both that are meant; None: all.
    """

    first: Images
    second: Images
    rows: Ints | None = None

    def __post_init__(self) -> None:
        sizes = [(images.height, images.width) for images in (self.first, self.second)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"images of two sizes cannot be joined: {sizes[0]} and {sizes[1]}")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.first.height

    @property
    def width(self) -> int:
        """Pixels."""
        return self.first.width

    def __len__(self) -> int:
        return len(self.first) + len(self.second) if self.rows is None else len(self.rows)

    def gather(self, rows: Ints) -> Tensor:
        """Return the images `rows` (B,): (B, 3, H, W) uint8, the caller's own."""
        chosen = self._of_both(rows)
        in_second = chosen >= len(self.first)
        parts = (
            (~in_second, self.first, chosen),
            (in_second, self.second, chosen - len(self.first)),
        )
        batch = torch.empty(len(chosen), 3, self.height, self.width, dtype=torch.uint8)
        for mask, images, numbers in parts:
            if mask.any():
                batch[torch.from_numpy(mask)] = images.gather(numbers[mask])
        return batch

    def take(self, rows: Ints) -> "JoinedImages":
        """Return the images `rows`, of the same sets."""
        return replace(self, rows=self._of_both(rows))

    def _of_both(self, rows: Ints) -> Ints:
        """Return which of the rows of both sets `rows` are; a negative one counts from the end."""
        if self.rows is not None:
            return self.rows[rows]
        return np.arange(len(self), dtype=np.int64)[rows]
