import subprocess
import sys

import numpy as np
import pytest

from raid.data.render import Settings, write_market1501
from raid.data.synthetic import features, nearest_others
from raid.data.synthetic_check import check, histogram_mAP, hsv_histogram, read, same_camera_share
from raid.errors import InputError

SMALL = {"num_identities": 20, "num_cameras": 4, "images_per_identity": 9, "dim": 48}


def test_features_are_unit_rows_of_evenly_seen_identities_and_cameras():
    simulated = features(0, **SMALL)
    assert simulated.features.shape == (180, 48)
    assert simulated.features.dtype == np.float32
    assert simulated.identities.dtype == simulated.cameras.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(simulated.features, axis=1), 1, atol=1e-5)
    assert set(np.bincount(simulated.identities)) == {9}
    assert set(np.bincount(simulated.cameras)) == {45}


def test_features_depend_on_the_seed_alone():
    first, again, other = features(5, **SMALL), features(5, **SMALL), features(6, **SMALL)
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.cameras, again.cameras)
    assert not np.isclose(first.features, other.features).all(axis=1).any()


def test_camera_sizes_are_kept_exactly():
    sizes = [5, 0, 31, 14]
    simulated = features(0, num_identities=7, dim=8, camera_sizes=sizes)
    assert np.bincount(simulated.cameras).tolist() == sizes
    assert np.bincount(simulated.identities).tolist() == [8, 7, 7, 7, 7, 7, 7]


def test_blocks_do_not_repeat_their_noise():
    simulated = features(0, num_identities=1, num_cameras=1, images_per_identity=9000, dim=8)
    assert len(np.unique(simulated.features, axis=0)) == 9000


def test_noise_and_camera_shift_make_it_harder():
    clean = features(0, **SMALL, noise=0.0, camera_shift=0.0)
    noisy = features(0, **SMALL, noise=2.0, camera_shift=0.0)
    shifted = features(0, **SMALL, noise=0.5, camera_shift=2.0)
    assert clean.one_nn_precision() == 1.0
    assert noisy.one_nn_precision() < 0.7
    assert shifted.same_camera_share() > 0.9
    assert noisy.same_camera_share() < 0.5


def test_few_degrees_of_freedom_make_outliers():
    def furthest(degrees_of_freedom):
        simulated = features(
            0, num_identities=1, num_cameras=1, images_per_identity=2000, dim=64, camera_shift=0.0,
            noise=0.3, degrees_of_freedom=degrees_of_freedom,
        )  # fmt: skip
        return (simulated.features @ simulated.features.mean(0)).min()

    assert furthest(2.0) < furthest(1000.0) - 0.2


def test_one_nn_precision_agrees_with_a_plain_search():
    simulated = features(1, **SMALL, noise=1.0)
    similarity = simulated.features @ simulated.features.T
    np.fill_diagonal(similarity, -2)
    expected = (simulated.identities[similarity.argmax(1)] == simulated.identities).mean()
    assert simulated.one_nn_precision() == pytest.approx(expected)
    assert 0.2 < expected < 1


def test_nearest_others_never_names_the_row_itself():
    rows = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1]]
    assert nearest_others(rows).tolist() == [1, 0, 0, 4, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("num_identities", 0), ("num_cameras", 0), ("dim", 0), ("noise", -1.0),
     ("camera_shift", float("nan")), ("degrees_of_freedom", 0.0), ("camera_sizes", [3, -1])],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        features(**{"seed": 0, **SMALL, name: value})


def test_command_prints_the_precision():
    command = [
        sys.executable,
        "-m",
        "raid.data.synthetic",
        "--seed",
        "0",
        "--dim",
        "32",
        "--num-identities",
        "10",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = features(0, dim=32, num_identities=10).one_nn_precision()
    assert f"1-NN precision {expected:.4f}" in printed


def test_histogram_ignores_places_and_tells_colours_apart():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (3, 12, 6), dtype=np.uint8)
    shuffled = image.reshape(3, -1)[:, generator.permutation(72)].reshape(image.shape)
    red, dark, light = (
        np.full((12, 6, 3), colour, np.uint8).transpose(2, 0, 1)
        for colour in ((200, 0, 0), (30, 30, 31), (220, 221, 220))
    )
    rows = hsv_histogram(np.stack([image, shuffled, red, dark, light]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[2:] @ rows[2:].T, np.eye(3))


def test_same_camera_share_counts_nearest_others():
    rows = np.array([[1, 0], [0.99, 0.14], [0, 1], [0.14, 0.99]], dtype=np.float32)
    assert same_camera_share(rows, np.array([0, 0, 0, 1])) == 0.5


def test_histograms_match_better_without_camera_effects(tmp_path):
    def score(strength):
        root = tmp_path / str(strength)
        settings = Settings(
            seed=1, num_identities=40, num_cameras=4, height=64, width=32, camera_strength=strength
        )
        write_market1501(root, settings)
        return histogram_mAP(read(root))

    assert score(0.0) > score(3.0) + 0.05


@pytest.mark.timeout(900)
def test_default_set_is_as_hard_as_real_pictures_and_can_be_learnt(tmp_path):
    write_market1501(tmp_path / "set", Settings())
    figures = check(tmp_path / "set")
    assert 0.03 <= figures.histogram_mAP <= 0.15
    assert figures.untrained_same_camera >= 0.75
    assert figures.supervised_mAP >= 0.6
