import json
import os
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from slsr_pictures import ArrayImages, contents, gan_job, pictures
from torch.nn import functional

from raid.distributed.fanout import InProcess, Processes
from raid.errors import InputError
from raid.methods.slsr import gan_quality, generation
from raid.methods.slsr.config import Generated
from raid.methods.slsr.dcgan_state import load_generator
from raid.methods.slsr.gan_quality import OwnClusters, colours_of, measured, own_clusters
from raid.methods.slsr.gans import train_gans
from raid.methods.slsr.generation import (
    cluster_counts,
    generate_cluster,
    generate_images,
    open_generated,
    read_record,
)
from raid.methods.slsr.images import GeneratedImages, JoinedImages, resized, resized_array
from raid.ops.frechet import frechet_distance, moments


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two clusters with a GAN, an empty one and one that is too small."""
    job = gan_job(tmp_path_factory.mktemp("trained"), 24, 0, 18, 3, epochs=4, learning_rate=0.02)
    train_gans(job, InProcess())
    return job


def plain_counts(total, weights):
    """Seats by the largest remainder, one at a time."""
    shares = [total * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in shares]
    while sum(counts) < total:
        remainders = [
            (share - count, -i) for i, (share, count) in enumerate(zip(shares, counts, strict=True))
        ]
        counts[-max(remainders)[1]] += 1
    return counts


def test_counts_by_hand():
    sizes = np.array([50, 10, 20, 30])
    assert cluster_counts(10, "equal", sizes, [0, 1, 2, 3]).tolist() == [3, 3, 2, 2]
    assert cluster_counts(11, "proportional", sizes, [0, 1, 2, 3]).tolist() == [5, 1, 2, 3]
    assert cluster_counts(12, "proportional", sizes, [0, 1, 2, 3]).tolist() == [6, 1, 2, 3]
    assert cluster_counts(10, "equal", sizes, [0, 2, 3]).tolist() == [4, 0, 3, 3]
    assert cluster_counts(2, "equal", sizes, [1, 2, 3]).tolist() == [0, 1, 1, 0]
    assert cluster_counts(7, "proportional", sizes, [2]).tolist() == [0, 0, 7, 0]
    assert cluster_counts(36_000, "proportional", np.array([10**6, 1]), [0, 1]).tolist() == [36_000, 0]


@pytest.mark.parametrize("seed", range(20))
def test_counts_equal_the_loop(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.choice([16, 32, 48, 64], rng.integers(1, 9))  # powers and ties: floats are exact
    total = int(rng.integers(1, 100)) * int(sizes.sum() // 16)
    with_gan = list(range(len(sizes)))
    assert cluster_counts(total, "equal", sizes, with_gan).tolist() == plain_counts(total, [1] * len(sizes))
    found = cluster_counts(total + 1, "proportional", sizes, with_gan)
    assert found.sum() == total + 1
    assert found.tolist() == plain_counts(total + 1, sizes.tolist())


def test_generated_images_and_record(tmp_path, trained):
    record = generate_images(trained, Generated(count=151), InProcess(), tmp_path)
    assert record.counts == (76, 0, 75, 0)
    assert (record.height, record.width) == (32, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated.json", "generated.npy"]
    pixels = np.load(tmp_path / "generated.npy")
    assert pixels.shape == (151, 3, 32, 16)
    assert pixels.dtype == np.uint8
    assert record.clusters.tolist() == [0] * 76 + [2] * 75
    np.testing.assert_array_equal(pixels[76:], generate_cluster((2, 75), trained))
    assert not np.array_equal(pixels[:75], pixels[76:])
    assert len(np.unique(pixels.reshape(151, -1), axis=0)) == 151
    assert read_record(tmp_path) == record
    assert json.loads((tmp_path / "generated.json").read_text())["counts"] == [76, 0, 75, 0]
    assert [row.cluster for row in record.quality] == [0, 2]
    assert all(row.frechet is None for row in record.quality)


def test_an_image_is_of_its_own_noise_alone(tmp_path, trained, monkeypatch):
    """Batch norm in evaluation mode: one by one they are the same, within a level."""
    seen = []

    def noted(generator, z, device):
        seen.append(z)
        return np.concatenate([generation_generate(generator, row[None], device) for row in z])

    together = generate_cluster((0, 70), trained)
    generation_generate = generation.generate
    monkeypatch.setattr(generation, "generate", noted)
    one_by_one = generate_cluster((0, 70), trained)
    assert np.abs(together.astype(int) - one_by_one).max() <= 1
    generate_cluster((2, 70), trained)
    z, other = seen
    assert z.shape == other.shape == (70, 8)
    assert not torch.equal(z, other)
    assert float(z.min()) < -0.9
    assert float(z.max()) > 0.9
    assert generate_cluster((1, 0), trained).shape == (0, 3, 32, 16)  # the empty cluster, which has no GAN


@pytest.mark.usefixtures("quick_starts")
def test_same_bytes_in_process_and_on_two_processes(tmp_path, trained):
    settings = Generated(count=90, split="proportional")
    processes = Processes(2, torch.get_num_threads())
    try:
        for name, fanout in (("one", InProcess()), ("two", processes)):
            (tmp_path / name).mkdir()
            generate_images(trained, settings, fanout, tmp_path / name)
    finally:
        processes.close()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert read_record(tmp_path / "one").counts == (51, 0, 39, 0)


def test_a_record_that_is_there_is_only_read(tmp_path, trained, monkeypatch):
    first = generate_images(trained, Generated(count=20), InProcess(), tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(generation, "generate", None)
    assert generate_images(trained, Generated(count=30), InProcess(), tmp_path) == first
    monkeypatch.undo()
    (tmp_path / "generated.json").unlink()  # killed before it was written
    assert generate_images(trained, Generated(count=20), InProcess(), tmp_path) == first
    assert contents(tmp_path) == before


def test_one_cluster(tmp_path):
    job = gan_job(tmp_path, 16, epochs=1)
    train_gans(job, InProcess())
    record = generate_images(job, Generated(count=5), InProcess(), tmp_path)
    assert record.counts == (5,)
    assert record.own_cluster is None
    assert read_record(tmp_path) == record


def test_what_cannot_be_read(tmp_path, trained):
    with pytest.raises(InputError, match=r"generator.pt"):
        load_generator(tmp_path / "generator.pt", torch.device("cpu"))
    torch.save({"format": 1, "weights": {}}, tmp_path / "generator.pt")
    with pytest.raises(InputError, match="not a generator"):
        load_generator(tmp_path / "generator.pt", torch.device("cpu"))
    with pytest.raises(InputError, match=r"generated.npy"):
        open_generated(tmp_path, height=8, width=8)
    np.save(tmp_path / "generated.npy", noise(3, 8, 8))
    with pytest.raises(InputError, match=r"no generated.json"):
        open_generated(tmp_path, height=8, width=8)
    generate_images(trained, Generated(count=6), InProcess(), tmp_path)
    np.save(tmp_path / "generated.npy", noise(3, 8, 8))
    with pytest.raises(InputError, match=r"3 images, generated.json says 6"):
        open_generated(tmp_path, height=8, width=8)
    np.save(tmp_path / "generated.npy", noise(3, 8, 8).astype(float))
    with pytest.raises(InputError, match="no images"):
        open_generated(tmp_path, height=8, width=8)


# --- images of another size, and of two sets


@pytest.mark.parametrize("size", [(64, 48), (16, 9), (20, 40), (24, 12)])
def test_resizing(size):
    images = torch.from_numpy(pictures(np.array([0, 1, 2, 3, 0]), height=24, width=12))
    found = resized(images, *size)
    assert found.shape == (5, 3, *size)
    assert found.dtype == torch.uint8
    exact = functional.interpolate(images.double(), size, mode="bicubic", antialias=True)
    wrong = (found - exact.clamp(0, 255)).abs()  # it is rounded and clipped between rows and columns
    assert float(wrong.max()) < 6
    assert float(wrong.mean()) < 0.5
    for row in range(5):
        assert torch.equal(resized(images[row : row + 1], *size)[0], found[row])


@pytest.mark.parametrize("block", [1, 3, 256])
def test_all_images_resized(monkeypatch, block):
    pixels = pictures(np.zeros(7, dtype=np.int64))
    monkeypatch.setattr("raid.methods.slsr.images._BLOCK_ROWS", block)
    found = resized_array(ArrayImages(pixels), 32, 16)
    np.testing.assert_array_equal(found, resized(torch.from_numpy(pixels), 32, 16).numpy())
    assert resized_array(ArrayImages(pixels[:0]), 32, 16).shape == (0, 3, 32, 16)


def test_generated_images_are_gathered_one_by_one(tmp_path):
    pixels = noise(9, 16, 8)
    np.save(tmp_path / "generated.npy", pixels)
    images = GeneratedImages.open(tmp_path / "generated.npy", height=24, width=12)
    assert (len(images), images.height, images.width) == (9, 24, 12)
    rows = np.array([3, 0, 8, 3])
    batch = images.gather(rows)
    assert batch.shape == (4, 3, 24, 12)
    for row, image in zip(rows, batch, strict=True):
        assert torch.equal(images.gather(np.array([row]))[0], image)
        assert torch.equal(resized(torch.from_numpy(pixels[[row]]), 24, 12)[0], image)
    taken = images.take(rows).take(np.array([2, 1]))
    assert torch.equal(taken.gather(np.arange(2)), batch[[2, 1]])
    assert len(taken) == 2
    assert torch.equal(pickle.loads(pickle.dumps(taken)).gather(np.arange(2)), batch[[2, 1]])
    assert images.gather(rows[:0]).shape == (0, 3, 24, 12)
    with pytest.raises(IndexError):
        images.gather(np.array([9]))


@pytest.mark.parametrize("size", [(16, 8), (24, 12)])
def test_a_batch_is_the_callers_own(tmp_path, size):
    np.save(tmp_path / "generated.npy", noise(4, 16, 8))
    images = GeneratedImages.open(tmp_path / "generated.npy", height=size[0], width=size[1])
    before = images.gather(np.arange(4)).clone()
    images.gather(np.arange(4)).zero_()
    assert torch.equal(images.gather(np.arange(4)), before)


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    file = tmp_path / "generated.npy"
    for seed in (0, 1):
        np.save(tmp_path / "new.npy", noise(4, 16, 8, seed))
        os.replace(tmp_path / "new.npy", file)
        images = GeneratedImages.open(file, height=16, width=8)
        np.testing.assert_array_equal(images.gather(np.arange(4)).numpy(), noise(4, 16, 8, seed))


def test_joined_images_equal_a_concatenation(tmp_path):
    real, made = noise(6, 24, 12), noise(5, 16, 8, 1)
    np.save(tmp_path / "generated.npy", made)
    generated = GeneratedImages.open(tmp_path / "generated.npy", height=24, width=12)
    joined = JoinedImages(ArrayImages(real), generated)
    plain = np.concatenate([real, resized(torch.from_numpy(made), 24, 12).numpy()])
    assert (len(joined), joined.height, joined.width) == (11, 24, 12)
    choices = ([0, 10, 5, 6, 6, 3], [2, 1], [9, 7, 8], [], list(range(11)), [-1, 0])
    for rows in (np.array(choice, dtype=np.int64) for choice in choices):
        np.testing.assert_array_equal(joined.gather(rows).numpy(), plain[rows])
    taken = joined.take(np.array([10, 0, 6, 5, 5])).take(np.array([4, 0, 2]))
    np.testing.assert_array_equal(taken.gather(np.array([1, 2, 0, 1])).numpy(), plain[[10, 6, 5, 10]])
    assert len(taken) == 3
    assert torch.equal(pickle.loads(pickle.dumps(taken)).gather(np.arange(3)), taken.gather(np.arange(3)))
    with pytest.raises(IndexError):
        joined.gather(np.array([11]))
    with pytest.raises(ValueError, match="two sizes"):
        JoinedImages(ArrayImages(made), generated)


# --- quality


def quality_of(tmp_path, job, *parts, features_of=None):
    """Measure made-up generated images, an array a cluster."""
    np.save(tmp_path / "generated.npy", np.concatenate(parts))
    counts = np.array([len(part) for part in parts])
    return measured(job, counts, InProcess(), tmp_path / "generated.npy", features_of)


def distance(one, other):
    return float(np.sqrt(np.mean((one.astype(float) - other.astype(float)) ** 2)))


def test_quality_equals_plain_figures(tmp_path):
    job = gan_job(tmp_path, 30, 21)
    parts = [pictures(np.full(12, cluster), height=32, width=16, seed=7) for cluster in (0, 1)]
    rows, own = quality_of(tmp_path, job, *parts)
    assert own == OwnClusters(1.0, 1.0)
    for cluster, row in enumerate(rows):
        real = resized_array(job.images.take(np.flatnonzero(job.clusters == cluster)), 32, 16)
        ratio = parts[cluster].astype(float).var(axis=0).mean() / real.astype(float).var(axis=0).mean()
        own_distances = [
            min(distance(a, b) for j, b in enumerate(real) if j != i) for i, a in enumerate(real)
        ]
        assert (row.cluster, row.samples, row.copies, row.frechet) == (cluster, 12, 0, None)
        assert row.variance_ratio == pytest.approx(ratio)
        assert row.nearest_real == pytest.approx(min(distance(a, b) for a in parts[cluster] for b in real))
        assert row.real_nearest == pytest.approx(np.percentile(own_distances, 1))


def test_planted_copies_are_counted(tmp_path, monkeypatch):
    """Among all images, also where distances are measured on a few; those of another cluster are none."""
    job = gan_job(tmp_path, 30, 21)
    real = [resized_array(job.images.take(np.flatnonzero(job.clusters == i)), 32, 16) for i in (0, 1)]
    parts = [pictures(np.full(12, cluster), height=32, width=16, seed=7) for cluster in (0, 1)]
    parts[0][[2, 5, 11]] = real[0][[20, 4, 4]]
    parts[1][3] = real[0][0]
    almost = real[1][0].copy()
    almost[0, 0, 0] ^= 1
    parts[1][4] = almost
    rows, _ = quality_of(tmp_path, job, *parts)
    assert [row.copies for row in rows] == [3, 0]
    assert rows[0].nearest_real == 0
    assert rows[1].nearest_real == pytest.approx(distance(almost, real[1][0]))
    monkeypatch.setattr(gan_quality, "SAMPLES", 4)
    few, _ = quality_of(tmp_path, job, *parts)
    assert [(row.samples, row.copies) for row in few] == [(4, 3), (4, 0)]
    assert quality_of(tmp_path, job, *parts)[0] == few  # the same few


def test_images_of_other_clusters_are_told(tmp_path):
    job = gan_job(tmp_path, 30, 21, 20)
    right = [pictures(np.full(9, cluster), height=32, width=16, seed=7) for cluster in range(3)]
    assert quality_of(tmp_path, job, *right)[1].generated == 1
    assert quality_of(tmp_path, job, right[1], right[2], right[0])[1].generated == 0
    assert quality_of(tmp_path, job, right[0], right[2], right[1])[1].generated == pytest.approx(1 / 3)
    assert (
        quality_of(tmp_path, job, right[0], right[0][:0], right[2])[1].generated == 1
    )  # a cluster without images


def test_the_classifier_weighs_clusters_alike():
    """Ten times as many images of one cluster do not draw what lies between to it."""
    rng = np.random.default_rng(0)
    few, many = rng.normal(-0.1, 0.3, (30, 1)), rng.normal(0.1, 0.3, (3000, 1))
    between = np.linspace(-0.3, 0.3, 101)[:, None]
    assert 0.3 < own_clusters((few, many), (between, between[:0])).generated < 0.7
    assert own_clusters((few,), (between,)) == OwnClusters(None, None)


def test_what_real_images_reach_is_of_images_the_classifier_has_not_seen():
    """Colours that tell nothing: a classifier knows those that it was trained on by heart, and no others."""
    rng = np.random.default_rng(0)
    real = tuple(rng.normal(size=(20, 60)) for _ in range(2))
    own = own_clusters(real, real)
    assert own.generated == 1
    assert own.real < 0.75
    assert own_clusters((real[0], real[1][:1]), real).real is None  # nothing is left to train on


def test_colours_are_of_stripes_from_head_to_feet():
    pixels = np.zeros((2, 3, 32, 16), dtype=np.uint8)
    pixels[0, 0, :16], pixels[0, 2, 16:] = 200, 200  # red above blue
    pixels[1, 2, :16], pixels[1, 0, 16:] = 200, 200
    red_above, blue_above = colours_of(pixels).reshape(2, 8, -1)
    assert np.array_equal(red_above[:4], blue_above[4:])
    assert np.array_equal(red_above[4:], blue_above[:4])
    assert not np.allclose(red_above[0], red_above[7])


def mean_colours(images):
    """Features (n, 3); of an `Images` at the size of the training images."""
    assert (images.height, images.width) == (40, 20)
    return images.gather(np.arange(len(images))).double().mean(dim=(2, 3)).numpy()


def test_frechet_distance(tmp_path):
    job = gan_job(tmp_path, 30, 21)
    parts = [pictures(np.full(count, 1), height=32, width=16, seed=7) for count in (30, 21)]
    rows, _ = quality_of(tmp_path, job, *parts, features_of=mean_colours)
    for cluster, row in enumerate(rows):
        real = mean_colours(job.images.take(np.flatnonzero(job.clusters == cluster)))
        made = mean_colours(ArrayImages(resized(torch.from_numpy(parts[cluster]), 40, 20).numpy()))
        assert row.frechet == pytest.approx(frechet_distance(moments(real), moments(made)))
    assert rows[0].frechet > 100 * rows[1].frechet
    one = [parts[0][:1], parts[1][:1]]
    assert [row.frechet for row in quality_of(tmp_path, job, *one, features_of=mean_colours)[0]] == [None] * 2


def test_the_record_is_plain(tmp_path, trained):
    record = generate_images(trained, Generated(count=8), InProcess(), tmp_path, mean_colours)
    assert json.loads(json.dumps(asdict(record))) == json.loads((tmp_path / "generated.json").read_text())
    assert all(row.frechet > 0 for row in record.quality)
