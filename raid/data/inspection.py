"""What one image file is like: read, hashed and decoded as training would, and looked at."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raid.data.image_files import Root, read_image
from raid.data.pixels import orientation, reduce_large, to_rgb, upright_size
from raid.data.samples import content_hash
from raid.errors import one_line

Fault = Literal["unreadable", "empty", "truncated"]
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_REDUCED = 256  # pixels of the shorter side that a large JPEG is decoded to: enough to find damage and colour
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm"),
}
_FORMAT_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}


@dataclass(frozen=True, slots=True)
class Inspection:
    """One file; what follows `fault` is known as far as the file could be read."""

    fault: Fault | None = None
    reason: str = ""  # of the fault
    content: str = ""  # hash of the file, as in the manifest
    width: int = 0  # upright; 0: not an image
    height: int = 0
    format: str = ""  # of the content, as PIL calls it: JPEG, PNG, ...
    mode: str = ""  # of the pixels as stored, as PIL calls it: RGB, L, P, CMYK, I;16, ...
    wrong_suffix: bool = False
    transparent: bool = False  # it has an alpha channel or a transparent colour
    rotated: bool = False  # by its EXIF orientation
    frames: bool = False  # there are more than the first, which is used
    grey: Literal["saved", "coded"] | None = None  # saved without colours; with three channels, all equal


def inspect(root: Root, path: str) -> Inspection:
    """Read and decode the image `path` of a set; whatever is wrong with it is in the result.

    Raises:
        InputError: the storage hangs, or the pack that it is in is damaged.
    """
    try:
        data = read_image(root, path)
    except OSError as error:
        return Inspection("unreadable", error.strerror or one_line(error))
    content = content_hash(data)
    if not data:
        return Inspection("empty", "zero bytes", content)
    try:
        image = Image.open(BytesIO(data))
    except Image.DecompressionBombError as error:
        return Inspection("unreadable", one_line(error), content)
    except Exception:  # damaged bytes make the decoders raise nearly anything
        return Inspection("unreadable", "is not an image that PIL can open", content)
    with image:
        return _look(image, content, PurePosixPath(path).suffix.lower())


def _look(image: Image.Image, content: str, suffix: str) -> Inspection:
    """Inspect an opened file."""
    kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO: a JPEG with further frames
    width, height = upright_size(image)
    seen = Inspection(
        content=content,
        width=width,
        height=height,
        format=kind,
        mode=image.mode,
        wrong_suffix=_FORMAT_OF_SUFFIX.get(suffix, kind) != kind,
    )
    turned = image.format == "TIFF" and orientation(image) != 1  # PIL turns it when it loads
    reduce_large(image, _REDUCED, _REDUCED)
    try:
        image.load()
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        return replace(seen, fault="truncated", reason=one_line(error))
    seen = replace(
        seen,
        transparent=image.has_transparency_data,
        rotated=turned or orientation(image) != 1,
        frames=getattr(image, "is_animated", False),
    )
    try:
        pixels = np.asarray(to_rgb(image))
    except ValueError as error:
        return replace(seen, fault="unreadable", reason=one_line(error))
    if seen.mode in _GREY_MODES:
        return replace(seen, grey="saved")
    return replace(seen, grey="coded") if _equal_channels(pixels) else seen


def _equal_channels(pixels: NDArray[np.uint8]) -> bool:
    some = pixels[::8, ::8]  # settles it for nearly every picture with colours
    return all(
        np.array_equal(part[..., 0], part[..., channel]) for part in (some, pixels) for channel in (1, 2)
    )
