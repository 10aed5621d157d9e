"""A picture file's bytes to RGB pixels, whatever it is: large, rotated, 16-bit, transparent, CMYK."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# A JPEG of as many pixels is decoded at a half, a quarter or an eighth of its size (the decoder drops the
# frequencies that the resize would drop anyway) while that leaves _MARGIN times the size asked for in both
# directions: at most 1 of 255 away from the full decode on average, 0.2 for a photo of 4,000 pixels, and
# 3.5 times as fast. Smaller pictures, which crops are, keep every bit.
LARGE_PIXELS = 2**20
_MARGIN = 2
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # PIL opens a 16-bit PGM as I
_QUARTER_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a file's bytes and resize bicubically, as torchvision's Resize of a PIL image.

    The first frame, turned as its EXIF orientation says, over black where it is transparent. 16-bit greys
    keep their high byte; CMYK is converted without a colour profile.

    Args:
        data: the file.
        height: of the result in pixels.
        width: of the result in pixels.

    Returns:
        (3, height, width) uint8, RGB.

    Raises:
        ValueError: the pixels have no known range (32-bit).
        Image.DecompressionBombError: it has more than 2 * Image.MAX_IMAGE_PIXELS pixels (179 million).
        Exception: whatever PIL raises for damaged bytes.
    """
    with Image.open(BytesIO(data)) as image:
        reduce_large(image, _MARGIN * height, _MARGIN * width)
        image.load()
        resized = to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def reduce_large(image: Image.Image, height: int, width: int) -> None:
    """Have a large JPEG that is opened, not loaded, decoded smaller, but at least so large once upright."""
    if image.format in ("JPEG", "MPO") and image.width * image.height >= LARGE_PIXELS:
        turned = orientation(image) in _QUARTER_TURNED
        image.draft(None, (height, width) if turned else (width, height))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 where there is none or it cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata makes its reader raise nearly anything, and the pixels may be whole
        return 1
    return found if found in _TURNS else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an opened image as `decode` turns it."""
    # PIL itself swaps those of a TIFF, and would decode a PNG to look for an orientation after the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return image.size
    return image.size[::-1] if orientation(image) in _QUARTER_TURNED else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image upright and in mode RGB; see `decode`.

    Raises:
        ValueError: the pixels have no known range.
    """
    # Not ImageOps.exif_transpose, which also rewrites the metadata and may fail where that is damaged.
    turn = _TURNS.get(orientation(image))
    rgb = _converted(image)
    return rgb if turn is None else rgb.transpose(turn)


def _converted(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        return _high_byte(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: Image.Image) -> Image.Image:
    """Return 16 bits as 8, as PIL reads 16-bit colours; its own conversion clips at 255."""
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("has 32-bit pixels of unknown range; save it with 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
