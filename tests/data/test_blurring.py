"""Previews in which nobody is recognised."""

import numpy as np
import pytest
import torch

from raid.data.blurring import NUM_COLUMNS, BlurredImages, blurred, blurred_sheet


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def slowly(picture: np.ndarray) -> np.ndarray:
    """Block by block, each pixel's by the definition."""
    height, width, _ = picture.shape
    across = min(NUM_COLUMNS, width)
    down = min(height, max(1, round(height * across / width)))
    result = np.empty_like(picture)
    for i in range(down):
        for j in range(across):
            rows = slice(i * height // down, (i + 1) * height // down)
            columns = slice(j * width // across, (j + 1) * width // across)
            means = picture[rows, columns].reshape(-1, picture.shape[2]).astype(float).mean(axis=0)
            result[rows, columns] = np.floor(means + 0.5)
    return result


@pytest.mark.parametrize(
    ("height", "width"), [(256, 128), (128, 64), (33, 17), (7, 9), (5, 300), (300, 5), (1, 1)]
)
def test_every_block_has_its_mean(height, width):
    picture = noise(height, width, 3)
    found = blurred(picture)
    assert (found == slowly(picture)).all()
    assert (blurred(found) == found).all()


def test_a_picture_of_two_values_by_hand():
    picture = np.zeros((4, 16, 1), np.uint8)
    picture[0, 0], picture[2:, 2:4] = 10, 255
    # 8 x 2 blocks of 2 x 2: one pixel of 10 in four is 2.5, which becomes 3.
    assert blurred(picture)[:, :, 0].tolist() == [[3, 3, *[0] * 14]] * 2 + [[0, 0, 255, 255, *[0] * 12]] * 2


def test_what_is_inside_a_block_is_gone():
    """Pictures whose blocks have equal means are one picture afterwards."""
    picture = noise(128, 64, 3)
    other = picture.copy()
    for top in range(0, 128, 8):
        for left in range(0, 64, 8):
            block = other[top : top + 8, left : left + 8].reshape(64, 3)
            block = np.random.default_rng(top + left).permutation(block)
            other[top : top + 8, left : left + 8] = block.reshape(8, 8, 3)
    assert (other != picture).any()
    assert (blurred(other) == blurred(picture)).all()
    assert len(np.unique(blurred(picture).reshape(-1, 3), axis=0)) <= 8 * 16


def test_several_pictures_are_blurred_each_by_itself():
    pictures = noise(3, 20, 30, 3)
    assert (blurred(pictures) == np.stack([slowly(picture) for picture in pictures])).all()


def test_a_sheet_is_blurred_picture_by_picture():
    sheet = np.full((2 * 32 + 2, 3 * 16 + 2 * 2, 3), 255, np.uint8)
    places = [(slice(t, t + 32), slice(x, x + 16)) for t in (0, 34) for x in (0, 18, 36)]
    for seed, place in enumerate(places):
        sheet[place] = noise(32, 16, 3, seed=seed)
    found = blurred_sheet(sheet, 32, 16, 2)
    for place in places:
        assert (found[place] == slowly(sheet[place])).all()
        found[place] = 255
    assert (found == 255).all()


def test_a_sheet_of_another_size_is_blurred_as_one_picture():
    sheet = noise(67, 52, 3)
    assert (blurred_sheet(sheet, 32, 16, 2) == slowly(sheet)).all()


class Stored:
    """Images in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, (self.height, self.width) = pixels, pixels.shape[2:]

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.pixels[rows])

    def take(self, rows: np.ndarray) -> "Stored":
        return Stored(self.pixels[rows])


def test_blurred_images_are_all_that_can_be_had():
    images = Stored(noise(6, 3, 32, 16))
    hidden = BlurredImages(images)
    assert (len(hidden), hidden.height, hidden.width) == (6, 32, 16)
    rows = np.array([5, 0, 5])
    seen = hidden.gather(rows).numpy().transpose(0, 2, 3, 1)
    assert (seen == np.stack([slowly(images.pixels[row].transpose(1, 2, 0)) for row in rows])).all()
    assert torch.equal(hidden.take(rows).gather(np.array([1])), hidden.gather(np.array([0])))
