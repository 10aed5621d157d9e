"""Whole runs of MAR: what they leave, where stage 2 starts, every row of the ablation, how they end."""

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_network
import tiny
import torch
from comparing import assert_same_bits, losses, timeless, weights
from mar_steps import configured

from raid.distributed import checkpoint
from raid.distributed.group import Group
from raid.errors import InputError
from raid.methods.encoder import Encoder
from raid.methods.launch import summary
from raid.methods.mar import adaptation
from raid.methods.mar import recipe as mar
from raid.methods.mar.inputs import measured, open_mar_inputs
from raid.methods.mar.networks import Networks
from raid.run_folder import RunFolder
from raid.run_status import read_status

ALL_LOSSES = ("mdl", "cml", "al", "rj")
WITHOUT_TEST_IMAGES = {"data__pattern": tiny.WITHOUT_TEST_IMAGES}


@pytest.fixture(scope="module")
def done(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a ResNet; the others have a small network."""
    folder = tmp_path_factory.mktemp("mar") / "done"
    return mar.run(
        configured(sets, folder, numerics__dtype="float32", pretraining__epochs=2, evaluate__every=2)
    )


@pytest.fixture
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def test_run_folder_holds_what_the_readme_promises(done):
    assert {path.name for path in done.path.iterdir()} == {
        "config.yaml", "run.json", "checkpoints", "steps.jsonl", "metrics.jsonl", "mining.jsonl",
        "pretrained.pt", "model.pt", "multilabels.npz", "evaluation.npz", "report.html", "status.json",
        "attempt",
    }  # fmt: skip
    assert [epoch["epoch"] for epoch in done.metrics()] == [0, 1, 2, 3]
    assert len(done.steps()) == 4 * 3
    assert [line["epoch"] for line in done.mining()] == [2, 3]
    assert done.recorded()["method"] == "mar"


def test_epochs_record_the_figures_of_their_stage(done):
    first, second = done.metrics()[:2], done.metrics()[2:]
    for epoch in first:
        for key in ("pretraining/loss", "pretraining/accuracy", "pretraining/product"):
            assert np.isfinite(epoch[key]), key
        assert not any(key.startswith(("mining/", "source/")) for key in epoch)
    assert ["multilabel/churn" in epoch for epoch in done.metrics()] == [False, False, False, True]
    for epoch in second:
        for key in (
            *("train/loss", "train/mdl", "train/cml", "train/al", "train/rj", "source/accuracy"),
            *("mining/positives", "mining/negatives", "mining/threshold", "mining/reached"),
            *("mining/base_rate", "train/learning_rate", "multilabel/people"),
        ):
            assert np.isfinite(epoch[key]), key
        assert epoch["mining/positives"] + epoch["mining/negatives"] == 8  # int(.3 * 28)
        parts = epoch["train/mdl"] + 2e-4 * epoch["train/cml"] + epoch["train/al"] + 0.2 * epoch["train/rj"]
        assert epoch["train/loss"] == pytest.approx(parts, rel=1e-5)


def test_stage_1_is_evaluated_at_its_end_and_stage_2_as_it_is_told(done):
    assert ["eval/mAP" in epoch for epoch in done.metrics()] == [False, True, False, True]
    text = summary(done)
    assert "last epoch  4: mAP" in text
    assert str(done.model) in text


def test_multilabels_of_sample_images_and_who_their_agents_are(sets, done):
    found = np.load(done.multilabels)
    inputs = open_mar_inputs(configured(sets))
    config = configured(sets, numerics__dtype="float32")
    content = torch.load(done.model, weights_only=True)
    settings = config.encoder(measured(config, inputs).target)
    encoder = Encoder(settings, content["model"], Group.solo(), torch.device("cpu"))
    features = encoder.extract(inputs.target.train_images)
    unit_agents = content["agents"] / content["agents"].norm(dim=1, keepdim=True)
    assert content["scale"] == 30.0
    assert len(set(found["target_rows"].tolist())) == 6
    for row, agents, values, sources in zip(
        *(found[name] for name in ("target_rows", "agents", "values", "source_rows")), strict=True
    ):
        expected = torch.softmax(30 * unit_agents @ features[row], dim=0)
        assert values == pytest.approx(expected.sort(descending=True).values[:5].numpy(), rel=1e-4)
        assert expected[agents].numpy() == pytest.approx(values, rel=1e-4)
        assert inputs.source.labels[sources].tolist() == agents.tolist()


def test_stage_1_of_another_run_gives_the_same_stage_2(sets, tmp_path, small):
    given = {"multilabel__scale": "auto", "pretraining__epochs": 2}
    whole = mar.run(configured(sets, tmp_path / "whole", **given))
    given["pretraining__checkpoint"] = str(whole.path / "pretrained.pt")
    started = mar.run(configured(sets, tmp_path / "started", **given))
    assert losses(started.path).tolist() == losses(whole.path)[2 * 3 :].tolist()
    assert_same_bits(weights(started.model), weights(whole.model))
    ours, theirs = timeless(started), timeless(whole)[2:]
    assert ours == [{**epoch, "epoch": epoch["epoch"] - 2} for epoch in theirs]
    assert not (started.path / "pretrained.pt").exists()


def test_source_only_ends_with_the_pretrained_model_evaluated(sets, tmp_path, small):
    source_only = mar.run(configured(sets, tmp_path / "run", training__epochs=0, pretraining__epochs=2))
    assert_same_bits(weights(source_only.model), weights(source_only.path / "pretrained.pt"))
    assert ["eval/mAP" in epoch for epoch in source_only.metrics()] == [False, True]
    assert source_only.evaluation.exists()
    assert not source_only.multilabels.exists()
    assert (source_only.mining(), len(source_only.steps())) == ([], 6)
    # What it ends with is what stage 2 of a longer run begins with.
    longer = mar.run(configured(sets, tmp_path / "longer", training__epochs=1, pretraining__epochs=2))
    assert_same_bits(weights(longer.path / "pretrained.pt"), weights(source_only.model))
    assert timeless(longer)[:2] == timeless(source_only)


@pytest.mark.parametrize(
    ("chosen", "there"),
    [
        ({"losses__mdl": False}, ("cml", "al", "rj")),
        ({"losses__cml": False}, ("mdl", "al", "rj")),
        ({"losses__cml": False, "losses__al": False, "losses__rj": False}, ("mdl",)),
        ({"losses__al": False, "losses__rj": False}, ("mdl", "cml")),
        ({"mining__guide": "feature"}, ALL_LOSSES),
        ({"multilabel__control": "permuted"}, ALL_LOSSES),
        ({"preset": "paper", "numerics__dtype": "float32"}, ALL_LOSSES),
        ({"mining__begin": 1}, ALL_LOSSES),
        ({"normalize": "imagenet", "model__batch_norm": "sync", "mining__start": 20}, ALL_LOSSES),
    ],
    ids=str,
)
def test_every_row_of_the_ablation_runs(sets, tmp_path, small, chosen, there):
    run = mar.run(configured(sets, tmp_path / "run", **WITHOUT_TEST_IMAGES, **chosen))
    last = run.metrics()[-1]
    assert {name for name in ALL_LOSSES if f"train/{name}" in last} == set(there)
    assert all(np.isfinite(value) for epoch in run.metrics() for value in epoch.values())
    assert np.isfinite(losses(run.path)).all()
    mining = [epoch for epoch in run.metrics() if any(key.startswith("mining/") for key in epoch)]
    begin = chosen.get("mining__begin", 0)
    assert len(mining) == len(run.mining()) == (2 - begin if "mdl" in there else 0)
    agents = [weights(run.path / name)["agents"] for name in ("pretrained.pt", "model.pt")]
    assert torch.equal(*agents) == ("al" not in there)


@pytest.mark.parametrize(
    "chosen",
    [
        {"training__source": 2, "training__target": 2, "mining__ratio": 0.005},
        {"training__source": 6, "training__target": 3, "model__ghost_size": 9},  # of three cameras
        {"losses__margin": 1e-6},
    ],
    ids=str,
)
def test_small_batches_views_of_one_image_and_no_agent_near(sets, tmp_path, small, chosen):
    run = mar.run(configured(sets, tmp_path / "run", training__steps=8, **WITHOUT_TEST_IMAGES, **chosen))
    assert np.isfinite(losses(run.path)).all()
    for epoch in run.metrics()[1:]:
        assert 0 < epoch["mining/threshold"] <= 1
        assert epoch["mining/positives"] + epoch["mining/negatives"] >= 1


def test_a_target_of_which_nothing_is_known_but_cameras(sets, tmp_path, small):
    pattern = r"(?P<split>train)/\d+_c(?P<camera>\d+)_"
    nobody = mar.run(configured(sets, tmp_path / "nobody", data__pattern=pattern))
    known = mar.run(configured(sets, tmp_path / "known", **WITHOUT_TEST_IMAGES))
    # Whoever they are, nothing but the record looks at it.
    assert losses(nobody.path).tolist() == losses(known.path).tolist()
    of_nobody, of_known = ({key for epoch in run.metrics() for key in epoch} for run in (nobody, known))
    assert of_known - of_nobody == {
        "mining/positive_precision", "mining/negative_precision", "mining/base_rate",
    }  # fmt: skip
    assert "eval/mAP" not in of_known
    assert summary(known).startswith("model ")


def rates_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return what fills with the learning rate of every step."""
    rates: list[float] = []
    real = Networks.step

    def step(networks: Networks, *arguments: Any) -> Any:
        rates.extend({parameters["lr"] for parameters in networks.optimizer.param_groups})
        return real(networks, *arguments)

    monkeypatch.setattr(Networks, "step", step)
    return rates


def test_learning_rates_of_20_epochs_drop_at_12_and_17(sets, tmp_path, small, monkeypatch):
    rates = rates_of_steps(monkeypatch)
    run = mar.run(
        configured(
            sets, tmp_path / "run", training__epochs=20, training__steps=1, pretraining__epochs=8,
            pretraining__steps=1, optimizer__learning_rate=2e-4, **WITHOUT_TEST_IMAGES,
        )
    )  # fmt: skip
    expected = [1e-2] * 5 + [1e-3] * 2 + [1e-4] + [2e-4] * 12 + [2e-5] * 5 + [2e-6] * 3
    assert rates == pytest.approx(expected)
    assert [epoch["train/learning_rate"] for epoch in run.metrics()] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("path", "begun"), [("pretraining.learning_rate", 0), ("optimizer.learning_rate", 1)]
)
def test_a_training_that_diverges_says_where_and_keeps_what_was_before(sets, tmp_path, small, path, begun):
    folder = tmp_path / "run"
    rate = {path.replace(".", "__"): 1e30, "numerics__dtype": "float32"}
    config = configured(sets, folder, run__checkpoint_steps=1, run__keep_checkpoints=100, **rate)
    what = rf"the (loss of|weights after) epoch {begun + 1}, step \d (is nan|is inf|are not finite)"
    message = rf"^{path}: {what}.*: the training has diverged; lower it"
    with pytest.raises(InputError, match=message):
        mar.run(config)
    kept = sorted((folder / "checkpoints").iterdir())
    assert kept
    for file in kept:
        state = checkpoint.load(file)
        assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())
    assert RunFolder(folder).metrics()[begun:] == []
    assert not (folder / "model.pt").exists()
    status = read_status(folder)
    assert status is not None
    assert (status.state, status.resumable) == ("failed", True)
    assert status.reason.startswith(path)


def test_a_loss_that_is_not_finite_names_its_rate_and_its_images(sets, tmp_path, small, monkeypatch):
    losses = adaptation.mar_loss

    def spoiled(*arguments, **options):
        loss, found = losses(*arguments, **options)
        return loss * math.nan, found

    monkeypatch.setattr(adaptation, "mar_loss", spoiled)
    config = configured(sets, tmp_path / "run")
    with pytest.raises(
        InputError, match=r"epoch 2, step 1 is nan at the learning rate 0\.\d+, on the batch of"
    ):
        mar.run(config)
    told = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert (told["epoch"], told["step"], told["loss"]) == (1, 0, "nan")
    inputs = open_mar_inputs(config)
    source, target = set(inputs.source.samples.paths), set(inputs.target.train.paths)
    chosen = config.training
    assert len(told["batch"]) == chosen.source + chosen.target
    assert set(told["batch"][: chosen.source]) <= source
    assert set(told["batch"][chosen.source :]) <= target


@pytest.mark.parametrize("of", ["pretraining", "training"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_epoch_s_last_step_that_diverges_is_put_down_to_its_own_rate(sets, tmp_path, small, of, dtype):
    """Its loss is finite. In float64 the weights are still, and then the next features or loss tell."""
    section = {"pretraining": "pretraining", "training": "optimizer"}[of]
    path, rate = f"{section}.learning_rate", {"float32": 3e38, "float64": 1e300}[dtype]
    chosen = {f"{section}__learning_rate": rate, f"{section}__weight_decay": 1e6, f"{of}__steps": 1}
    epoch = 1 if of == "pretraining" else 2
    what = f"the weights after epoch {epoch}, step 1 are not finite" if dtype == "float32" else ".*"
    for number, evaluated in enumerate(({}, WITHOUT_TEST_IMAGES)):
        folder = tmp_path / str(number)
        with pytest.raises(InputError, match=rf"^{path}: {what}.*the training has diverged"):
            mar.run(configured(sets, folder, numerics__dtype=dtype, **evaluated, **chosen))
        assert not (folder / "model.pt").exists()
        if dtype == "float32":
            assert len(list((folder / "checkpoints").glob("*"))) == epoch - 1


def test_what_cannot_work_is_said_before_anything_is_written(sets, tmp_path, small):
    for wrong in (
        {"training__target": 60, "training__source": 20},
        {"pretraining__checkpoint": str(tmp_path / "none.pt")},
        {"model__weights": str(tmp_path / "none.pt")},
    ):
        with pytest.raises(InputError):
            mar.run(configured(sets, tmp_path / "run", **wrong))
        assert not (tmp_path / "run").exists()


def test_losses_fall_when_there_is_something_to_learn(sets, tmp_path, small):
    run = mar.run(
        configured(
            sets, tmp_path / "run", pretraining__steps=20, training__epochs=1, training__steps=40,
            optimizer__learning_rate=1e-2, pretraining__learning_rate=0.1,
            model__ghost_size=16, pretraining__ghost_size=16, **WITHOUT_TEST_IMAGES,
        )
    )  # fmt: skip
    first, second = np.split(losses(run.path), [20])
    for found in (first, second):
        assert found[-5:].mean() < 0.8 * found[:3].mean()


def test_progress_is_told_epoch_by_epoch(sets, tmp_path, small, caplog):
    with caplog.at_level(logging.INFO):
        mar.run(configured(sets, tmp_path / "run", training__epochs=1))
    assert "epoch 1/2 | loss " in caplog.text
    assert " hard negative pairs a step | T 0." in caplog.text
