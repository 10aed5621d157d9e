import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import bomb, encoded, exif, noise, photo
from PIL import Image

from raid.data.pixels import LARGE_PIXELS, decode, reduce_large, upright_size
from raid.data.samples import Record, Samples
from raid.errors import InputError

# How an upright picture is stored under each EXIF orientation, from the standard's table.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def plain(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The whole picture, then the resize."""
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def as_is(data: bytes) -> np.ndarray:
    """The pixels of a file, not resized: (height, width, 3)."""
    with Image.open(BytesIO(data)) as image:
        width, height = upright_size(image)
    return decode(data, height, width).transpose(1, 2, 0)


def test_the_result_is_bytes() -> None:
    image = decode(encoded(photo(40, 70), "JPEG"), 8, 4)
    assert image.shape == (3, 8, 4)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("target", [(256, 128), (32, 16), (224, 224)])
@pytest.mark.parametrize("size", [(64, 128), (300, 700), (1023, 1024)])
def test_small_jpegs_keep_every_bit(size: tuple[int, int], target: tuple[int, int]) -> None:
    data = encoded(photo(*size), "JPEG")
    np.testing.assert_array_equal(decode(data, *target), plain(Image.open(BytesIO(data)), *target))


@pytest.mark.parametrize(
    ("size", "options", "reduced"),
    [
        ((3000, 2000), {}, (1500, 1000)),
        ((2000, 3000), {"progressive": True}, (500, 750)),
        ((4000, 1200), {}, (2000, 600)),
        ((1024, 1024), {}, (512, 512)),
        ((3000, 2000), {"exif": exif(6)}, (750, 500)),
        ((1200, 4000), {"exif": exif(3)}, (300, 1000)),
    ],
)
def test_large_jpegs_are_decoded_reduced_and_close(size, options, reduced) -> None:
    data = encoded(photo(*size), "JPEG", quality=90, **options)
    with Image.open(BytesIO(data)) as image:
        reduce_large(image, 2 * 256, 2 * 128)
        assert image.size == reduced
    with Image.open(BytesIO(data)) as image:
        quarter_turns = {1: 0, 3: 2, 6: -1}[image.getexif().get(0x0112, 1)]
        upright = Image.fromarray(np.rot90(np.asarray(image), quarter_turns))
    expected = plain(upright, 256, 128).astype(int)
    difference = np.abs(decode(data, 256, 128) - expected)
    assert difference.mean() < 0.6
    assert difference.max() <= 6


def test_what_is_barely_large_enough_is_decoded_whole() -> None:
    data = encoded(photo(1024, 1024), "JPEG")
    with Image.open(BytesIO(data)) as image:
        assert image.width * image.height == LARGE_PIXELS
        reduce_large(image, 513, 513)
        assert image.size == (1024, 1024)
    np.testing.assert_array_equal(decode(data, 300, 300), plain(Image.open(BytesIO(data)), 300, 300))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = noise(7, 11)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif(orientation), **lossless)
    np.testing.assert_array_equal(as_is(data), upright)
    (tmp_path / "a").write_bytes(data)
    samples = Samples.scan(tmp_path, [Record("a", None, None, "train")], name="one")
    assert (samples.table["width"].to_pylist(), samples.table["height"].to_pylist()) == ([7], [11])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_damaged_orientation_is_passed_over() -> None:
    image = Image.fromarray(noise(7, 11))
    for damaged in (b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00", b"Exif\x00\x00nonsense"):
        data = encoded(image, "JPEG", exif=damaged)
        np.testing.assert_array_equal(as_is(data), as_is(encoded(image, "JPEG")))
    data = encoded(image, "PNG", exif=exif(99))
    np.testing.assert_array_equal(as_is(data), np.asarray(image))


def test_odd_pixels_are_turned_too() -> None:
    grey = (deep() >> 8).astype(np.uint8)
    data = encoded(Image.fromarray(STORED[8](deep()).copy()), "PNG", exif=exif(8))
    np.testing.assert_array_equal(as_is(data)[..., 0], grey)
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([200, 100, 50, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    data = encoded(palette, "PNG", transparency=0, exif=exif(6))
    assert as_is(data).tolist() == [[[0, 0, 0]], [[10, 20, 30]]]


def deep() -> np.ndarray:
    return np.linspace(0, 0xFFFF, 9 * 14).astype(np.uint16).reshape(14, 9)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(deep()), "PNG"),
        encoded(Image.fromarray(deep()), "TIFF"),
        encoded(Image.frombytes("I;16B", (9, 14), deep().astype(">u2").tobytes()), "TIFF"),
        b"P5 9 14 65535\n" + deep().astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "tiff big-endian", "pgm"],
)
def test_sixteen_bits_are_scaled_and_not_clipped(data: bytes) -> None:
    grey = (deep() >> 8).astype(np.uint8)
    np.testing.assert_array_equal(as_is(data), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    "pixels", [deep().astype(np.float32), deep().astype(np.int32) * 2, -deep().astype(np.int32)]
)
def test_pixels_of_unknown_range_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="unknown range; save it with 8 or 16 bits"):
        as_is(encoded(Image.fromarray(pixels), "TIFF"))


def test_transparency_is_over_black() -> None:
    pixels = noise(9, 14, 4)
    shown = np.round(pixels[..., :3] * (pixels[..., 3:] / 255))
    np.testing.assert_allclose(as_is(encoded(Image.fromarray(pixels), "PNG")), shown, atol=1)
    hidden = pixels.copy()
    hidden[..., 3] = 0
    assert as_is(encoded(Image.fromarray(hidden), "PNG")).max() == 0

    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 100, 50, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    assert as_is(encoded(palette, "PNG")).tolist() == [[[200, 100, 50], [10, 20, 30]]]
    assert as_is(encoded(palette, "PNG", transparency=0)).tolist() == [[[0, 0, 0], [10, 20, 30]]]
    colours = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], dtype=np.uint8))
    assert as_is(encoded(colours, "PNG", transparency=(9, 8, 7))).tolist() == [[[0, 0, 0], [1, 2, 3]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    """Inks: the JPEG has them inverted, as Adobe writes and marks them."""
    inks = Image.new("CMYK", (16, 16), (255, 128, 0, 51))
    data = encoded(inks, kind)
    assert (b"Adobe" in data) == (kind == "JPEG")
    np.testing.assert_allclose(as_is(data).mean(axis=(0, 1)), [0, 204 * 127 / 255, 204], atol=2)


def test_grey() -> None:
    grey = noise(9, 14, 1)
    np.testing.assert_array_equal(as_is(encoded(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "GIF", "MPO"])
def test_the_first_frame_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (32, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(data)) as image:
        assert image.n_frames == 2
    np.testing.assert_allclose(as_is(data), np.asarray(frames[0]), atol=2)


def test_a_large_mpo_is_reduced_too() -> None:
    frames = [photo(1400, 1000, seed) for seed in (0, 1)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(data)) as image:
        reduce_large(image, 200, 200)
        assert image.size == (350, 250)
    difference = np.abs(decode(data, 100, 100) - plain(frames[0], 100, 100).astype(int))
    assert difference.mean() < 1.5  # to the picture before it was a JPEG


@pytest.mark.parametrize("side", [30_000, 2_000_000_000])
def test_a_decompression_bomb_is_one_line_at_once(tmp_path: Path, side: int) -> None:
    start = time.perf_counter()
    with pytest.raises(Image.DecompressionBombError):
        decode(bomb(side), 256, 128)
    (tmp_path / "a.png").write_bytes(bomb(side))
    with pytest.raises(InputError, match=rf"a\.png: .*\({side * side} pixels\) exceeds limit") as raised:
        Samples.scan(tmp_path, [Record("a.png", None, None, "train")], name="one")
    assert "\n" not in str(raised.value)
    assert time.perf_counter() - start < 5


def test_a_truncated_large_jpeg_is_refused() -> None:
    data = encoded(photo(1400, 1000), "JPEG")
    for cut in (2, 100, len(data) // 2):
        with pytest.raises(OSError, match="truncated"):
            decode(data[:-cut], 256, 128)
