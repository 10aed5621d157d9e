import numpy as np
import pytest

from raid.ops.diversity import nearest_images, nearest_others, pixel_variance, variance_ratio

SHAPE = (6, 4, 3)


def images_of(count, seed, *, kind="uint8"):
    """Noise around a common picture."""
    rng = np.random.default_rng(seed)
    images = rng.integers(30, 200, SHAPE) + rng.integers(-30, 31, (count, *SHAPE))
    return images.astype(np.uint8) if kind == "uint8" else (images / 127.5 - 1).astype(kind)


@pytest.fixture(autouse=True, params=[256, 7])
def block_rows(request, monkeypatch):
    monkeypatch.setattr("raid.ops.diversity._BLOCK_ROWS", request.param)


def plain_distance(one, other):
    pairs = zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)
    return (sum((a - b) ** 2 for a, b in pairs) / one.size) ** 0.5


def plain_nearest(samples, gallery, *, itself=False):
    """(distance, place) of every sample, by all distances."""
    found = []
    for i, sample in enumerate(samples):
        candidates = [
            (plain_distance(sample, y), j) for j, y in enumerate(gallery) if not (itself and i == j)
        ]
        found.append(min(candidates))
    return [distance for distance, _ in found], [place for _, place in found]


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_variance_equals_numpys(kind):
    images = images_of(20, 0, kind=kind)
    found = pixel_variance(images)
    assert found.shape == SHAPE
    np.testing.assert_allclose(found, images.astype(np.float64).var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(pixel_variance(images[::-1]), found, rtol=1e-12)


def test_variance_of_bytes_does_not_overflow():
    images = np.zeros((300, 2), np.uint8)
    images[150:] = 255
    np.testing.assert_array_equal(pixel_variance(images), [127.5**2] * 2)


def test_variance_ratio():
    real = images_of(40, 0, kind="float64")
    assert variance_ratio(real, real) == 1
    assert variance_ratio(real / 2, real) == pytest.approx(0.25)
    assert variance_ratio(real + 5, real) == pytest.approx(1)
    assert variance_ratio(np.repeat(real[:1], 30, axis=0), real) == pytest.approx(0, abs=1e-20)
    two_modes = np.repeat(real[:2], 15, axis=0)
    expected = two_modes.var(axis=0).mean() / real.var(axis=0).mean()
    assert variance_ratio(two_modes, real) == pytest.approx(expected)


def test_nothing_falls_short_of_real_images_that_do_not_vary():
    one = images_of(1, 0)
    assert variance_ratio(one, one) == variance_ratio(images_of(9, 1), one) == float("inf")


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_nearest_equals_the_loop(kind):
    samples, gallery = images_of(20, 0, kind=kind), images_of(30, 1, kind=kind)
    for found, expected in (
        (nearest_images(samples, gallery), plain_nearest(samples, gallery)),
        (nearest_others(samples), plain_nearest(samples, samples, itself=True)),
    ):
        np.testing.assert_allclose(found.distances, expected[0], rtol=1e-12)
        assert found.index.tolist() == expected[1]


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_copies_are_at_zero(kind):
    real = images_of(30, 0, kind=kind)
    copies = nearest_images(real[[17, 3, 29]], real)
    assert copies.index.tolist() == [17, 3, 29]
    assert (copies.distances == 0).all()
    almost = real[[17]].copy()
    almost[0, 0, 0, 0] += 1
    assert nearest_images(almost, real).distances[0] == pytest.approx((1 / real[0].size) ** 0.5)


def test_an_image_is_not_its_own_neighbour_but_its_copy_is():
    images = images_of(12, 0)
    assert (nearest_others(images).distances > 0).all()
    doubled = nearest_others(np.concatenate([images, images]))
    np.testing.assert_array_equal(doubled.index, np.roll(np.arange(24), 12))
    assert (doubled.distances == 0).all()
    with_equal_ones = nearest_others(np.concatenate([images[:1]] * 3))
    assert with_equal_ones.index.tolist() == [1, 0, 0]


def test_order_does_not_matter():
    samples, gallery = images_of(20, 0), images_of(30, 1)
    expected, order = nearest_images(samples, gallery), np.random.default_rng(2).permutation(30)
    found = nearest_images(samples[::-1], gallery[order])
    np.testing.assert_array_equal(found.distances[::-1], expected.distances)
    np.testing.assert_array_equal(order[found.index[::-1]], expected.index)


def test_of_equally_near_images_the_first_is_found():
    gallery = np.concatenate([images_of(10, 0), images_of(10, 0)])
    found = nearest_images(images_of(20, 1), gallery)
    assert found.index.max() < 10
    assert nearest_images(gallery[10:], gallery).index.tolist() == list(range(10))


def test_far_from_zero_neighbours_stay_the_same():
    images = images_of(20, 0, kind="float64")
    np.testing.assert_array_equal(nearest_others(images + 2.0**12).index, nearest_others(images).index)


def test_large_images_keep_their_neighbours():
    """128 x 128 pixels, 3 levels from one real image and 4 from the others: far less than their sizes."""
    rng = np.random.default_rng(0)
    base = rng.integers(20, 230, (128, 128, 3))
    gallery = (base + 4 * rng.choice([-1, 1], (9, *base.shape))).astype(np.uint8)
    samples = gallery[[4, 8]] + 3 * rng.choice([-1, 1], (2, *base.shape))
    found = nearest_images(samples.astype(np.uint8), gallery)
    assert found.index.tolist() == [4, 8]
    np.testing.assert_array_equal(found.distances, 3)


def test_no_samples():
    assert nearest_images(images_of(1, 0)[:0], images_of(3, 0)).distances.shape == (0,)


def test_what_cannot_be_compared():
    few, bytes_ = images_of(3, 0, kind="float64"), images_of(3, 0)
    for compare in (variance_ratio, nearest_images):
        with pytest.raises(ValueError, match="alike"):
            compare(few, bytes_)
        with pytest.raises(ValueError, match="alike"):
            compare(few, few[:, :5])
        with pytest.raises(ValueError, match="no images"):
            compare(few, few[:0])
    with pytest.raises(ValueError, match="at least two"):
        nearest_others(few[:1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite(value):
    images = images_of(20, 0, kind="float64")
    broken = images.copy()
    broken[15, 0, 0, 0] = value
    for figure in (pixel_variance, nearest_others):
        with pytest.raises(ValueError, match="finite"):
            figure(broken)
    for pair in ((images, broken), (broken, images)):
        with pytest.raises(ValueError, match="finite"):
            nearest_images(*pair)
