"""Runs of SLSR: what they leave, what they begin with, and what is said of those that cannot work."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_network
import tiny
import torch
from comparing import timeless

from raid.cli import main
from raid.errors import InputError
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.clusters import Clustered, cluster_images
from raid.methods.slsr.config import ImageClusters, SlsrConfig
from raid.methods.slsr.inputs import open_slsr_inputs
from raid.methods.slsr.weights import read_baseline
from raid.ops.kmeans import kmeans
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def made(sets: Path, folder: Path, **overrides: Any) -> SlsrConfig:
    return tiny.slsr_config(sets / "target", folder, **overrides)


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return slsr.run(made(sets, tmp_path_factory.mktemp("slsr") / "whole"))


def begun_with(whole: RunFolder) -> dict[str, str]:
    """What makes another run begin with the baseline and the images of `whole`."""
    return {"baseline__checkpoint": str(whole.baseline), "generated__folder": str(whole.path)}


def test_a_run_leaves_what_each_stage_made(whole, sets):
    names = {path.name for path in whole.path.iterdir()}
    assert names >= {
        *("baseline.pt", "clusters.npz", "gans", "generated.npy", "generated.json", "model.pt"),
        *("metrics.jsonl", "steps.jsonl", "evaluation.npz", "report.html", "config.yaml", "run.json"),
    }
    clustered = Clustered.read(whole.clusters)
    inputs = open_slsr_inputs(made(sets, whole.path))
    assert np.array_equal(clustered.labels, inputs.labels)
    assert len(np.unique(clustered.clusters)) == 2
    assert clustered.plane.shape == (len(inputs.labels), 2)
    assert clustered.numbers.tolist() == [2, 3]
    assert np.load(whole.path / "generated.npy").shape == (12, 3, 32, 16)
    assert json.loads((whole.path / "generated.json").read_text())["counts"] == [6, 6]


def test_the_epochs_of_all_stages_are_recorded_in_their_order(whole):
    epochs = whole.metrics()
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2, 3, 4]
    assert "baseline/loss" in epochs[0]
    assert "eval/mAP" in epochs[0]  # the paper's row of the baseline
    assert epochs[1]["clusters/num"] == 2
    assert [number for number, epoch in enumerate(epochs) if "clusters/silhouette" in epoch] == [1]
    for epoch in epochs[1:3]:
        for cluster in (0, 1):
            for name in ("real", "fake", "generator", "variance_ratio"):
                assert epoch[f"gan/cluster_{cluster}/{name}"] >= 0
    for name in ("extract", "cluster", "gan", "generate"):
        assert epochs[1][f"time/{name}_s"] > 0
    for epoch in epochs[3:]:
        assert {"train/loss_real", "train/loss_generated", "train/accuracy_generated"} <= set(epoch)
        assert 0 <= epoch["train/accuracy"] <= 1
    assert "eval/rank1" in epochs[-1]
    assert [step["epoch"] for step in whole.steps()] == [0, 0, 0, 3, 3, 3, 4, 4, 4]


def test_the_first_line_of_the_silhouettes_is_of_the_clusters_that_are_used(whole):
    clustered = Clustered.read(whole.clusters)
    assert float(clustered.silhouette) == pytest.approx(clustered.silhouette_features[0])


def test_a_run_that_begins_with_another_s_images_ends_the_same(sets, whole, tmp_path):
    again = slsr.run(made(sets, tmp_path / "run", **begun_with(whole)))
    assert [epoch["epoch"] for epoch in again.metrics()] == [0, 1]
    of_clusters = {key: value for key, value in whole.metrics()[1].items() if key.startswith("clusters/")}
    assert of_clusters["clusters/silhouette"] == float(Clustered.read(whole.clusters).silhouette)
    # On the first record, wherever the images are from: a sweep over their number of clusters looks at it.
    for ours, theirs, more in zip(timeless(again), timeless(whole)[3:], (of_clusters, {}), strict=True):
        assert {**ours, "epoch": 0} == {**theirs, "epoch": 0} | more
    for name in ("clusters.npz", "generated.npy", "generated.json"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert (again.gans / "cluster_01" / "real.png").exists()


def test_fewer_images_are_the_first_of_each_cluster(sets, whole, tmp_path):
    config = made(sets, tmp_path / "run", generated__count=5, **begun_with(whole))
    inputs = open_slsr_inputs(config)
    found = slsr.open_generated_set(whole.path, config, inputs)
    assert found.made_from.tolist() == [0, 0, 0, 1, 1]
    pixels = torch.from_numpy(np.load(whole.path / "generated.npy"))
    assert torch.equal(found.images.gather(np.arange(5)), pixels[[0, 1, 2, 6, 7]])


def test_more_images_than_there_are_is_an_error(sets, whole, tmp_path):
    config = made(sets, tmp_path / "run", generated__count=13, **begun_with(whole))
    with pytest.raises(InputError, match=r"^generated\.count: 13 images, equal, are 7 \+ 6 .* has 6 \+ 6"):
        slsr.run(config)
    assert not config.run.folder.exists()


@pytest.mark.parametrize("label", ["uniform", "all_in_one"])
@pytest.mark.parametrize("start", ["weights", "baseline"])
def test_labels_of_every_kind_train_from_either_start(sets, whole, tmp_path, label, start):
    config = made(
        sets, tmp_path / "run", generated__label=label, finetuning__start=start, **begun_with(whole)
    )
    folder = slsr.run(config)
    assert all(np.isfinite(step["loss"]) for step in folder.steps())
    content = torch.load(folder.model, weights_only=True)
    assert len(content["head"]["classifier.weight"]) == 5 + (label == "all_in_one")


def test_labels_differ_in_their_loss_and_in_nothing_before_it(sets, whole, tmp_path):
    runs = {
        "sparse": slsr.run(made(sets, tmp_path / "sparse", **begun_with(whole))),
        "uniform": slsr.run(
            made(sets, tmp_path / "uniform", generated__label="uniform", **begun_with(whole))
        ),
        "control": slsr.run(
            made(sets, tmp_path / "control", generated__control="permuted", **begun_with(whole))
        ),
    }
    first = {name: run.metrics()[0] for name, run in runs.items()}
    for name in ("uniform", "control"):
        assert runs[name].steps()[1]["loss"] != runs["sparse"].steps()[1]["loss"]
        assert first[name]["train/loss_generated"] != first["sparse"]["train/loss_generated"]


def test_without_generated_images_nothing_is_made(sets, tmp_path):
    folder = slsr.run(made(sets, tmp_path / "run", generated__label="none"))
    assert [epoch["epoch"] for epoch in folder.metrics()] == [0, 1]
    assert not folder.baseline.exists()
    assert not folder.clusters.exists()
    assert not folder.gans.exists()
    assert folder.report.exists()


def test_the_baseline_alone(sets, whole, tmp_path):
    folder = slsr.run(made(sets, tmp_path / "run", finetuning__epochs=0))
    assert timeless(folder) == timeless(whole)[:1]
    assert folder.model.read_bytes() == folder.baseline.read_bytes()
    assert not folder.clusters.exists()


def test_the_network_of_the_baseline_may_be_another_one(sets, tmp_path):
    other = {"baseline__backbone": "resnet18", "baseline__weights": "none"}
    folder = slsr.run(made(sets, tmp_path / "run", **other))
    content = torch.load(folder.baseline, weights_only=True)
    assert "backbone: resnet18" in content["config"]
    config = made(sets, tmp_path / "run", **other)
    read_baseline(folder.baseline, config, open_slsr_inputs(config).inputs.train.fingerprint())


def test_features_of_the_map(sets, whole, tmp_path):
    config = made(sets, tmp_path / "run", clusters__features="map", finetuning__steps=1)
    folder = slsr.run(config)
    ours, theirs = Clustered.read(folder.clusters), Clustered.read(whole.clusters)
    assert not np.array_equal(ours.plane, theirs.plane)


def test_one_cluster_is_uniform_smoothing_of_its_images(sets, tmp_path):
    folder = slsr.run(made(sets, tmp_path / "run", clusters__num_clusters=1, finetuning__epochs=1))
    record = json.loads((folder.path / "generated.json").read_text())
    assert record["counts"] == [12]
    assert record["own_cluster"] is None
    assert float(Clustered.read(folder.clusters).silhouette) == 0.0
    assert folder.metrics()[1]["clusters/num"] == 1


def test_a_cluster_too_small_for_a_gan_has_no_images(sets, tmp_path, caplog):
    # k-means leaves a small cluster where there are nearly as many as people.
    config = made(sets, tmp_path / "run", clusters__num_clusters=4, gan__min_images=10, finetuning__epochs=1)
    with caplog.at_level(logging.WARNING):
        folder = slsr.run(config)
    sizes = np.bincount(Clustered.read(folder.clusters).clusters, minlength=4)
    counts = np.array(json.loads((folder.path / "generated.json").read_text())["counts"])
    assert sizes.min() < 10 <= sizes.max(), sizes
    assert ((counts > 0) == (sizes >= 10)).all()
    assert counts.sum() == 12
    assert "fewer than gan.min_images=10" in caplog.text


def test_clusters_are_those_of_k_means_on_the_features():
    features = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    features[20:] += 4
    chosen, labels = ImageClusters(num_clusters=3, silhouettes=(2, 3, 60)), np.arange(40) % 7
    found = cluster_images((chosen, 5), features, labels)
    expected = kmeans(features, num_clusters=3, seed=5, restarts=10).labels
    assert np.array_equal(found.clusters, expected)
    assert found.numbers.tolist() == [2, 3]  # 60 clusters of 40 images there are none
    assert found.silhouette_features[0] > found.silhouette_features[1]


def test_more_clusters_than_images_are_refused(sets, tmp_path):
    config = made(sets, tmp_path / "run", clusters__num_clusters=100, generated__count=200)
    with pytest.raises(InputError, match=r"^clusters\.num_clusters: 100, and there are 45 training images"):
        slsr.run(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"baseline__batch_size": 48}, r"^baseline\.batch_size: a batch of 48 images, and the set has 45"),
        ({"finetuning__batch_size": 60}, r"^finetuning\.batch_size: a batch of 60 .* has 57"),
        ({"generated__count": 1}, r"^generated\.count: 1 images of 2 clusters"),
        ({"baseline__checkpoint": "nowhere.pt"}, r"^baseline\.checkpoint: nowhere.pt: there is no such file"),
        ({"generated__folder": "nowhere"}, r"^nowhere|nowhere.*clusters\.npz"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(sets, tmp_path, overrides, message):
    config = made(sets, tmp_path / "run", **overrides)
    with pytest.raises(InputError, match=message):
        slsr.run(config)
    assert not config.run.folder.exists()


def test_images_and_baselines_of_other_people_are_refused(sets, whole, tmp_path):
    other = tiny.write_images(tmp_path / "other", num_identities=12)
    config = tiny.slsr_config(other, tmp_path / "run", generated__folder=str(whole.path))
    with pytest.raises(InputError, match=r"^generated\.folder: .* is of other training images"):
        slsr.run(config)
    config = tiny.slsr_config(other, tmp_path / "run", baseline__checkpoint=str(whole.baseline))
    with pytest.raises(InputError, match=r"^baseline\.checkpoint: .* was trained on other images"):
        slsr.run(config)


@pytest.mark.parametrize(
    ("part", "values", "start", "message"),
    [
        ("model", {"other": torch.zeros(1)}, "weights", "does not fit resnet10 as section model .*Missing"),
        ("head", {"other": torch.zeros(1)}, "baseline", "does not fit resnet10 as section model .*Missing"),
        ("model", {"body.0.weight": torch.full((8, 3, 3, 3), torch.nan)}, "weights", "not finite"),
        ("head", {"classifier.bias": torch.full((5,), torch.inf)}, "weights", "not finite"),
    ],
)
def test_baselines_that_do_not_fit_are_refused(sets, whole, tmp_path, part, values, start, message):
    content = torch.load(whole.baseline, weights_only=True)
    if "other" in values:  # the number of classes is read before
        content[part] = {name: value for name, value in content[part].items() if name == "classifier.weight"}
    content[part] |= values
    torch.save(content, tmp_path / "changed.pt")
    config = made(sets, tmp_path / "run", finetuning__start=start)
    train = open_slsr_inputs(config).inputs.train.fingerprint()
    with pytest.raises(InputError, match=rf"^baseline\.checkpoint: .*changed\.pt:? .*{message}") as raised:
        read_baseline(tmp_path / "changed.pt", config, train)
    assert "\n" not in str(raised.value)


def test_a_set_without_identities_is_refused(sets, tmp_path):
    pattern = tiny.PATTERN.replace(r"(?P<identity>\d+)", r"\d+").replace("train|query|gallery", "train")
    config = made(sets, tmp_path / "run", data__pattern=pattern)
    with pytest.raises(InputError, match=r"^data\.root: .*fewer than two known identities"):
        slsr.run(config)


@pytest.mark.parametrize("stage", ["baseline", "finetuning"])
def test_a_training_that_diverges_ends_and_names_its_rate(sets, whole, tmp_path, stage):
    rates = {f"{stage}__learning_rate": 1e30, f"{stage}__head_learning_rate": 1e30}
    others = {} if stage == "baseline" else begun_with(whole)
    with pytest.raises(
        InputError, match=rf"^{stage}\.learning_rate: the (loss|weights|training has diverged)"
    ):
        slsr.run(made(sets, tmp_path / "run", **rates, **others))


def test_the_model_is_evaluated_by_the_command_as_it_was_in_its_training(sets, whole, tmp_path, capsys):
    main(["evaluate", str(whole.path), "--out", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["options"]["flip"] is True
    assert "mAP" in capsys.readouterr().out
    main(["evaluate", str(whole.baseline), "--out", str(tmp_path / "baseline.json")])
    assert json.loads((tmp_path / "baseline.json").read_text())["checkpoint"]["method"] == "slsr"


def test_the_command_runs_and_says_what_came_of_it(sets, tmp_path, capsys):
    from raid.config import to_yaml

    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(made(sets, tmp_path / "run", generated__label="none")))
    main(["slsr", str(file), "--backend", "local"])
    assert f"model       {tmp_path / 'run' / 'model.pt'}" in capsys.readouterr().out
