import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from slsr_pictures import contents, elsewhere, gan_job, pictures

from raid.data.blurring import blurred
from raid.distributed.fanout import InProcess, Processes
from raid.errors import InputError
from raid.files import read_tensors
from raid.methods.slsr import gan_training
from raid.methods.slsr.dcgan_state import Dcgan, generate, load_generator
from raid.methods.slsr.gan_job import PARENT
from raid.methods.slsr.gan_training import train_gan
from raid.methods.slsr.gans import epoch_records, train_gans
from raid.methods.slsr.grids import grid, write_grid
from raid.methods.slsr.images import resized_array


class Recorder(InProcess):
    """Notes which items were mapped."""

    def __init__(self):
        self.items = []

    def map(self, function, items, *shared):
        self.items.append(list(items))
        return super().map(function, self.items[-1], *shared)


class Killed(BaseException):
    """Ends a training as a signal would."""


def lines_of(place):
    return [json.loads(line) for line in (place / "epochs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def processes(quick_starts):
    pool = Processes(2, torch.get_num_threads())
    yield pool
    pool.close()


@pytest.fixture
def seen(monkeypatch):
    """What the steps of trainings saw and gave, and the samples made."""
    steps, samples = [], []
    step, generate = Dcgan.step, Dcgan.generate

    def noted_step(self, real, z):
        losses = step(self, real, z)
        steps.append((real.clone(), z.clone(), losses))
        return losses

    def noted_generate(self, z):
        samples.append(generate(self, z))
        return samples[-1]

    monkeypatch.setattr(Dcgan, "step", noted_step)
    monkeypatch.setattr(Dcgan, "generate", noted_generate)
    return steps, samples


def test_files_of_a_gan(tmp_path, seen):
    job = gan_job(tmp_path, 20, 24, epochs=3, grid_epochs=2, learning_rate=0.02)
    results = train_gans(job, InProcess())
    place = tmp_path / "gans" / "cluster_01"
    names = ["epochs.jsonl", "generator.pt", "grid_00002.png", "grid_00003.png", "real.png", "result.json"]
    assert sorted(path.name for path in place.iterdir()) == names
    assert [result.cluster for result in results] == [0, 1]
    assert (results[1].images, results[1].epochs, results[1].steps) == (24, 3, 9)
    assert (results[0].images, results[0].steps) == (20, 6)
    assert json.loads((place / "result.json").read_text())["variance_ratio"] == results[1].variance_ratio
    assert [line["epoch"] for line in lines_of(place)] == [0, 1, 2]
    # Figures against plain ones: cluster 1 is the larger and comes first.
    steps, samples = seen
    real = resized_array(job.images.take(np.flatnonzero(job.clusters == 1)), 32, 16)
    for epoch, line in enumerate(lines_of(place)):
        losses = [losses for _, _, losses in steps[3 * epoch : 3 * epoch + 3]]
        for name in ("real", "fake", "generator"):
            assert line[name] == pytest.approx(sum(float(getattr(loss, name)) for loss in losses) / 3)
        ratio = samples[epoch].astype(float).var(axis=0).mean() / real.astype(float).var(axis=0).mean()
        assert line["variance_ratio"] == pytest.approx(ratio)
    with Image.open(place / "grid_00003.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grid(samples[2][:64]))
    with Image.open(place / "real.png") as picture:
        assert picture.size == (8 * 18 - 2, 3 * 34 - 2)
    assert results[1].variance_ratio == lines_of(place)[-1]["variance_ratio"]
    # generator.pt is what made the last samples.
    generator, num_latent = load_generator(place / "generator.pt", torch.device("cpu"))
    assert num_latent == 8
    z = gan_training._noise(job, 1, gan_training.SAMPLES, gan_training._FIXED)
    np.testing.assert_array_equal(generate(generator, z, torch.device("cpu")), samples[2])


def test_grids_are_blurred_and_nothing_else(tmp_path, seen):
    """Each picture by itself; the GAN is trained on what the images are."""
    _, samples = seen
    clear, blur = (tmp_path / name for name in ("clear", "blur"))
    for folder in (clear, blur):
        train_gan(0, replace(gan_job(folder, 20, epochs=1), blur=folder is blur))
    before, after = contents(clear), contents(blur)
    grids = {name for name in before if name.endswith(".png")}
    assert len(grids) == 2
    assert {name for name in before if before[name] != after[name]} == grids
    shown = samples[0][:64].transpose(0, 2, 3, 1)
    with Image.open(blur / "gans" / "cluster_00" / "grid_00001.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), grid(blurred(shown).transpose(0, 3, 1, 2)))
    with Image.open(blur / "gans" / "cluster_00" / "real.png") as picture:
        one = np.asarray(picture)[:32, :16]
        np.testing.assert_array_equal(blurred(one), one)


def test_batches_are_shuffled_passes(tmp_path, seen):
    job = gan_job(tmp_path, 24)
    train_gan(0, job)
    steps, _ = seen
    real = torch.from_numpy(resized_array(job.images, 32, 16)).double() / 127.5 - 1
    epochs = []
    for epoch in range(2):
        batch = torch.cat([real for real, _, _ in steps[3 * epoch : 3 * epoch + 3]]).double()
        near = (batch.flatten(1)[:, None] - real.flatten(1)[None]).abs().amax(dim=2)
        assert (near.amin(dim=1) < 1e-6).all()
        epochs.append(near.argmin(dim=1).tolist())
        assert sorted(epochs[-1]) == list(range(24))
    assert epochs[0] != epochs[1]
    noise = torch.cat([z for _, z, _ in steps])
    assert len(noise.unique(dim=0)) == len(noise) == 48
    assert float(noise.min()) < -0.9
    assert float(noise.max()) > 0.9


def test_steps_in_place_of_passes(tmp_path, seen):
    job = gan_job(tmp_path, 24, steps=2)
    assert train_gan(0, job).steps == len(seen[0]) == 4
    # A pass of three batches goes on in the next epoch.
    assert len(torch.cat([real for real, _, _ in seen[0][:3]]).flatten(1).unique(dim=0)) == 24


def test_same_bytes_in_process_and_on_two_processes(tmp_path, processes):
    job = gan_job(tmp_path / "one", 24, 9, 30, min_images=8, parent="all_images", learning_rate=0.02)
    other = elsewhere(job, tmp_path / "two")
    results = train_gans(job, InProcess()), train_gans(other, processes)
    assert [result.variance_ratio for result in results[0]] == [r.variance_ratio for r in results[1]]
    found = contents(job.folder)
    assert len(found) == 4 * 6 + 1
    assert found == contents(other.folder)


def test_a_gan_depends_on_its_cluster_and_seed_alone(tmp_path):
    job = gan_job(tmp_path / "both", 16, 16, epochs=1)
    train_gans(job, InProcess())
    alone = elsewhere(job, tmp_path / "alone")
    train_gan(1, alone)
    assert contents(alone.place(1)) == contents(job.place(1))
    other = gan_job(tmp_path / "other", 16, 16, epochs=1, seed=2)
    train_gan(1, other)
    assert contents(other.place(1))["generator.pt"] != contents(job.place(1))["generator.pt"]
    weights = [read_tensors(job.place(i) / "generator.pt")["weights"]["linear.weight"] for i in (0, 1)]
    assert float((weights[0] - weights[1]).abs().max()) > 0.05  # drawn apart, not trained apart


KILLS = {
    "after epoch 1": ("_tell", lambda cluster, line, epochs: line["epoch"] == 0),
    "after epoch 2": ("_tell", lambda cluster, line, epochs: line["epoch"] == 1),
    "after epoch 3, the last": ("_tell", lambda cluster, line, epochs: line["epoch"] == 2),
    "before the lines of epoch 2": ("_write_lines", lambda place, lines: len(lines) == 2),
    "before the checkpoint of epoch 2": ("write_tensors", lambda path, state: len(state["lines"]) == 2),
    "before the results": ("_finish", lambda *_: True),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    job = gan_job(tmp_path_factory.mktemp("whole"), 20, epochs=3, learning_rate=0.02)
    train_gan(0, job)
    return job


@pytest.mark.parametrize("kill", KILLS)
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, uninterrupted, kill, seen):
    job = elsewhere(uninterrupted, tmp_path)
    name, is_due = KILLS[kill]
    function = getattr(gan_training, name)

    def deadly(*arguments):
        if is_due(*arguments):
            raise Killed
        return function(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(gan_training, name, deadly)
        with pytest.raises(Killed):
            train_gan(0, job)
    assert not job.is_done(0)
    before = len(seen[0])
    train_gan(0, job)
    assert contents(job.folder) == contents(uninterrupted.folder)
    assert len(seen[0]) == (8 if "before the checkpoint" in kill else 6)  # no epoch but that was done twice
    assert before > 0


def test_killed_before_the_generator_is_written(tmp_path, monkeypatch, uninterrupted):
    job = elsewhere(uninterrupted, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Dcgan, "write", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train_gan(0, job)
    assert (job.place(0) / "result.json").exists()
    assert (job.place(0) / "checkpoint.pt").exists()
    assert not job.is_done(0)
    train_gan(0, job)
    assert contents(job.folder) == contents(uninterrupted.folder)


def test_done_clusters_are_not_trained_again(tmp_path, seen):
    job = gan_job(tmp_path, 16, 24, 20, epochs=1)
    fanout = Recorder()
    first = train_gans(job, fanout)
    assert fanout.items == [[1, 2, 0]]  # the largest first
    before, num_steps = contents(job.folder), len(seen[0])
    assert train_gans(job, fanout) == first
    assert len(seen[0]) == num_steps
    (job.place(2) / "generator.pt").unlink()
    (job.place(1) / "checkpoint.pt").write_bytes(b"left by a process killed when it was done")
    again = train_gans(job, fanout)
    assert fanout.items[1:] == [[2]]
    assert [first[i] == again[i] for i in range(3)] == [True, True, False]  # its times
    assert contents(job.folder) == before
    assert train_gan(0, job) == first[0]  # given to a process again that died after it was done
    assert contents(job.folder) == before


def test_small_clusters_get_no_gan(tmp_path, caplog):
    job = gan_job(tmp_path, 20, 15, 0, 1, 16, epochs=1, min_images=16)
    with caplog.at_level(logging.WARNING, "raid.methods.slsr.gans"):
        results = train_gans(job, InProcess())
    assert [result.cluster for result in results] == job.with_gan == [0, 4]
    assert sorted(path.name for path in job.folder.iterdir()) == ["cluster_00", "cluster_04"]
    left_out = [record.getMessage() for record in caplog.records if "gets no GAN" in record.getMessage()]
    assert [text.split(",")[0] for text in left_out] == [
        "cluster 1 has 15 images", "cluster 2 has 0 images", "cluster 3 has 1 images",
    ]  # fmt: skip
    assert all("gan.min_images=16" in text for text in left_out)


def test_no_cluster_is_large_enough(tmp_path):
    with pytest.raises(InputError, match=r"gan.min_images: .*the largest has 9"):
        train_gans(gan_job(tmp_path, 3, 9), InProcess())
    assert not (tmp_path / "gans").exists()


@pytest.mark.parametrize("count", [2, 7])
def test_a_cluster_smaller_than_a_batch(tmp_path, seen, count):
    """The only cluster, too: it trains on all it has at every step."""
    job = gan_job(tmp_path, count, min_images=2)
    (result,) = train_gans(job, InProcess())
    assert (result.images, result.steps) == (count, 2)
    for real, z, _ in seen[0]:
        assert len(real) == len(z) == len(real.flatten(1).unique(dim=0)) == count


def test_clusters_start_from_the_parent(tmp_path, seen):
    job = gan_job(tmp_path, 16, 24, 5, parent="all_images", epochs=1)
    fanout = Recorder()
    results = train_gans(job, fanout)
    assert fanout.items == [[PARENT], [1, 0]]
    assert [result.cluster for result in results] == [0, 1]
    parent = json.loads((job.folder / "parent" / "result.json").read_text())
    assert (parent["cluster"], parent["images"]) == (PARENT, 45)
    files = {path.name for path in job.place(PARENT).iterdir()}
    assert {"generator.pt", "discriminator.pt", "epochs.jsonl", "real.png", "grid_00001.png"} <= files
    assert not (job.place(0) / "discriminator.pt").exists()
    networks, lines = gan_training._start(0, elsewhere_with_parent(job, tmp_path / "new"))
    assert lines == []
    for model, name in ((networks.generator, "generator"), (networks.discriminator, "discriminator")):
        saved = read_tensors(job.place(PARENT) / f"{name}.pt")["weights"]
        assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
        assert any(value.abs().max() > 0 for key, value in saved.items() if "running_mean" in key)
    # The parent is not trained again for a cluster that is; nor without one.
    (job.place(0) / "generator.pt").unlink()
    train_gans(job, fanout)
    train_gans(job, fanout)
    assert fanout.items[2:] == [[0]]
    without = gan_job(tmp_path / "without", 16, 24, 5, epochs=1)
    train_gan(0, without)
    assert contents(without.place(0))["generator.pt"] != contents(job.place(0))["generator.pt"]


def elsewhere_with_parent(job, folder):
    other = elsewhere(job, folder)
    other.folder.mkdir(parents=True)
    (other.folder / "parent").symlink_to(job.place(PARENT))
    return other


def test_divergence_stops_the_gan(tmp_path):
    job = gan_job(tmp_path, 20, learning_rate=1e30)
    with pytest.raises(InputError, match=r"gan.learning_rate: the GAN of cluster 0 .* epoch 1"):
        train_gans(job, InProcess())
    assert not (job.place(0) / "checkpoint.pt").exists()


def test_weights_that_are_not_finite_stop_it_too(tmp_path, monkeypatch):
    """The last step's: no loss has seen them."""
    step, calls = Dcgan.step, []

    def ruinous(self, real, z):
        losses = step(self, real, z)
        calls.append(losses)
        if len(calls) == 4:
            self.generator.linear.weight.data[0, 0] = torch.inf
        return losses

    monkeypatch.setattr(Dcgan, "step", ruinous)
    job = gan_job(tmp_path, 16)
    with pytest.raises(InputError, match=r"cluster 0 .* epoch 2"):
        train_gan(0, job)
    assert len(lines_of(job.place(0))) == 1


def test_alarm_of_a_collapsed_generator(tmp_path, monkeypatch, caplog):
    clusters = np.zeros(128, dtype=np.int64)
    good = pictures(clusters, height=32, width=16, seed=9)
    collapsed = np.repeat(good[:1], 128, axis=0)
    found = []
    for name, samples in (("good", good), ("collapsed", collapsed)):
        monkeypatch.setattr(Dcgan, "generate", lambda self, z, samples=samples: samples[: len(z)])
        caplog.clear()
        job = gan_job(tmp_path / name, 40, size=(32, 16))
        with caplog.at_level(logging.WARNING):
            (result,) = train_gans(job, InProcess())
        assert list(result.alarms) == json.loads((job.place(0) / "result.json").read_text())["alarms"]
        assert [record.getMessage() for record in caplog.records] == list(result.alarms)
        found.append(result)
    assert found[0].alarms == ()
    assert found[0].variance_ratio == pytest.approx(1, rel=0.1)
    (text,) = found[1].alarms
    assert found[1].variance_ratio == 0
    assert "cluster 0" in text
    assert "gan.collapse=0.3" in text


def test_real_images_that_do_not_vary(tmp_path):
    job = gan_job(tmp_path, 16, epochs=1)
    job.images.pixels[:] = job.images.pixels[:1]
    (result,) = train_gans(job, InProcess())
    assert result.variance_ratio is None
    assert result.alarms == ()
    assert "NaN" not in (job.place(0) / "epochs.jsonl").read_text()


def test_epochs_are_merged_into_lines_of_the_run(tmp_path):
    def write(name, *ratios):
        (tmp_path / name).mkdir()
        texts = [
            json.dumps({"epoch": i, "real": i + 0.25, "fake": 2.0, "generator": 3.0, "variance_ratio": ratio})
            for i, ratio in enumerate(ratios)
        ]
        (tmp_path / name / "epochs.jsonl").write_text("".join(text + "\n" for text in texts))

    write("cluster_00", 0.5, 0.75)
    write("cluster_12", None, 0.125)
    write("parent", 0.1)
    (tmp_path / "cluster_03").mkdir()  # begun, and without an epoch
    (tmp_path / "notes.txt").write_text("not a GAN")
    lines = epoch_records(tmp_path)
    assert len(lines) == 2
    rest = {"fake": 2.0, "generator": 3.0}
    expected = {
        "cluster_0": {"real": 1.25, "variance_ratio": 0.75},
        "cluster_12": {"real": 1.25, "variance_ratio": 0.125},
    }
    assert lines[1] == {
        f"gan/{name}/{key}": value for name, own in expected.items() for key, value in (own | rest).items()
    }
    assert lines[0]["gan/parent/variance_ratio"] == 0.1
    assert lines[0]["gan/cluster_0/real"] == 0.25
    assert "gan/cluster_12/variance_ratio" not in lines[0]
    assert lines[0]["gan/cluster_12/fake"] == 2.0


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_grid(tmp_path, count):
    images = np.random.default_rng(0).integers(0, 255, (count, 3, 5, 4), dtype=np.uint8)
    sheet = grid(images)
    columns = min(8, count)
    assert sheet.shape == (-(-count // 8) * 7 - 2, columns * 6 - 2, 3)
    expected = np.full_like(sheet, 255)
    for i in range(count):
        for row in range(5):
            for column in range(4):
                expected[i // 8 * 7 + row, i % 8 * 6 + column] = images[i, :, row, column]
    np.testing.assert_array_equal(sheet, expected)
    write_grid(tmp_path / "grid.png", images)
    with Image.open(tmp_path / "grid.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), sheet)
