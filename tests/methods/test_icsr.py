import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import thin_resnet
import tiny
import torch
from torchvision.models import resnet

from raid.data.samples import Samples
from raid.distributed.fanout import InProcess, Processes
from raid.methods.encoder import starting_weights
from raid.methods.icsr import inter_camera, intra_camera
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.check import check
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.epoch_labels import assign_labels
from raid.methods.icsr.intra_camera import CameraJob, train_camera
from raid.methods.inputs import Inputs, open_inputs
from raid.methods.launch import summary
from raid.ops import quality
from raid.ops.centrality import harmonic_centrality
from raid.ops.jaccard import jaccard_similarity
from raid.ops.linkage import agglomerative
from raid.ops.refine import refine_labels
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture
def whole_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet, "ResNet", thin_resnet.WHOLE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("icsr") / "images")


@pytest.fixture(scope="module")
def inputs(root: Path) -> Inputs:
    return open_inputs(tiny.config(root, root.parent).data)


@pytest.fixture(scope="module")
def done(root: Path) -> RunFolder:
    return icsr.run(tiny.config(root, root.parent / "done", inter__epochs=3, evaluate__every=2))


def unit_rows(seed: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_run_folder_holds_what_the_readme_promises(done, inputs):
    assert {path.name for path in done.path.iterdir()} == {
        "config.yaml", "run.json", "local", "local_labels.parquet", "cameras.jsonl", "checkpoints",
        "steps.jsonl", "metrics.jsonl", "model.pt", "evaluation.npz", "report.html", "status.json",
        "attempt",
    }  # fmt: skip
    assert [epoch["epoch"] for epoch in done.metrics()] == [0, 1, 2]
    assert len(done.steps()) == 3 * 3
    table = pq.read_table(done.local_labels)
    assert table["path"].to_pylist() == inputs.train.paths
    assert table["camera"].to_pylist() == inputs.train.cameras.tolist()


def test_what_stage_1_took_for_each_camera_is_recorded(done, inputs):
    lines, total = done.cameras(), done.metrics()[0]["time/intra_camera_s"]
    assert {line["camera"]: line["images"] for line in lines} == {0: 15, 1: 15, 2: 15}
    assert [line["name"] for line in lines] == ["1", "2", "3"]
    assert all(line["seconds"] > 0 for line in lines)
    assert sum(line["seconds"] for line in lines) <= total
    labels = pq.read_table(done.local_labels)["local_label"].to_numpy()
    for line in lines:
        of_camera = labels[inputs.train.cameras == line["camera"]]
        assert line["clusters"] == len(np.unique(of_camera[of_camera >= 0]))
        assert 0 <= line["epoch"] < 2
        assert -1 <= line["silhouette"] <= 1


def test_one_worker_has_no_collectives(done):
    for epoch in done.metrics():
        assert epoch["time/collective_s"] == 0.0
        assert 0 < epoch["time/data_wait_s"] < epoch["time/train_s"]


def test_every_epoch_records_health_and_the_due_ones_are_evaluated(done):
    for epoch in done.metrics():
        for key in (
            "train/loss", "cluster/num", "cluster/outliers", "cluster/coverage", "refine/discarded",
            "refine/discard_probability", "cluster/camera_purity", "cluster/silhouette",
            "quality/global/nmi", "quality/global/ari", "quality/refined/bcubed_f",
            "quality/refined_all/bcubed_f", "quality/local/pairwise_precision",
        ):  # fmt: skip
            assert np.isfinite(epoch[key]), key
    assert ["cluster/churn" in epoch for epoch in done.metrics()] == [False, True, True]
    assert ["eval/mAP" in epoch for epoch in done.metrics()] == [False, True, True]


def test_summary_tells_the_last_epoch_and_warns_of_the_best(done):
    text = summary(done)
    assert "last epoch  3: mAP" in text
    assert "not the result" in text
    assert str(done.model) in text


@pytest.mark.usefixtures("whole_networks")
def test_losses_fall_when_there_is_something_to_learn(root, tmp_path):
    config = tiny.config(
        root, tmp_path / "run", inter__epochs=1, inter__steps=30, refine__enabled=False,
        numerics__dtype="float32", augment__erase_probability=0.0, model__ghost_size=16,
    )  # fmt: skip
    losses = [step["loss"] for step in icsr.run(config).steps()]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_runs_without_neck_and_final_relu(root, tmp_path):
    config = tiny.config(
        root, tmp_path / "run", inter__epochs=1, inter__steps=1, refine__enabled=False,
        model__neck=False, model__final_relu=False, model__pool="average",
    )  # fmt: skip
    folder = icsr.run(config)
    assert "neck.weight" not in torch.load(folder.model)["model"]
    assert len(folder.metrics()) == 1


def test_labels_of_an_epoch_are_the_ops_in_the_papers_order(root, inputs):
    config = tiny.config(root, root.parent, seed=7)
    train, features = inputs.train, unit_rows(0, len(inputs.train))
    local = np.arange(len(train)) % 3
    made = assign_labels(features, train, local, config, 1, None)
    similarity = jaccard_similarity(features, k1=8, k2=3)
    expected = agglomerative(similarity, num_clusters=8)
    np.testing.assert_array_equal(made.global_labels, expected)
    refined = refine_labels(
        expected,
        local,
        train.cameras,
        harmonic_centrality(features, num_neighbors=5),
        discard_probability=0.5 * (1 + np.cos(np.pi * 1 / (2 * 3))),
        seed=7,
        epoch=1,
    )
    assert 0 < (refined < 0).sum() < len(refined)
    np.testing.assert_array_equal(made.labels < 0, refined < 0)
    assert quality.ari(made.labels, refined) == pytest.approx(1.0)
    kept = made.labels[made.labels >= 0]
    np.testing.assert_array_equal(np.unique(kept), np.arange(kept.max() + 1))
    assert made.figures["refine/discarded"] == pytest.approx(np.mean(refined < 0))


def test_baseline_is_icsr_that_discards_nothing(root, inputs):
    config = tiny.config(root, root.parent, refine__start=0.0)
    features, local = unit_rows(0, len(inputs.train)), np.arange(len(inputs.train)) % 3
    kept = assign_labels(features, inputs.train, local, config, 0, None)
    baseline = replace(config, refine=replace(config.refine, enabled=False))
    plain = assign_labels(features, inputs.train, None, baseline, 0, None)
    np.testing.assert_array_equal(kept.labels, plain.labels)


def test_collapse_is_said_aloud(root, inputs):
    config = tiny.config(root, root.parent, inter__num_clusters=1, refine__enabled=False)
    made = assign_labels(unit_rows(1, len(inputs.train)), inputs.train, None, config, 0, None)
    assert any("ALARM: one cluster holds 100% of the images" in note for note in made.notes)


@pytest.mark.parametrize("preset", ["paper", "as_released"])
def test_presets_run(root, tmp_path, preset):
    config = tiny.config(root, tmp_path / "run", preset=preset, inter__epochs=1, numerics__dtype="float32")
    (epoch,) = icsr.run(config).metrics()
    assert np.isfinite(epoch["train/loss"])
    assert epoch["refine/discard_probability"] == 1.0


def camera_job(root: Path, inputs: Inputs, **overrides: object) -> CameraJob:
    config = tiny.config(root, root.parent, numerics__dtype="float32", **overrides)
    return job_of(config, inputs)


def job_of(config: IcsrConfig, inputs: Inputs) -> CameraJob:
    names = {camera: str(camera) for camera in range(3)}
    weights = starting_weights(config.training.encoder)
    return CameraJob(config, inputs.train_images, inputs.train.cameras, names, weights, config.run.folder)


def test_local_labels_depend_on_the_images_of_their_camera_alone(root, inputs):
    job = camera_job(root, inputs)
    rows = np.flatnonzero(inputs.train.cameras == 1)
    alone = replace(job, images=job.images.take(rows), cameras=job.cameras[rows])
    np.testing.assert_array_equal(train_camera(1, job).labels, train_camera(1, alone).labels)


def test_selection_by_silhouette_keeps_the_best_epoch_and_last_the_last(root, inputs):
    job = camera_job(root, inputs, intra__epochs=4)
    results = [
        train_camera(0, camera_job(root, inputs, intra__epochs=epochs, intra__select="last"))
        for epochs in (1, 2, 3, 4)
    ]
    assert [result.epoch for result in results] == [0, 1, 2, 3]
    best = max(results, key=lambda result: result.silhouette)
    chosen = train_camera(0, job)
    assert (chosen.epoch, chosen.silhouette) == (best.epoch, best.silhouette)
    np.testing.assert_array_equal(chosen.labels, best.labels)


@pytest.mark.usefixtures("whole_networks")  # which the processes have too
def test_cameras_in_processes_give_what_they_give_in_this_one(root, inputs, tmp_path):
    config = tiny.config(root, tmp_path, numerics__dtype="float32")
    weights = starting_weights(config.training.encoder)
    pool = Processes(2, 1)
    labels = []
    for name, fanout in (("here", InProcess()), ("there", pool)):
        folder = RunFolder.open(tmp_path / name, config, "x", method="icsr", resume=False, fresh=False)
        labels.append(intra_camera.intra_camera(config, inputs, weights, fanout, folder))
    pool.close()
    np.testing.assert_array_equal(*labels)
    assert (labels[0] >= 0).all()


def test_multi_query_without_images_for_it_is_warned_of(root, inputs, caplog):
    with caplog.at_level(logging.WARNING):
        check(tiny.config(root, root.parent), inputs)
        assert "multi_query" not in caplog.text
        check(tiny.config(root, root.parent, evaluate__multi_query=True), inputs)
    assert "evaluate.multi_query: the set has no further images of its queries" in caplog.text


def test_camera_with_one_image_is_a_cluster_of_its_own(root, inputs, caplog):
    rows = np.flatnonzero((inputs.train.cameras != 2) | (np.arange(len(inputs.train)) == 8))
    train = inputs.train.take(rows)
    assert np.bincount(train.cameras)[2] == 1
    alone = replace(inputs, train=train, train_images=inputs.train_images.take(rows))
    config = tiny.config(root, root.parent, intra__num_clusters="n//5")
    with caplog.at_level(logging.WARNING):
        check(config, alone)
    assert "camera 3 has one image" in caplog.text  # its name in the set; numbers start at 0
    assert train_camera(2, job_of(config, alone)).labels.tolist() == [0]


def test_set_without_query_and_gallery_trains_without_evaluation(root, tmp_path):
    train_only = tiny.config(
        root, tmp_path / "run", data__pattern=tiny.WITHOUT_TEST_IMAGES,
        inter__epochs=1, numerics__dtype="float32",
    )  # fmt: skip
    folder = icsr.run(train_only)
    assert "eval/mAP" not in folder.metrics()[0]
    assert summary(folder).startswith("model ")


def test_learning_rate_falls_by_epochs_and_the_optimizer_goes_on(root, tmp_path, monkeypatch):
    rates, momenta = [], []
    real = inter_camera._train

    def watched(encoder, job, progress):
        rates.append(encoder.optimizer.param_groups[0]["lr"])
        momenta.append(len(encoder.optimizer.state))
        real(encoder, job, progress)

    monkeypatch.setattr(inter_camera, "_train", watched)
    config = tiny.config(
        root, tmp_path / "run", inter__epochs=4, inter__steps=1, optimizer__step_epochs=2,
        refine__enabled=False, numerics__dtype="float32",
    )  # fmt: skip
    icsr.run(config)
    assert rates == pytest.approx([3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5])
    assert momenta[0] == 0
    assert min(momenta[1:]) > 0


def test_trained_model_can_be_started_from(done, root, tmp_path):
    config = tiny.config(root, tmp_path, model__weights=str(done.model))
    ours, theirs = (
        starting_weights(config.training.encoder),
        torch.load(done.model, weights_only=True)["model"],
    )
    assert all(torch.equal(ours[key].double(), theirs[key].float().double()) for key in theirs)


def test_samples_of_a_run_are_in_the_order_of_their_paths(inputs):
    assert isinstance(inputs.train, Samples)
    assert inputs.train.paths == sorted(inputs.train.paths)
