import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomErasing
from torchvision.transforms import functional as F

from raid.data.augment import Augmentation, Draws, augment, draw, normalize

HEIGHT, WIDTH, COUNT = 48, 24, 64
AUGMENTATION = Augmentation()


def pixels(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def drawn(augmentation: Augmentation = AUGMENTATION, count: int = COUNT, seed: int = 0) -> Draws:
    return draw(augmentation, count, HEIGHT, WIDTH, np.random.default_rng(seed))


def reference(
    images: torch.Tensor, draws: Draws, augmentation: Augmentation, dtype: torch.dtype
) -> torch.Tensor:
    """One image at a time with torchvision's functions, on PIL images up to the conversion."""
    results = []
    for row, pixel in enumerate(images):
        image = Image.fromarray(pixel.permute(1, 2, 0).numpy())
        if draws.flip[row]:
            image = F.hflip(image)
        image = F.pad(image, [augmentation.pad], fill=0)
        size = augmentation.input_size or images.shape[2:]
        image = F.crop(image, int(draws.top[row]), int(draws.left[row]), *size)
        exact = F.pil_to_tensor(image).to(dtype) / 255
        tensor = F.to_tensor(image) if dtype == torch.float32 else exact
        tensor = F.normalize(tensor, augmentation.mean, augmentation.std)
        y, x, h, w = (int(value) for value in draws.erase[row])
        if h:
            fill = torch.tensor(augmentation.erase_fill, dtype=dtype)[:, None, None]
            tensor = F.erase(tensor, y, x, h, w, fill)
        results.append(tensor)
    return torch.stack(results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "augmentation",
    [
        AUGMENTATION,
        Augmentation(pad=0),
        Augmentation(
            flip=1.0, pad=3, erase_probability=1.0, erase_fill=(0.1, -2.0, 3.0), mean=(0.2, 0.3, 0.4)
        ),
        Augmentation(pad=40, erase_area=(0.3, 0.3)),  # more border than image
        Augmentation(pad=0, input_size=(40, 20), erase_probability=0.8, erase_fill=(0.5, 0.4, 0.3)),
        Augmentation(pad=3, input_size=(11, 30)),  # wider than the image
        Augmentation(pad=0, input_size=(1, 24)),
    ],
)
def test_equals_torchvision(augmentation: Augmentation, dtype: torch.dtype) -> None:
    images, draws = pixels(), drawn(augmentation)
    result = augment(images, draws, augmentation, dtype=dtype)
    assert result.dtype == dtype
    assert result.shape[2:] == (augmentation.input_size or (HEIGHT, WIDTH))
    assert torch.equal(result, reference(images, draws, augmentation, dtype))


def test_the_images_are_left_as_they_are() -> None:
    images = pixels()
    augment(images, drawn(), AUGMENTATION)
    normalize(images, AUGMENTATION)
    assert torch.equal(images, pixels())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normalize_equals_torchvision(dtype: torch.dtype) -> None:
    images = pixels(4)
    expected = F.normalize(images.to(dtype) / 255, AUGMENTATION.mean, AUGMENTATION.std)
    assert torch.equal(normalize(images, AUGMENTATION, dtype=dtype), expected)


def test_nothing_drawn_is_normalize() -> None:
    nothing = Augmentation(flip=0, pad=0, erase_probability=0)
    images = pixels()
    assert torch.equal(augment(images, drawn(nothing), nothing), normalize(images, nothing))


@pytest.mark.parametrize(
    ("augmentation", "of_draws", "of_images"),
    [
        (AUGMENTATION, "0eff3b964e45072c", "bd991bc8926186ac"),
        (Augmentation(pad=0, erase_probability=0.0), "7011b65af82bd73b", "f048df1fe9f3f8de"),
        (Augmentation(pad=40, erase_area=(0.3, 0.3)), "af52564b4c94e4f3", "2b1f666236dec41d"),
    ],
)
def test_images_of_their_own_size_have_the_bits_they_had_before_there_was_another(
    augmentation: Augmentation, of_draws: str, of_images: str
) -> None:
    """The hashes were computed by the code without `input_size`."""
    draws = drawn(augmentation)
    table = np.column_stack([draws.flip, draws.top, draws.left, draws.erase]).astype(np.int64)
    assert hashed(table) == of_draws
    assert hashed(augment(pixels(), draws, augmentation).numpy()) == of_images
    named = replace(augmentation, input_size=(HEIGHT, WIDTH))
    assert hashed(augment(pixels(), drawn(named), named).numpy()) == of_images


def hashed(values: np.ndarray) -> str:
    return hashlib.blake2b(values.tobytes(), digest_size=8).hexdigest()


@pytest.mark.parametrize("augmentation", [AUGMENTATION, Augmentation(pad=0, input_size=(40, 20))])
def test_draws_of_a_part_are_those_of_the_whole(augmentation: Augmentation) -> None:
    images, draws, part = pixels(), drawn(augmentation), slice(16, 32)
    whole = augment(images, draws, augmentation)
    assert torch.equal(augment(images[part], draws.rows(part), augmentation), whole[part])


def test_a_position_does_not_depend_on_the_others() -> None:
    few, many = drawn(count=5), drawn(count=50)
    certain = drawn(Augmentation(flip=1.0, erase_probability=1.0), count=50)
    for name in ("flip", "top", "left", "erase"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:5])
    np.testing.assert_array_equal(certain.top, many.top)
    erased = many.erase[:, 2] > 0
    assert erased.any()
    np.testing.assert_array_equal(certain.erase[erased], many.erase[erased])
    assert not np.array_equal(drawn(seed=1).top, drawn(seed=0).top)


def test_flip_and_crop_are_uniform() -> None:
    draws = drawn(Augmentation(flip=0.3, pad=4), count=20_000)
    assert draws.flip.mean() == pytest.approx(0.3, abs=0.015)
    for offsets in (draws.top, draws.left):
        counts = np.bincount(offsets)
        assert len(counts) == 9
        np.testing.assert_allclose(counts / 20_000, 1 / 9, atol=0.01)
    assert abs(np.corrcoef(draws.top, draws.left)[0, 1]) < 0.03


@pytest.mark.parametrize(("pad", "places"), [(0, (9, 5)), (3, (15, 11))])
def test_a_smaller_crop_is_uniform_over_all_its_places(pad: int, places: tuple[int, int]) -> None:
    draws = drawn(Augmentation(pad=pad, input_size=(HEIGHT - 8, WIDTH - 4)), count=20_000)
    for offsets, number in zip((draws.top, draws.left), places, strict=True):
        counts = np.bincount(offsets)
        assert len(counts) == number
        np.testing.assert_allclose(counts / 20_000, 1 / number, atol=0.01)


def test_a_rectangle_is_drawn_within_the_crop() -> None:
    """As it is for images of that size: not within the image that the crop is taken from."""
    augmentation = Augmentation(pad=0, erase_probability=1.0, input_size=(20, 12))
    found = drawn(augmentation, count=500).erase
    expected = draw(replace(augmentation, input_size=None), 500, 20, 12, np.random.default_rng(0)).erase
    np.testing.assert_array_equal(found, expected)
    y, x, h, w = found.T
    assert (y + h).max() == 20
    assert (x + w).max() == 12


@pytest.mark.parametrize("size", [(HEIGHT + 5, WIDTH), (HEIGHT, WIDTH + 5)])
def test_a_crop_larger_than_the_padded_image_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"\({size[0]}, {size[1]}\) does not fit images of 48 x 24"):
        drawn(Augmentation(pad=2, input_size=size))


def test_erasing_has_torchvisions_distribution() -> None:
    count = 20_000
    augmentation = Augmentation(erase_probability=1.0, erase_area=(0.02, 0.6))  # large: many attempts fail
    ours = drawn(augmentation, count=count).erase
    torch.manual_seed(0)
    image = torch.zeros(3, HEIGHT, WIDTH)
    theirs = np.array(
        [
            RandomErasing.get_params(image, augmentation.erase_area, augmentation.erase_aspect, [0.0])[:4]
            for _ in range(count // 4)
        ]
    )
    for side in range(4):
        grid = np.arange(HEIGHT + 1)
        distributions = [
            np.searchsorted(np.sort(values[:, side]), grid, side="right") / len(values)
            for values in (ours, theirs)
        ]
        assert np.abs(np.subtract(*distributions)).max() < 0.03  # Kolmogorov-Smirnov at about 0.1 %
    areas = [(values[:, 2] * values[:, 3]).mean() for values in (ours, theirs)]
    assert areas[0] == pytest.approx(areas[1], rel=0.02)


def test_erased_rectangles_lie_inside() -> None:
    draws = drawn(count=5000)
    y, x, h, w = draws.erase.T
    assert (draws.erase >= 0).all()
    assert (y + h <= HEIGHT).all()
    assert (x + w <= WIDTH).all()
    assert (h > 0).mean() == pytest.approx(0.5, abs=0.03)
    assert (draws.erase[h == 0] == 0).all()


def test_a_rectangle_that_never_fits_erases_nothing() -> None:
    augmentation = Augmentation(erase_probability=1.0, erase_area=(1.0, 1.0), erase_aspect=(0.3, 0.3))
    assert not drawn(augmentation).erase.any()


def test_an_empty_part() -> None:
    part = slice(0, 0)
    assert augment(pixels()[part], drawn().rows(part), AUGMENTATION).shape == (0, 3, HEIGHT, WIDTH)
    smaller = Augmentation(pad=0, input_size=(40, 20))
    assert augment(pixels()[part], drawn(smaller).rows(part), smaller).shape == (0, 3, 40, 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    images, draws = pixels(), drawn()
    result = augment(images.cuda(), draws, AUGMENTATION)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), augment(images, draws, AUGMENTATION), rtol=0, atol=1e-6)
