"""A step of SLSR's supervised stages, against the paper's equations in loops."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import small_network
import tiny
import torch
from torch import Tensor

from raid.data.streams import DROPOUT, SAMPLING, stream
from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.methods.networks import Networks
from raid.methods.slsr.classification import ClassificationStage, Classified
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.inputs import open_slsr_inputs
from raid.methods.slsr.job import SlsrJob
from raid.methods.slsr.targets import Targets, with_generated
from raid.methods.slsr.weights import Weights, build_head, put_into, starting_weights
from raid.methods.stage import Worker
from raid.run_folder import RunFolder

PLAIN = {"augment__flip": 0.0, "augment__pad": 0, "finetuning__erase_probability": 0.0}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def made(sets: Any, **overrides: Any) -> tuple[SlsrConfig, ClassificationStage]:
    """Fine-tuning on 45 images of 5 identities, the last 20 of which stand for generated ones."""
    config = tiny.slsr_config(sets / "target", sets / "unused", **{**PLAIN, **overrides})
    inputs = open_slsr_inputs(config)
    job = SlsrJob(
        config, inputs, starting_weights(config.encoder()), None, RunFolder(config.run.folder), {}, 0.0
    )
    worker = Worker(Group.solo(), InProcess(), job, torch.device("cpu"))
    clusters = np.repeat([0, 1], 10)
    sets_of_clusters = np.array([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=bool)
    targets = with_generated(
        inputs.labels[:25],
        5,
        config.finetuning.label_smoothing,
        clusters,
        sets_of_clusters,
        config.generated,
        config.seed,
    )
    classified = Classified(inputs.inputs.train_images, targets)
    stage = ClassificationStage("finetuning", worker, config.model, job.weights, classified, range(3, 6))
    return config, stage


def watched(stage: ClassificationStage, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what every step gives to the networks, with the features of its images, and the step's loss."""
    seen: list[dict[str, Any]] = []
    real = Networks.step

    def step(networks: Networks, inputs: Tensor, loss_of: Any) -> Tensor:
        seen.append({"inputs": inputs})

        def watched_loss(features: Tensor) -> Tensor:
            seen[-1] |= {"features": features.detach().clone(), "head": clone(networks.beside.state_dict())}
            return loss_of(features)

        seen[-1]["loss"] = real(networks, inputs, watched_loss)
        return seen[-1]["loss"]

    monkeypatch.setattr(Networks, "step", step)
    return seen


def clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def rows_of(inputs: Tensor, stage: ClassificationStage) -> list[int]:
    """Find which images a batch shows, by their pixels: augmentation leaves them as they are."""
    encoder = stage.networks.encoder
    number = len(stage.classified.images)
    all_images = encoder.augmented(
        stage.classified.images, np.arange(number), number, (0,), stage.augmentation
    )
    return [int((all_images - image).abs().amax(dim=(1, 2, 3)).argmin()) for image in inputs]


@pytest.mark.parametrize("label", ["sparse", "uniform", "all_in_one"])
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_the_loss_of_a_step_is_the_paper_s(sets, monkeypatch, label, epsilon):
    _, stage = made(
        sets,
        generated__label=label,
        finetuning__label_smoothing=epsilon,
        model__noise_layer="none",
    )
    seen = watched(stage, monkeypatch)
    found = stage.step(3, 0)
    rows = rows_of(seen[0]["inputs"], stage)
    assert len(set(rows)) == 16
    head, total = seen[0]["head"], 0.0
    num_outputs = 6 if label == "all_in_one" else 5
    for feature, row in zip(seen[0]["features"], rows, strict=True):
        logits = feature @ head["classifier.weight"].T + head["classifier.bias"]
        logs = logits - logits.logsumexp(0)
        if row < 25:  # Z = 0
            q = [epsilon / num_outputs] * num_outputs
            q[int(stage.classified.targets.rows[row])] += 1 - epsilon
        else:  # Z = 1
            members = (0, 1) if row < 35 else (2, 3, 4)
            q = {
                "sparse": [1 / len(members) if k in members else 0.0 for k in range(5)],
                "uniform": [0.2] * 5,
                "all_in_one": [0.0] * 5 + [1.0],
            }[label]
        total -= sum(weight * float(log) for weight, log in zip(q, logs, strict=True))
    assert float(found["loss"]) == pytest.approx(total / 16, rel=1e-12)
    num_real = sum(row < 25 for row in rows)
    assert 0 < num_real < 16
    assert float(found["real_images"]) == num_real
    assert float(found["generated_images"]) == 16 - num_real
    assert float(found["real_loss"] + found["generated_loss"]) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("noise_layer", ["bottleneck", "transition", "none"])
def test_a_step_moves_the_networks_as_plain_autograd_does(sets, noise_layer):
    config, stage = made(sets, model__noise_layer=noise_layer, model__batch_norm="sync")
    model, head = stage.networks.encoder.model, stage.networks.beside
    before = [parameter.detach().clone() for parameter in (*model.parameters(), *head.parameters())]
    stage.networks.set_learning_rate(stage.rate(3, 0))
    found = stage.step(3, 0)
    after = [parameter.detach().clone() for parameter in (*model.parameters(), *head.parameters())]
    gradients = [parameter.grad for parameter in (*model.parameters(), *head.parameters())]

    _, other = made(sets, model__noise_layer=noise_layer, model__batch_norm="sync")
    parameters = [*other.networks.encoder.model.parameters(), *other.networks.beside.parameters()]
    loss = plain_loss(other)
    assert float(loss.detach()) == pytest.approx(float(found["loss"]), rel=1e-12)
    plain = torch.autograd.grad(loss, parameters)
    num_of_model = len(list(model.parameters()))
    chosen = config.finetuning
    for i, (gradient, expected) in enumerate(zip(gradients, plain, strict=True)):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-13)
        rate = chosen.learning_rate if i < num_of_model else chosen.head_learning_rate
        # The first step of Nesterov's: the gradient, with its decay, and the momentum of the same.
        step = (expected + chosen.weight_decay * before[i]) * (1 + chosen.momentum)
        torch.testing.assert_close(after[i], before[i] - rate * step, rtol=1e-9, atol=1e-12)


def plain_loss(stage: ClassificationStage) -> Tensor:
    """The loss of the first step by one pass of all images through backbone and head."""
    targets: Targets = stage.classified.targets
    seed, key = stage.worker.job.config.seed, 7
    rows = stream(seed, SAMPLING, key, 0).permutation(45)[:16]
    pictures = stage.networks.encoder.augmented(
        stage.classified.images, rows, 16, (key, 0, 0), stage.augmentation
    )
    model, head = stage.networks.encoder.model, stage.networks.beside
    model.train()
    head.train()
    kept = head.draw(16, stream(seed, DROPOUT, key, 0, 0))
    logs = head(model(pictures), kept)
    wanted = torch.from_numpy(targets.table[targets.rows[rows]])
    return -(wanted * logs).sum() / 16


def test_dropout_differs_between_steps_and_epochs_and_not_between_runs(sets, monkeypatch):
    _, stage = made(sets)
    drawn: list[Tensor] = []
    real = stage.networks.beside.forward

    def forward(features: Tensor, kept: Tensor) -> Tensor:
        drawn.append(kept)
        return real(features, kept)

    monkeypatch.setattr(stage.networks.beside, "forward", forward)
    for epoch, step in ((3, 0), (3, 1), (4, 0), (3, 0)):
        stage.step(epoch, step)
    assert torch.equal(drawn[0], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert 0.3 < drawn[0].double().mean() < 0.7


def test_the_figures_of_an_epoch_are_over_its_images(sets):
    _, stage = made(sets)
    steps = [stage.step(3, number) for number in range(2)]
    means = {name: float(np.mean([float(step[name]) for step in steps])) for name in steps[0]}
    figures, _ = stage.end_epoch(3, means)
    for kind in ("real", "generated"):
        count = sum(float(step[f"{kind}_images"]) for step in steps)
        losses = sum(float(step[f"{kind}_loss"]) for step in steps)
        assert figures[f"train/loss_{kind}"] == pytest.approx(losses / count)
    right = sum(float(step["real_hits"]) for step in steps)
    assert figures["train/accuracy"] == pytest.approx(right / sum(float(s["real_images"]) for s in steps))
    assert set(figures) == {
        *("train/loss", "train/loss_real", "train/loss_generated"),
        *("train/accuracy", "train/accuracy_generated"),
    }


def test_a_larger_head_takes_over_what_a_smaller_one_has_learned():
    for noise_layer in ("bottleneck", "transition", "none"):
        model = tiny.load(
            tiny.SlsrConfig, overrides={"data.root": "x", "model.noise_layer": noise_layer}
        ).model
        small, large = (build_head(model, 6, outputs, seed) for outputs, seed in ((4, 1), (5, 2)))
        drawn = clone(large.state_dict())
        put_into(large, small.state_dict())
        for name, value in large.state_dict().items():
            known = small.state_dict()[name]
            part = tuple(slice(0, size) for size in known.shape)
            assert torch.equal(value[part], known)
            rest = torch.ones_like(value, dtype=torch.bool)
            rest[part] = False
            assert torch.equal(value[rest], drawn[name][rest])


def test_stages_start_from_given_heads(sets):
    config, stage = made(sets)
    learned = stage.networks.weights()
    assert isinstance(learned, Weights)
    head = {name: value + 1 for name, value in learned.head.items()}
    worker, targets = stage.worker, stage.classified
    again = ClassificationStage(
        "finetuning", worker, config.model, Weights(learned.model, head), targets, range(1)
    )
    for name, value in again.networks.beside.state_dict().items():
        assert torch.equal(value, head[name])
