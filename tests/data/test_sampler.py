import time

import numpy as np
import pytest

from raid.data.sampler import camera_aware_batches, shuffled_batches, singleton_share
from raid.data.streams import SAMPLING, stream


def batches(labels, cameras, *, seed: int = 0, num_batches: int = 1, **options) -> np.ndarray:
    cameras = None if cameras is None else np.array(cameras)
    return camera_aware_batches(
        np.array(labels), cameras, num_batches=num_batches, generator=np.random.default_rng(seed), **options
    )


def random_set(seed: int, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(-1, 60, count)
    return labels, generator.integers(0, 3, count)


def reference(labels, cameras, instances, total, generator, singletons):
    """methods.md 2.7 line by line, with the generator asked in the same order."""
    clusters = sorted({int(label) for label in labels if label >= 0})
    if singletons == "skip":
        clusters = [label for label in clusters if sum(labels == label) > 1]
    stream: list[int] = []
    while len(stream) < total:
        for place in generator.permutation(len(clusters)):
            if len(stream) >= total:
                break
            members = [row for row in range(len(labels)) if labels[row] == clusters[place]]
            if len(members) == 1:
                stream += members * (instances if singletons == "repeat" else 1)
                continue
            anchor = members[generator.integers(len(members))]
            same = [row for row in members if row != anchor]
            other = [row for row in same if cameras is not None and cameras[row] != cameras[anchor]]
            pool = other or same
            stream.append(anchor)
            stream += list(generator.choice(pool, instances - 1, replace=len(pool) < instances))
    return np.array(stream[:total])


@pytest.mark.parametrize("singletons", ["keep_one", "skip", "repeat"])
@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_reference(seed: int, aware: bool, singletons: str) -> None:
    labels, cameras = random_set(seed)
    labels[labels > 40] = np.arange((labels > 40).sum()) + 100  # a third are alone
    result = batches(
        labels, cameras, num_batches=6, identities=8, instances=5, camera_aware=aware, singletons=singletons
    )
    expected = reference(labels, cameras if aware else None, 5, 240, np.random.default_rng(0), singletons)
    assert result.dtype == np.int64
    assert result.shape == (6, 40)
    np.testing.assert_array_equal(result.ravel(), expected)


def test_others_come_from_other_cameras() -> None:
    labels, cameras = random_set(3)
    for draw in batches(labels, cameras, num_batches=20).reshape(-1, 4):
        assert len(set(labels[draw])) == 1
        assert labels[draw[0]] >= 0
        assert (cameras[draw[1:]] != cameras[draw[0]]).all()
        assert draw[0] not in draw[1:]


def test_all_clusters_come_once_before_any_comes_twice() -> None:
    labels, cameras = random_set(4)
    first = labels[batches(labels, cameras, num_batches=30).reshape(-1, 4)[:, 0]]
    for start in range(0, 60 * (len(first) // 60), 60):
        assert len(set(first[start : start + 60])) == 60
    assert not np.array_equal(first[:60], first[60:120])


def test_a_cluster_of_one_camera_gives_others_of_the_same() -> None:
    draw = batches([0, 0, 0, 0, 0], [2, 2, 2, 2, 2], identities=1)[0]
    assert len(set(draw)) == 4  # four others for three places: none twice


def test_repeats_while_there_are_fewer_than_k_others() -> None:
    """Three others would fill three places, but the published rule repeats below K = 4."""
    repeated = [len(set(batches([0] * 4, None, identities=1, seed=seed)[0])) < 4 for seed in range(60)]
    assert 0.6 < np.mean(repeated) < 0.95  # 1 - 6/27
    assert all(len(set(batches([0] * 5, None, identities=1, seed=seed)[0])) == 4 for seed in range(60))


def test_cameras_can_be_ignored() -> None:
    labels, cameras = [0] * 20, [0] * 10 + [1] * 10
    for ignored in (
        batches(labels, cameras, num_batches=30, identities=1, camera_aware=False),
        batches(labels, None, num_batches=30, identities=1),
    ):
        same = [np.array(cameras)[draw[1:]] == np.array(cameras)[draw[0]] for draw in ignored]
        assert 0.3 < np.mean(same) < 0.7


def test_singletons() -> None:
    labels = [0, 0, 1, 2]
    kept = batches(labels, None, identities=2, instances=3, num_batches=200)
    rows, counts = np.unique(kept, return_counts=True)
    assert kept.shape == (200, 6)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3])
    np.testing.assert_allclose(counts[2:] / counts.sum(), 1 / 5, atol=0.01)  # one of 3 + 1 + 1 rows
    assert set(batches(labels, None, singletons="skip", num_batches=5).ravel()) == {0, 1}
    repeated = batches(labels, None, identities=3, instances=3, singletons="repeat")[0].reshape(3, 3)
    assert sorted(len(set(draw)) for draw in repeated) == [1, 1, 2]


def test_instances_of_one() -> None:
    assert set(batches([0, 0, 1, -1], [0, 1, 0, 0], identities=30, instances=1)[0]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("labels", "singletons"), [([-1, -1], "keep_one"), ([0, 1, 2], "skip"), ([], "keep_one")]
)
def test_no_cluster_to_draw_from(labels: list[int], singletons: str) -> None:
    with pytest.raises(ValueError, match="no cluster to draw from"):
        batches(np.array(labels, dtype=np.int64), None, singletons=singletons)


def test_only_singletons_fill_the_batches() -> None:
    result = batches([5, 9], None, num_batches=3)
    assert result.shape == (3, 64)
    np.testing.assert_array_equal(np.bincount(result.ravel()), [96, 96])


def test_the_generator_decides() -> None:
    labels, cameras = random_set(5)
    one, same, other = (batches(labels, cameras, seed=seed, num_batches=3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    longer = batches(labels, cameras, seed=0, num_batches=5)
    np.testing.assert_array_equal(longer[:3], one)
    assert batches(labels, cameras, num_batches=0).shape == (0, 64)


def test_singleton_share() -> None:
    assert singleton_share(np.array([0, 0, 1, 2, -1])) == pytest.approx(2 / 3)
    assert singleton_share(np.array([-1])) == 0


def test_an_epoch_of_msmt17_takes_under_a_second() -> None:
    generator = np.random.default_rng(0)
    labels, cameras = generator.integers(-1, 3000, 32_621), generator.integers(0, 15, 32_621)
    seconds = []
    for _ in range(3):  # the best of three: the machine is shared
        start = time.perf_counter()
        batches(labels, cameras, num_batches=400)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


def stream_of(number: int) -> np.random.Generator:
    return stream(5, SAMPLING, number)


def shuffled(num_images: int, batch_size: int, first: int, num_batches: int) -> np.ndarray:
    return shuffled_batches(num_images, batch_size, first=first, num_batches=num_batches, stream_of=stream_of)


def plainly_shuffled(num_images: int, batch_size: int, count: int) -> list[list[int]]:
    """Batch after batch from the beginning, a pass at a time."""
    batches: list[list[int]] = []
    number = 0
    while len(batches) < count:
        rows = stream_of(number).permutation(num_images).tolist()
        while len(rows) >= batch_size and len(batches) < count:
            batches.append(rows[:batch_size])
            rows = rows[batch_size:]
        number += 1
    return batches


@pytest.mark.parametrize(("num_images", "batch_size"), [(23, 5), (24, 6), (7, 7), (9, 5), (3, 1), (1, 1)])
def test_shuffled_batches_depend_on_their_number_alone(num_images: int, batch_size: int) -> None:
    expected = np.array(plainly_shuffled(num_images, batch_size, 20))
    for first in range(13):
        for num_batches in range(8):
            result = shuffled(num_images, batch_size, first, num_batches)
            assert result.dtype == np.int64
            assert result.shape == (num_batches, batch_size)
            np.testing.assert_array_equal(result, expected[first : first + num_batches])


def test_a_shuffled_pass_holds_every_image_once_and_the_next_is_another() -> None:
    first, second = shuffled(40, 8, 0, 10).reshape(2, 40)
    for rows in (first, second):
        np.testing.assert_array_equal(np.sort(rows), np.arange(40))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(40))
    dropping = shuffled(42, 8, 0, 5)
    assert len(np.unique(dropping)) == 40


def test_shuffled_batches_are_uniform() -> None:
    places = np.zeros((6, 6))
    for rows in shuffled(6, 6, 0, 6000):
        places[rows, np.arange(6)] += 1
    np.testing.assert_allclose(places, 1000, atol=130)  # 4.5 deviations of a binomial


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_shuffled_batch_is_neither_empty_nor_larger_than_the_set(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"holds 1 to 10 of them, not {batch_size}"):
        shuffled(10, batch_size, 0, 1)


def test_only_the_passes_that_are_needed_are_shuffled() -> None:
    asked: list[int] = []

    def counted(number: int) -> np.random.Generator:
        asked.append(number)
        return stream_of(number)

    shuffled_batches(30, 4, first=13, num_batches=9, stream_of=counted)  # 7 batches a pass
    assert asked == [1, 2, 3]
    asked.clear()
    shuffled_batches(30, 4, first=7, num_batches=7, stream_of=counted)
    assert asked == [1]
