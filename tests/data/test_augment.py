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
        image = F.crop(image, int(draws.top[row]), int(draws.left[row]), images.shape[2], images.shape[3])
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
    ],
)
def test_equals_torchvision(augmentation: Augmentation, dtype: torch.dtype) -> None:
    images, draws = pixels(), drawn(augmentation)
    result = augment(images, draws, augmentation, dtype=dtype)
    assert result.dtype == dtype
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


def test_draws_of_a_part_are_those_of_the_whole() -> None:
    images, draws, part = pixels(), drawn(), slice(16, 32)
    whole = augment(images, draws, AUGMENTATION)
    assert torch.equal(augment(images[part], draws.rows(part), AUGMENTATION), whole[part])


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same() -> None:
    images, draws = pixels(), drawn()
    result = augment(images.cuda(), draws, AUGMENTATION)
    assert result.is_cuda
    torch.testing.assert_close(result.cpu(), augment(images, draws, AUGMENTATION), rtol=0, atol=1e-6)
