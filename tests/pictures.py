"""Made-up pictures of every kind, as files."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Blurred colours under sharp stripes and the noise of a sensor: as hard to reduce as a photo."""
    rng = np.random.default_rng(seed)
    blurred = Image.fromarray(noise(8, 6, seed=seed)).resize((width, height), Image.Resampling.BICUBIC)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    stripes = 30 * np.sign(np.sin((rows + 2 * columns) / 17 + seed))
    grain = rng.normal(0, 6, (height, width)).astype(np.float32)
    pixels = np.asarray(blurred, dtype=np.float32) + (stripes + grain)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def bomb(side: int = 30_000) -> bytes:
    """A PNG of some hundred bytes that says it has side x side pixels."""
    data = encoded(Image.new("RGB", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
