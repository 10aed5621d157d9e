"""Images decoded and resized once into a memory-mapped array, or decoded on the fly."""

import functools
import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.image_files import Root, absolute, read_image, read_unchanged
from raid.data.pixels import decode
from raid.data.reading import READ_TIMEOUT_S, within
from raid.data.samples import NUM_THREADS, OnError, Samples, progress, skip_or_fail
from raid.errors import InputError, one_line
from raid.files import atomic_path

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Failures = dict[int, str]  # row -> what is wrong with its bytes

_FORMAT = "2 bicubic"  # part of the cache's name: raise the number when the pixels change
_GIB = 2**30


class Images(Protocol):
    """N decoded images; can be pickled, and opens what it reads where it is used."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def width(self) -> int:
        """Pixels."""

    def __len__(self) -> int: ...

    def gather(self, rows: Ints) -> Tensor:
        """Return the images `rows` (B,): (B, 3, H, W) uint8, RGB, on the CPU, the caller's own."""

    def take(self, rows: Ints) -> "Images":
        """Return the images `rows` (M,), in the order given."""


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Rows of a decoded array (all images, 3, H, W) in a file; a node without the file decodes them anew."""

    file: Path
    file_rows: Ints
    height: int
    width: int
    samples: Samples  # all rows of the file
    read_timeout_s: float = READ_TIMEOUT_S

    def __len__(self) -> int:
        return len(self.file_rows)

    def gather(self, rows: Ints) -> Tensor:
        """Copy the images `rows` out of the file's pages.

        Raises:
            InputError: this node has neither the file nor the images, or they did not come in time.
        """
        try:
            pixels = _mapped(self.file)
        except FileNotFoundError:
            shape = (len(self.samples), 3, self.height, self.width)
            _open_cache(self.samples, self.file, shape, NUM_THREADS, self.read_timeout_s)
            pixels = _mapped(self.file)
        copied = within(self.read_timeout_s, lambda: pixels[self.file_rows[rows]], str(self.file))
        return torch.from_numpy(copied)

    def take(self, rows: Ints) -> "CachedImages":
        """Return the images `rows`, of the same file."""
        return replace(self, file_rows=self.file_rows[rows])


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Image files that are decoded whenever they are asked for."""

    root: Root
    paths: tuple[str, ...]
    height: int
    width: int
    num_threads: int
    read_timeout_s: float = READ_TIMEOUT_S

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, rows: Ints) -> Tensor:
        """Decode the images `rows` in a thread pool.

        Raises:
            InputError: a file is gone, cannot be decoded, or did not come in time.
        """
        paths = [self.paths[row] for row in rows]
        images = np.empty((len(paths), 3, self.height, self.width), dtype=np.uint8)
        decoded = _pool(self.num_threads, os.getpid()).map(self._decode, paths)
        for image, pixels in zip(images, decoded, strict=True):
            image[...] = pixels
        return torch.from_numpy(images)

    def take(self, rows: Ints) -> "DecodedImages":
        """Return the images `rows`."""
        return replace(self, paths=tuple(self.paths[row] for row in rows))

    def _decode(self, path: str) -> Bytes:
        try:
            return decode(read_image(self.root, path, self.read_timeout_s), self.height, self.width)
        except InputError:
            raise
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            raise InputError(
                f"{self.root}/{path}: {one_line(error)}; mend it, or leave it out with data.on_error=skip"
            ) from error


def open_images(
    samples: Samples,
    *,
    height: int,
    width: int,
    cache_folder: Path,
    cache_limit_gib: float = 64.0,
    on_error: OnError = "fail",
    num_threads: int = NUM_THREADS,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> tuple[Samples, Images]:
    """Decode the images of `samples`, or reopen the cache of an earlier call.

    A set that is larger than the limit is decoded on the fly; with `on_error="skip"` it is decoded once
    here to find what must be left out, and the finding is kept.

    Args:
        samples: N images.
        height: of the decoded images.
        width: of the decoded images.
        cache_folder: where caches are, one file for a set, order and size.
        cache_limit_gib: largest cache, N * 3 * height * width bytes.
        on_error: an image that cannot be decoded stops, or is left out with a count.
        num_threads: images decoded at a time.
        read_timeout_s: to wait for a file.

    Returns:
        The samples that could be decoded and their images: row i of one is row i of the other.

    Raises:
        InputError: an image cannot be decoded, is gone or has changed since `samples` was made, or the
            cache cannot be written.
    """
    shape = (len(samples), 3, height, width)
    cached = math.prod(shape) <= cache_limit_gib * _GIB
    # Absolute: the images travel to processes with another working directory.
    array = cache_folder.absolute() / f"{_fingerprint(samples, height, width)}_{height}x{width}.npy"
    try:
        if cached:
            failures = _open_cache(samples, array, shape, num_threads, read_timeout_s)
        else:
            failures = (
                _verified(samples, array, shape, num_threads, read_timeout_s) if on_error == "skip" else {}
            )
    except OSError as error:
        raise InputError(f"data.cache_folder: {cache_folder}: {one_line(error)}; choose another") from error
    paths = samples.paths
    bad = [(paths[row], reason) for row, reason in failures.items()]
    skip_or_fail(bad, len(samples), root=samples.root, on_error=on_error)
    images: Images = (
        CachedImages(
            array,
            np.arange(len(samples)),
            height,
            width,
            replace(samples, root=absolute(samples.root)),
            read_timeout_s,
        )
        if cached
        else decoded_when_asked(samples, height, width, num_threads, read_timeout_s)
    )
    if not failures:
        return samples, images
    good = np.setdiff1d(np.arange(len(samples)), list(failures))
    return samples.take(good), images.take(good)


def decoded_when_asked(
    samples: Samples,
    height: int,
    width: int,
    num_threads: int = NUM_THREADS,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> DecodedImages:
    """Return the images of `samples`, of which none is decoded yet; the rest is as in `open_images`."""
    root = absolute(samples.root)  # as the cache: they travel too
    return DecodedImages(root, tuple(samples.paths), height, width, num_threads, read_timeout_s)


def _fingerprint(samples: Samples, height: int, width: int) -> str:
    contents = samples.table["content"].to_pylist()
    key = json.dumps([_FORMAT, height, width, contents])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _open_cache(
    samples: Samples, array: Path, shape: tuple[int, ...], num_threads: int, read_timeout_s: float
) -> Failures:
    """Return the failures that the cache records, after building it where it is not whole."""
    failures = _read_failures(array)
    if failures is not None and _is_whole(array, shape):
        return failures
    array.parent.mkdir(parents=True, exist_ok=True)
    needed, free = math.prod(shape), shutil.disk_usage(array.parent).free
    if needed > free:
        # A mapped file that outgrows the disk kills the process without a word.
        raise InputError(
            f"data.cache_folder: {array.parent} has {free / _GIB:.1f} GiB free and the cache takes "
            f"{needed / _GIB:.1f}; choose another, or data.cache_limit_gib=0 to decode on the fly"
        )
    # Two processes may both build: each writes its own file, and the last to finish replaces an equal one.
    with atomic_path(array) as temporary:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        failures = _decode_all(samples, shape, pixels, num_threads, read_timeout_s)
        pixels.flush()
        del pixels
        _write_failures(array, failures)
    return failures


def _verified(
    samples: Samples, array: Path, shape: tuple[int, ...], num_threads: int, read_timeout_s: float
) -> Failures:
    """Return which rows cannot be decoded, from the record or by trying every one."""
    failures = _read_failures(array)
    if failures is None:
        failures = _decode_all(samples, shape, None, num_threads, read_timeout_s)
        _write_failures(array, failures)
    return failures


def undecodable(
    samples: Samples, height: int, width: int, read_timeout_s: float = READ_TIMEOUT_S
) -> Failures:
    """Return which images cannot be decoded, and why, by row; every one is tried.

    Raises:
        InputError: a file is gone or has changed since `samples` was made, or did not come in time.
    """
    return _decode_all(samples, (len(samples), 3, height, width), None, NUM_THREADS, read_timeout_s)


def _decode_all(
    samples: Samples,
    shape: tuple[int, ...],
    pixels: Bytes | None,
    num_threads: int,
    read_timeout_s: float,
) -> Failures:
    """Decode every image, into `pixels` where given; return what is wrong with those that cannot be."""
    *_, height, width = shape

    def work(row: int, path: str, content: str) -> str | None:
        data = read_unchanged(samples.root, path, content, read_timeout_s)
        try:
            image = decode(data, height, width)
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            return one_line(error)
        if pixels is not None:
            pixels[row] = image
        return None

    rows, contents = range(len(samples)), samples.table["content"].to_pylist()
    with ThreadPoolExecutor(num_threads) as pool:
        reasons = pool.map(work, rows, samples.paths, contents)
        reasons = progress(reasons, len(samples), f"decoding {samples.name}")
        return {row: reason for row, reason in zip(rows, reasons, strict=True) if reason is not None}


def _read_failures(array: Path) -> Failures | None:
    try:
        record = json.loads(array.with_suffix(".json").read_text())
        return {int(row): str(reason) for row, reason in record["failed"].items()}
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _write_failures(array: Path, failures: Failures) -> None:
    with atomic_path(array.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"failed": failures}))


def _is_whole(array: Path, shape: tuple[int, ...]) -> bool:
    try:
        pixels = np.load(array, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return False
    return bool(pixels.shape == shape and pixels.dtype == np.uint8)


def names_of(images: Images, rows: Ints) -> list[str]:
    """Return what people know the images `rows` by: their paths, or their rows where they have none."""
    if isinstance(images, CachedImages):
        return [images.samples.paths[row] for row in images.file_rows[rows]]
    if isinstance(images, DecodedImages):
        return [images.paths[row] for row in rows]
    return [f"row {row}" for row in rows]


@functools.lru_cache(maxsize=16)
def _mapped(file: Path) -> Bytes:
    """Map the array read-only, once a process."""
    array: Bytes = np.load(file, mmap_mode="r")
    return array


@functools.lru_cache(maxsize=4)
def _pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Return this process's decoding threads; `process` in the key, for a fork inherits no threads."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix=f"decode-{process}")
