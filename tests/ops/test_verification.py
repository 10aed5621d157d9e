from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from raid.ops.products import as_slices, products
from raid.ops.verification import (
    NUM_LEVELS,
    STEPS,
    Curve,
    level_of,
    pair_curve,
    similarity_of,
)
from raid.ops.verification_bootstrap import PairTable, candidate_levels, pair_table, replicates

# Two pictures of each of two people: genuine .8, .8; impostors 0, .6, .6, .96.
GOLDEN = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]], np.float32)
PEOPLE = np.array([7, 7, 3, 3])


def made(seed: int = 0, rows: int = 60, people: int = 9, cameras: int = 3) -> tuple[np.ndarray, ...]:
    """People around whom their pictures lie, of cameras with a mark of their own."""
    rng = np.random.default_rng(seed)
    identities, of_camera = rng.integers(0, people, rows), rng.integers(0, cameras, rows)
    features = rng.normal(size=(people, 12))[identities] + 0.5 * rng.normal(size=(cameras, 12))[of_camera]
    features += 0.9 * rng.normal(size=(rows, 12))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), identities, of_camera


def pairs(features, identities, cameras=None, weights=None):
    """The scores of the genuine and of the impostors' pairs, one by one, each as often as its weight."""
    similarity = products(as_slices(features), as_slices(features))
    genuine, impostor = [], []
    for i, j in combinations(range(len(features)), 2):
        if cameras is not None and cameras[i] == cameras[j]:
            continue
        same = identities[i] == identities[j]
        one, other = (1, 1) if weights is None else (weights[identities[i]], weights[identities[j]])
        (genuine if same else impostor).extend([similarity[i, j]] * int(one if same else one * other))
    return np.array(genuine, np.float64), np.array(impostor, np.float64)


def reference_threshold(impostor: np.ndarray, far: float) -> float:
    """The lowest step above the first impostor that may not be accepted."""
    count = int(np.floor(far * len(impostor) + 1e-9))
    if count == len(impostor):
        return -1.0
    return (np.floor(np.sort(impostor)[::-1][count] * STEPS) + 1) / STEPS


def reference_eer(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Walk up the thresholds until the rates have crossed."""
    places = np.unique(np.floor(np.concatenate([genuine, impostor]) * STEPS) + 1) / STEPS
    before = (1.0, 0.0)
    for threshold in places:
        after = ((impostor >= threshold).mean(), (genuine < threshold).mean())
        if after[1] >= after[0]:
            one, other = before[0] - before[1], after[1] - after[0]
            return before[0] + one / (one + other) * (after[0] - before[0])
        before = after
    raise AssertionError


def test_golden_values():
    curve = pair_curve(GOLDEN, PEOPLE)
    assert (curve.num_genuine, curve.num_impostor) == (2, 4)
    assert similarity_of(curve.level(0.25)) == pytest.approx(0.6, abs=2 / STEPS)
    assert similarity_of(curve.level(0.25)) > np.float32(0.6)
    assert curve.tar(curve.level(0.25)) == 1.0
    assert curve.far(curve.level(0.25)) == 0.25
    assert curve.far(curve.level(0.749)) == 0.25  # two impostors are equally alike
    assert curve.far(curve.level(0.75)) == 0.75
    assert curve.level(1.0) == 0
    assert similarity_of(curve.level(0.2)) == pytest.approx(0.96, abs=2 / STEPS)
    assert curve.tar(curve.level(0.2)) == 0.0
    assert curve.equal_error_rate() == 0.25
    assert curve.area() == 0.75


def test_pairs_of_one_camera_are_left_out():
    curve = pair_curve(GOLDEN, PEOPLE, np.array([0, 1, 0, 1]))  # A1B1 and A2B2 are of one camera
    assert (curve.num_genuine, curve.num_impostor) == (2, 2)
    assert curve.area() == 1.0
    assert curve.equal_error_rate() == 0.0
    assert similarity_of(curve.level(0.1)) == pytest.approx(0.6, abs=2 / STEPS)


@pytest.mark.parametrize("with_cameras", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_slow_reference(seed, with_cameras):
    features, identities, cameras = made(seed)
    given = cameras if with_cameras else None
    curve = pair_curve(features, identities, given, block_rows=17)
    genuine, impostor = pairs(features, identities, given)
    assert (curve.num_genuine, curve.num_impostor) == (len(genuine), len(impostor))
    for far in (0.001, 0.01, 0.05, 0.1, 0.29, 0.5, 1.0):
        level = curve.level(far)
        threshold = similarity_of(level)
        assert threshold == reference_threshold(impostor, far)
        assert curve.far(level) == (impostor >= threshold).mean() <= far
        assert curve.tar(level) == (genuine >= threshold).mean()
    assert curve.equal_error_rate() == pytest.approx(reference_eer(genuine, impostor), abs=1e-12)
    steps = np.floor(np.concatenate([genuine, impostor]) * STEPS)
    right = roc_auc_score([1] * len(genuine) + [0] * len(impostor), steps)
    assert curve.area() == pytest.approx(right, abs=1e-12)


def test_shares_whose_last_digit_is_not_theirs():
    impostor = np.arange(100, -1, -1)
    curve = Curve(genuine=impostor, impostor=impostor)
    for number in range(101):  # 0.29 * 100 is 28.999999999999996
        assert curve.far(curve.level(number / 100)) == number / 100


def test_rows_and_names_do_not_matter():
    features, identities, cameras = made()
    curve = pair_curve(features, identities, cameras)
    order = np.random.default_rng(1).permutation(len(features))
    names = np.random.default_rng(2).permutation(9) * 11 + 5
    for other in (
        pair_curve(features[order], identities[order], cameras[order]),
        pair_curve(features, names[identities], cameras),
        pair_curve(features, identities, 2 - cameras, block_rows=7),
    ):
        np.testing.assert_array_equal(other.genuine, curve.genuine)
        np.testing.assert_array_equal(other.impostor, curve.impostor)


def test_every_picture_twice_is_every_pair_four_times():
    features, identities, cameras = made()
    curve = pair_curve(features, identities, cameras)
    twice = pair_curve(*(np.concatenate([each, each]) for each in (features, identities, cameras)))
    np.testing.assert_array_equal(twice.genuine, 4 * curve.genuine)
    np.testing.assert_array_equal(twice.impostor, 4 * curve.impostor)


def test_levels_are_exact():
    for level in (0, 1, STEPS, STEPS + 12345, NUM_LEVELS - 1):
        threshold = np.float32(similarity_of(level))
        assert float(threshold) == similarity_of(level)
        assert level_of(float(threshold)) == level
    for level in (1, STEPS - 1, STEPS + 12345, NUM_LEVELS - 1):
        below = np.nextafter(np.float32(similarity_of(level)), np.float32(-2))
        assert level_of(float(below)) == level - 1
    assert level_of(1.0000001) == NUM_LEVELS - 1
    assert level_of(-1.0000001) == 0


def test_features_that_are_no_unit_rows():
    with pytest.raises(ValueError, match="unit rows"):
        pair_curve(2 * GOLDEN, PEOPLE)


# Bootstrap


@pytest.mark.parametrize("with_cameras", [True, False])
def test_replicates_are_those_of_drawn_identities(with_cameras):
    features, identities, cameras = made(5, rows=30, people=6)
    given = cameras if with_cameras else None
    fars = (0.02, 0.1, 0.3)
    curve = pair_curve(features, identities, given)
    table = pair_table(features, identities, given, candidate_levels(curve, fars), block_rows=11)
    found = replicates(table, fars, draws=60, seed=3)
    drawn = np.random.default_rng(3).multinomial(6, [1 / 6] * 6, 60)
    expected = []
    for weights in drawn:
        genuine, impostor = pairs(features, identities, given, weights)
        if len(genuine) and len(impostor):
            thresholds = [reference_threshold(impostor, far) for far in fars]
            expected.append([(t, (genuine >= t).mean()) for t in thresholds])
    expected = np.array(expected).transpose(2, 1, 0)
    assert expected.shape[2] > 50
    np.testing.assert_array_equal(found.levels / STEPS - 1.0, expected[0])
    np.testing.assert_allclose(found.tar, expected[1], atol=1e-12)


def test_levels_to_choose_from_when_there_are_many():
    features, identities, cameras = made(rows=300, people=60)
    curve = pair_curve(features, identities, cameras)
    fars = (0.001, 0.1)
    levels = candidate_levels(curve, fars)
    everything = np.flatnonzero(np.diff(curve.impostor)) + 1
    assert len(levels) < 230 < 500 < len(everything)
    assert (levels[0], levels[-1]) == (0, NUM_LEVELS)
    assert set(everything[-60:]) < set(levels)
    shares = np.array([curve.far(level) for level in levels[:-1]])
    for far in fars:
        assert curve.level(far) in levels
        for reach, step in ((1.1, 0.02), (3.9, 0.07)):
            near = shares[(shares > far / reach) & (shares < far * reach)]
            ratio = near[:-1] / near[1:]
            assert (ratio < 1 + step + 2 / (near[1:] * curve.num_impostor)).all()


def test_groups_have_all_pairs():
    features, identities, cameras = made()
    curve = pair_curve(features, identities, cameras)
    levels = candidate_levels(curve, (0.1,))
    for num_groups in (2, 4, 100):
        table = pair_table(features, identities, cameras, levels, num_groups=num_groups)
        assert len(table.genuine) == min(num_groups, 9)
        np.testing.assert_array_equal(table.genuine.sum(axis=0), curve.genuine[levels])
        np.testing.assert_array_equal(table.impostor.sum(axis=(0, 1)), curve.impostor[levels])
        assert not np.tril(table.impostor[..., 0], -1).any()


def test_draws_without_pairs_are_left_out():
    alone = PairTable(
        np.array([0, NUM_LEVELS]),
        np.array([[1.0, 0.0], [1.0, 0.0]]),
        np.array([[[0.0, 0.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]),
    )
    found = replicates(alone, (0.5,), draws=100)
    assert 30 < found.levels.shape[1] < 70  # one of two people twice has no impostor
    assert (found.levels == NUM_LEVELS).all()


def test_the_interval_is_as_wide_as_samples_of_people_differ():
    """People of whom some are more alike to others, drawn anew: the deviation of their thresholds."""
    fars, thresholds, deviations = (0.05,), [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        identities = np.repeat(np.arange(60), 4)
        features = rng.normal(size=(60, 16))
        features[:, 0] += rng.uniform(0, 4, 60)
        features = features[identities] + 0.6 * rng.normal(size=(240, 16))
        features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
        curve = pair_curve(features, identities)
        thresholds.append(similarity_of(curve.level(0.05)))
        if seed < 3:
            table = pair_table(features, identities, None, candidate_levels(curve, fars))
            deviations.append((replicates(table, fars, draws=200).levels / STEPS).std())
    assert 0.8 < np.mean(deviations) / np.std(thresholds) < 1.7  # too wide rather than too narrow
