"""The steps of MAR's stages: what is in a batch, what the networks see of it, how they learn."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import small_network
import tiny
import torch
from mar_steps import configured, pretrained, started, worker_of
from torch import Tensor

from raid.data.augment import normalize
from raid.methods.mar import adaptation as mar_adaptation
from raid.methods.mar.adaptation import AdaptationStage
from raid.methods.mar.config import Sgd
from raid.methods.mar.losses import Batch, StepLosses, own_orders
from raid.methods.mar.pretraining import PretrainingStage
from raid.ops import quality

PLAIN = {"augment__flip": 0.0, "augment__pad": 0}
SOURCE, TARGET = 8, 16


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def watched(stage: Any, monkeypatch: pytest.MonkeyPatch, steps: int, epoch: int = 0) -> list[dict[str, Any]]:
    """Return what the networks and the loss are given in some steps; the pictures stand for the features."""
    seen: list[dict[str, Any]] = []

    def step(inputs: Tensor, loss_of: Any) -> Tensor:
        seen.append({"inputs": inputs})
        return loss_of(inputs.flatten(1)).detach()

    def loss(source: Tensor, target: Tensor, agents: Tensor, batch: Batch, *rest: Any, mines: bool) -> Any:
        seen[-1] |= {"source": source, "target": target, "batch": batch, "mines": mines}
        return source.sum(), StepLosses()

    monkeypatch.setattr(stage.networks, "step", step)
    monkeypatch.setattr(mar_adaptation, "mar_loss", loss)
    for number in range(steps):
        stage.step(epoch, number)
    return seen


def pictures(stage: Any, of: str) -> Tensor:
    """Return all images of a set as the networks are to see them, a row each."""
    images = stage.source.images if of == "source" else stage.target.train_images
    statistics = getattr(stage.worker.job.statistics, of)
    plain = stage.worker.job.config.augment.as_drawn(statistics)
    return normalize(images.gather(np.arange(len(images))), plain, dtype=torch.float64).flatten(1)


def rows_of(found: Tensor, all_rows: Tensor) -> list[int]:
    """Return which rows they are, each to the last bit."""
    equal = (found[:, None] == all_rows).all(dim=2)
    assert (equal.sum(dim=1) == 1).all()
    return equal.double().argmax(dim=1).tolist()


@pytest.mark.parametrize("chosen", [{"model__ghost_size": 6}, {"model__batch_norm": "sync"}])
def test_images_labels_rows_and_cameras_of_a_batch_belong_together(sets, monkeypatch, chosen):
    given = {"training__source": SOURCE, "training__target": TARGET, **PLAIN, **chosen}
    stage = started(configured(sets, **given))
    epoch = stage.epochs.start
    for seen in watched(stage, monkeypatch, 2, epoch):
        batch = seen["batch"]
        source = rows_of(seen["source"], pictures(stage, "source"))
        target = rows_of(seen["target"], pictures(stage, "target"))
        assert (len(source), len(target)) == (SOURCE, TARGET)
        assert batch.labels.tolist() == stage.source.labels[source].tolist()
        assert batch.rows.tolist() == target
        cameras = stage.target.train.cameras[target]
        expected = [np.flatnonzero(cameras == camera).tolist() for camera in np.unique(cameras)]
        assert [view.tolist() for view in batch.views] == [rows for rows in expected if len(rows) > 1]
        if "model__ghost_size" in chosen:  # a third of each group is of the source
            for number, group in enumerate(seen["inputs"].flatten(1).split(6)):
                assert torch.equal(group[:2], seen["source"][2 * number : 2 * number + 2])
                assert torch.equal(group[2:], seen["target"][4 * number : 4 * number + 4])


def test_images_are_augmented_otherwise_at_every_step_and_in_either_set(sets, monkeypatch):
    sizes = {"training__source": 24, "training__target": 24, "training__steps": 2}
    stage = started(configured(sets, augment__pad=0, augment__flip=0.5, **sizes))
    start, batches = stage.epochs.start, []
    for epoch in (start, start + 1):
        batches += watched(stage, monkeypatch, 2, epoch)
    flips = []
    for of in ("source", "target"):
        plain = pictures(stage, of)
        mirrored = plain.unflatten(1, (3, tiny.HEIGHT, tiny.WIDTH)).flip(3).flatten(1)
        for seen in batches:
            rows = rows_of(seen[of], torch.cat([plain, mirrored]))
            flips.append(tuple(row >= len(plain) for row in rows))
    assert all(0.1 < np.mean(flipped) < 0.9 for flipped in flips)
    assert len(set(flips)) == len(flips) == 8


def test_every_pass_has_an_image_once_and_the_target_begins_anew(sets, monkeypatch):
    sizes = {"training__source": SOURCE, "training__target": TARGET, "model__ghost_size": 6}
    stage = started(configured(sets, training__steps=4, **sizes, **PLAIN))
    start, batches = stage.epochs.start, []
    for epoch in (start, start + 1):
        batches += watched(stage, monkeypatch, 4, epoch)
    for of, per_pass, number in (("source", 3, 24), ("target", 2, 45)):
        rows = [rows_of(seen[of], pictures(stage, of)) for seen in batches]
        passes = [list(chain(*rows[first : first + per_pass])) for first in range(0, 8, per_pass)]
        assert all(len(set(seen)) == len(seen) for seen in passes)
        assert len({tuple(seen) for seen in passes}) == len(passes)  # each in an order of its own
        assert len({row for seen in passes for row in seen}) > 0.7 * number


def test_stage_1_is_a_plain_softmax_over_features_of_any_length(sets, monkeypatch):
    stage = PretrainingStage(worker_of(configured(sets, **PLAIN)))
    # Agents as long as a picture, which stands for its features.
    width = pictures(stage, "source").shape[1]
    agents = torch.randn(6, width, generator=torch.Generator().manual_seed(1)).double() / 20
    stage.networks.beside.rows = torch.nn.Parameter(agents)
    found: dict[str, Any] = {}

    def watched_step(inputs: Tensor, loss_of: Any) -> Tensor:
        found["features"] = inputs.flatten(1)
        return loss_of(found["features"]).detach()

    monkeypatch.setattr(stage.networks, "step", watched_step)
    seen = stage.step(0, 0)
    labels = stage.source.labels[rows_of(found["features"], pictures(stage, "source"))]
    losses, products, right = [], [], []
    for feature, label in zip(found["features"], labels, strict=True):
        logits = [float(feature @ agent) for agent in agents]
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        products.append(logits[label])
        right.append(max(logits) == logits[label])
    assert float(seen["loss"]) == pytest.approx(np.mean(losses))
    assert float(seen["product"]) == pytest.approx(np.mean(products))
    assert float(seen["accuracy"]) == pytest.approx(np.mean(right))


def test_stage_1_trains_on_raw_features_and_is_evaluated_on_unit_rows(sets):
    stage = PretrainingStage(worker_of(configured(sets)))
    encoder = stage.networks.encoder
    images = encoder.augmented(stage.source.images, np.arange(16), 16, (1,))
    raw, _ = encoder.forward_batch(images)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.01
    lengths = encoder.extract(stage.source.images).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(24).double())


def test_scale_of_stage_1_is_the_mean_product_of_its_last_epoch(sets):
    stage = PretrainingStage(worker_of(configured(sets)))
    figures, details = stage.end_epoch(0, {"loss": 1.5, "accuracy": 0.5, "product": 17.0})
    assert details is None
    assert stage.scale == stage.state()["scale"] == 17.0
    assert figures == {"pretraining/loss": 1.5, "pretraining/accuracy": 0.5, "pretraining/product": 17.0}


def test_mining_begins_when_it_is_to(sets):
    stage = started(configured(sets, mining__begin=1))
    first, threshold = stage.epochs.start, stage.followed.threshold
    before = stage.step(first, 0)
    assert "mdl" not in before
    assert not stage.followed.table.memory.visited.any()
    assert stage.followed.threshold == threshold
    assert stage.state()["tally"]["steps"] == 0
    after = stage.step(first + 1, 0)
    assert "mdl" in after
    assert int(stage.followed.table.memory.visited.sum()) == 8
    assert stage.followed.threshold != threshold
    assert stage.state()["tally"]["steps"] == 1


def slowly(stage: AdaptationStage, before: dict[int, int] | None) -> tuple[dict[str, float], dict[int, int]]:
    """Return an epoch's figures of the nearest persons from the table, and those, image by image."""
    memory = stage.followed.table.memory
    nearest = {}
    for image in np.flatnonzero(memory.visited.numpy()).tolist():
        values = memory.table[image].tolist()
        person = max(range(len(values)), key=lambda number: (values[number], -number))
        if stage.config.multilabel.control == "permuted":
            person = int(own_orders(torch.tensor([image]), len(values), stage.config.seed)[0, person])
        nearest[image] = person
    figures = {"multilabel/people": float(len(set(nearest.values())))}
    if before is not None:
        both = sorted(set(nearest) & set(before))
        pairs = [np.array([of[image] for image in both]) for of in (before, nearest)]
        figures["multilabel/churn"] = 1 - quality.ari(*pairs)
    return figures, nearest


@pytest.mark.parametrize("control", ["none", "permuted"])
def test_how_far_the_images_have_settled_is_read_off_the_table(sets, control):
    chosen = {"multilabel__momentum": 0.9, "optimizer__learning_rate": 0.1, "multilabel__scale": 300.0}
    stage = started(configured(sets, multilabel__control=control, **chosen))
    before, churned = None, []
    for epoch in stage.epochs:
        for step in range(stage.num_steps):
            stage.step(epoch, step)
        expected, before = slowly(stage, before)
        figures, _ = stage.end_epoch(epoch, {"loss": 1.0})
        found = {key: value for key, value in figures.items() if key.startswith("multilabel/")}
        assert found == pytest.approx(expected)
        churned.append(found.get("multilabel/churn"))
        assert found["multilabel/people"] > 1
    assert churned[0] is None
    assert 0 < churned[1] < 1


@pytest.mark.parametrize(
    "chosen", [{"mining__begin": 1}, {"mining__guide": "feature"}, {"losses__mdl": False}]
)
def test_without_a_table_of_multilabels_nothing_is_said_of_them(sets, chosen):
    stage = started(configured(sets, **chosen))
    stage.step(stage.epochs.start, 0)
    figures, _ = stage.end_epoch(stage.epochs.start, {"loss": 1.0})
    assert not any(key.startswith("multilabel/") for key in figures)
    stage.step(stage.epochs.start + 1, 0)
    figures, _ = stage.end_epoch(stage.epochs.start + 1, {"loss": 1.0})
    assert ("multilabel/people" in figures) == ("mining__begin" in chosen)
    assert "multilabel/churn" not in figures  # there is nothing to compare with


def test_a_checkpoint_of_an_older_raid_knows_no_nearest_persons(sets):
    stage = started(configured(sets))
    stage.step(stage.epochs.start, 0)
    stage.end_epoch(stage.epochs.start, {"loss": 1.0})
    state = stage.state()
    again = started(configured(sets))
    again.restore(state)
    assert again.nearest.tolist() == stage.nearest.tolist()
    del state["nearest"]
    again.restore(state)
    assert again.nearest is None


def test_agents_that_are_not_trained_keep_every_bit(sets):
    for trained in (False, True):
        stage = started(configured(sets, losses__al=trained))
        before = stage.networks.agents.detach().clone()
        for step in range(2):
            stage.step(stage.epochs.start, step)
        assert torch.equal(stage.networks.agents, before) == (not trained)


@pytest.mark.parametrize("loss", ["mdl", "cml", "al", "rj"])
def test_every_loss_alone_moves_the_encoder(sets, loss):
    only = {f"losses__{name}": name == loss for name in ("mdl", "cml", "al", "rj")}
    stage = started(configured(sets, optimizer__weight_decay=0.0, **only))
    kernel = stage.networks.encoder.model.body[0].weight
    before = kernel.detach().clone()
    found = stage.step(stage.epochs.start, 0)
    assert set(found) == {"loss", "accuracy", loss}
    assert not torch.equal(kernel, before)


def test_parameters_of_batch_norm_do_not_decay(sets):
    worker = worker_of(configured(sets))
    for stage in (PretrainingStage(worker), AdaptationStage(worker, pretrained(worker))):
        decaying, others = stage.networks.optimizer.param_groups
        body = stage.networks.encoder.model.body
        kernels, norms = (body[0], body[3]), (body[1], body[4])
        assert [id(value) for value in decaying["params"]] == [
            id(value) for value in (*(kernel.weight for kernel in kernels), stage.networks.agents)
        ]
        assert [id(value) for value in others["params"]] == [
            id(value) for norm in norms for value in (norm.weight, norm.bias)
        ]
        assert decaying["weight_decay"] == (0.01 if stage.name == "pretraining" else 0.025)
        assert others["weight_decay"] == 0.0
        assert decaying["momentum"] == others["momentum"] == 0.9


@pytest.mark.parametrize(
    ("epochs", "drops"), [(20, [12, 17]), (40, [25, 35]), (8, [5, 7]), (4, [2, 3]), (2, [1, 1]), (1, [])]
)
def test_learning_rate_drops_where_the_release_has_it(epochs, drops):
    rates = [Sgd(learning_rate=2.0).rate(epoch, epochs) for epoch in range(epochs)]
    expected = [2.0 * 0.1 ** sum(epoch >= drop for drop in drops) for epoch in range(epochs)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 2.0
