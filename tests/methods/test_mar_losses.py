"""The losses of a step of MAR, together: their sum, their order, and numbers that stay finite."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from mar_inputs import unit_rows
from mar_reference import Reference
from torch import Tensor

from raid.distributed.group import Group
from raid.losses.cross_view import CrossViewCentre, by_view
from raid.methods.mar.config import MarConfig
from raid.methods.mar.losses import Batch, Followed, StepLosses, in_own_orders, mar_loss, own_orders
from raid.methods.mar.multilabel_table import MultilabelTable
from raid.methods.mar.start import as_threshold

NUM_IMAGES, NUM_AGENTS, DIM = 12, 5, 6
SOURCE, TARGET = 6, 8
SHARE = 0.3  # of a batch in the centre
THRESHOLD = 0.5


def configured(**overrides: Any) -> MarConfig:
    given = {"losses__centre_momentum": SHARE, "losses__lambda2": 50.0, "mining__ratio": 0.4}
    return tiny.mar_config(Path("none"), Path("none"), Path("none"), **{**given, **overrides})


def followed_by(config: MarConfig, *, num_agents: int = NUM_AGENTS, scale: float = 30.0) -> Followed:
    centre = CrossViewCentre(
        torch.linspace(-9, -2, num_agents).double(),
        torch.linspace(1, 2, num_agents).double(),
        momentum=config.centre_momentum,
    )
    table = MultilabelTable(
        NUM_IMAGES,
        num_agents,
        momentum=config.multilabel.momentum,
        sharded=False,
        group=Group.solo(),
        device=torch.device("cpu"),
        dtype=torch.float64,
    )
    return Followed(centre, table, as_threshold(THRESHOLD, torch.device("cpu")), scale)


def reference_of(config: MarConfig, followed: Followed) -> Reference:
    losses = config.losses
    return Reference(
        followed.centre.mean,
        followed.centre.deviation,
        float(followed.threshold),
        scale=followed.scale,
        ratio=config.mining.ratio,
        share=SHARE,
        form=losses.cml_form,
        margin=losses.margin,
        lambda1=losses.lambda1,
        lambda2=losses.lambda2,
        beta=losses.beta,
    )


@dataclass(frozen=True)
class Drawn:
    """What `Batch` is made of, as it is drawn."""

    labels: Tensor
    rows: Tensor
    views: Tensor

    def batch(self, followed: Followed) -> Batch:
        places = None if followed.table is None else followed.table.places(self.rows)
        return Batch(self.labels, self.rows, by_view(self.views), places)


def drawn(step: int) -> tuple[Tensor, Tensor, Tensor, Drawn]:
    """Source and target features, agents and a batch, of which rows come again in later steps."""
    generator = torch.Generator().manual_seed(step)
    source, target = (
        unit_rows(rows, DIM, seed + step, spread=0.8) for rows, seed in ((SOURCE, 100), (TARGET, 200))
    )
    agents = (2 + step) * unit_rows(NUM_AGENTS, DIM, 300, spread=0.8)  # of any length
    batch = Drawn(
        torch.randint(NUM_AGENTS, (SOURCE,), generator=generator),
        torch.randperm(NUM_IMAGES, generator=generator)[:TARGET],
        torch.randint(3, (TARGET,), generator=generator),
    )
    return source, target, agents, batch


def with_gradients(loss_of: Any, *features: Tensor) -> tuple[Any, list[Tensor]]:
    leaves = [feature.clone().requires_grad_() for feature in features]
    loss, *rest = loss_of(*leaves)
    return (loss.detach(), *rest), list(
        torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    )


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_steps_are_those_of_the_plain_reference(preset):
    """Value and gradient of the sum, the parts, and what follows the batches, over first and later visits."""
    config = configured(preset=preset)
    followed = followed_by(config)
    reference = reference_of(config, followed)
    kinds = set()
    for step in range(6):
        source, target, agents, batch = drawn(step)
        mines = step > 0

        def ours(source, target, agents, batch=batch, mines=mines):
            return mar_loss(source, target, agents, batch.batch(followed), followed, config, mines=mines)

        def plain(source, target, agents, batch=batch, mines=mines):
            lists = [values.tolist() for values in (batch.labels, batch.rows, batch.views)]
            return reference.step(source, target, agents, *lists, mines=mines)

        (loss, found), gradients = with_gradients(ours, source, target, agents)
        (expected, parts), expected_gradients = with_gradients(plain, source, target, agents)
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
        for gradient, theirs in zip(gradients, expected_gradients, strict=True):
            assert theirs.abs().max() > 0.1
            torch.testing.assert_close(gradient, theirs, rtol=1e-10, atol=1e-10)
        assert found.parts.keys() == parts.keys()
        for name, value in parts.items():
            torch.testing.assert_close(found.parts[name], value.detach(), rtol=1e-11, atol=1e-11)
        assert followed.threshold == pytest.approx(reference.threshold, abs=1e-12)
        torch.testing.assert_close(followed.centre.mean, reference.mean, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(followed.centre.deviation, reference.deviation, rtol=1e-11, atol=1e-11)
        assert set(followed.table.memory.visited.nonzero()[:, 0].tolist()) == set(reference.remembered)
        for row, remembered in reference.remembered.items():
            torch.testing.assert_close(followed.table.memory.table[row], remembered, rtol=1e-11, atol=0)
        if mines:
            kinds |= set(found.mined.positive.tolist())
    assert kinds == {True, False}
    assert len(reference.remembered) == NUM_IMAGES  # all by then, most of them more than once


def step_of(config: MarConfig, followed: Followed, **given: Tensor) -> tuple[StepLosses, Tensor]:
    """Return what a step found, `given` in place of what is drawn, and the agents' gradient.

    Neither the loss nor a gradient may be other than finite.
    """
    source, target, agents, batch = drawn(1)
    values = {"source": source, "target": target, "agents": agents, **vars(batch), **given}
    batch = Drawn(values["labels"], values["rows"], values["views"]).batch(followed)
    (loss, found), gradients = with_gradients(
        lambda *features: mar_loss(*features, batch, followed, config, mines=True),
        *(values[name] for name in ("source", "target", "agents")),
    )
    assert all(bool(torch.isfinite(value).all()) for value in (loss, *gradients, *found.parts.values()))
    return found, gradients[2]


@pytest.mark.parametrize("name", ["mdl", "cml", "al", "rj"])
def test_a_loss_that_is_off_is_not_there(name):
    config = configured(**{f"losses__{name}": False})
    found, of_agents = step_of(config, followed_by(config))
    assert set(found.parts) == {"mdl", "cml", "al", "rj"} - {name}
    assert (found.mined is None) == (name == "mdl")
    assert bool(of_agents.abs().max() > 0) == (name != "al")  # no other loss moves the agents


@pytest.mark.parametrize("threshold", [2.0, -1.0])
def test_no_positives_and_no_negatives(threshold):
    config = configured()
    followed = followed_by(config)
    followed.threshold = as_threshold(threshold, torch.device("cpu"))
    found, _ = step_of(config, followed)
    assert found.mined.num_positives == (0 if threshold > 1 else len(found.mined.rows))
    assert 0 < found.parts["mdl"] < 5


def test_views_with_one_image_have_no_deviation_and_change_no_centre():
    config = configured()
    followed = followed_by(config)
    before = followed.centre.state_dict()
    found, _ = step_of(config, followed, views=torch.arange(TARGET))
    assert found.parts["cml"] == 0
    assert all(torch.equal(before[key], value) for key, value in followed.centre.state_dict().items())
    one_alone = torch.tensor([7, *[1] * 4, *[2] * 3])
    found, _ = step_of(config, followed, views=one_alone)
    assert found.parts["cml"] > 0


def test_no_agent_within_the_margin():
    apart = torch.eye(8)[:, :DIM].double()[:DIM]
    source, target = apart[:1].repeat(SOURCE, 1), -apart[1:2].repeat(TARGET, 1)
    for form in ("released", "paper"):
        config = configured(losses__rj_form=form, losses__cml=False)
        found, _ = step_of(
            config, followed_by(config), source=source, target=target, agents=apart[1:],
            labels=torch.zeros(SOURCE, dtype=torch.int64),
        )  # fmt: skip
        # Every source image is at a right angle to its agent, and nothing is near any.
        assert found.parts["rj"] == pytest.approx(2.0 if form == "released" else 0.0)


def test_one_pair_of_one_picture_twice():
    """The smallest batch: its one pair is the similar one, and the threshold follows it."""
    config = configured(mining__ratio=0.005)
    followed = followed_by(config)
    same = drawn(1)[1][:1].repeat(2, 1)
    rows, views = torch.tensor([3, 5]), torch.tensor([1, 1])
    found, _ = step_of(config, followed, target=same, rows=rows, views=views)
    assert (found.mined.num_positives, found.mined.num_negatives) == (1, 0)
    assert found.mined.reached == 1.0
    assert followed.threshold == pytest.approx(0.9 * THRESHOLD + 0.1)


def test_the_threshold_of_a_small_batch_follows_the_largest_agreement():
    """Of 28 pairs .005 are none; the release then takes the smallest agreement of all, and T falls to 0."""
    config = configured(mining__ratio=0.005)
    followed = followed_by(config)
    found, _ = step_of(config, followed)
    table = followed.table.memory.table[drawn(1)[3].rows]
    agreements = 1 - torch.pdist(table, p=1) / 2
    assert found.mined.reached == float(agreements.max())
    assert len(found.mined.rows) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multilabels_of_zero_in_their_precision(dtype):
    config = configured()
    followed = followed_by(config, scale=3000.0)
    for value in (followed.centre, followed.table.memory):
        for name, tensor in vars(value).items():
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                setattr(value, name, tensor.to(dtype))
    source, target, agents, _ = (value.to(dtype) for value in (*drawn(1)[:3], torch.zeros(1)))
    found, _ = step_of(config, followed, source=source, target=target, agents=agents)
    assert float(followed.table.memory.table.min()) == 0.0
    assert found.parts["cml"] > 1000


def test_features_guide_without_the_multilabels():
    config = configured(mining__guide="feature")
    followed = replace(followed_by(config), table=None)
    found, _ = step_of(config, followed)
    assert followed.threshold == THRESHOLD
    assert found.mined.threshold == found.mined.scores.median()
    assert (found.mined.num_positives, found.mined.num_negatives) == (5, 6)  # of .4 * 28 pairs


def test_accuracy_is_of_the_source_images():
    config = configured()
    source, target, agents, batch = drawn(1)
    labels = (source @ agents.T).argmax(dim=1)
    labels[0] = (labels[0] + 1) % NUM_AGENTS
    followed = followed_by(config)
    _, found = mar_loss(
        source, target, agents, replace(batch, labels=labels).batch(followed), followed, config, mines=True
    )
    assert float(found.accuracy) == pytest.approx(1 - 1 / SOURCE)


def agreements_of_pairs(control: str) -> Tensor:
    """Agreement of each of four people's two pictures, over 200 agents, after two visits."""
    config = configured(multilabel__control=control)
    followed = followed_by(config, num_agents=200)
    agents = unit_rows(200, DIM, 5, spread=2.0)
    people = unit_rows(TARGET // 2, DIM, 6, spread=2.0).repeat_interleave(2, dim=0)
    for _ in range(2):
        step_of(
            config, followed, target=people, agents=agents, rows=torch.arange(TARGET) + 1,
            views=torch.arange(TARGET) % 2,
        )  # fmt: skip
    table = followed.table.memory.table[1 : TARGET + 1]
    torch.testing.assert_close(table.sum(dim=1), torch.ones(TARGET).double())
    assert (table.max(dim=1).values > 0.05).all()  # the same order at both visits: nothing is smeared
    return 1 - (table[::2] - table[1::2]).abs().sum(dim=1) / 2


def test_permuted_agents_tell_nothing_of_who_is_who():
    assert agreements_of_pairs("none").min() > 0.999
    assert agreements_of_pairs("permuted").max() < 0.3


def test_orders_are_of_the_image_and_the_seed_alone():
    orders = own_orders(torch.tensor([3, 7, 4]), 50, seed=1)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(50).expand(3, 50))
    assert torch.equal(own_orders(torch.tensor([4, 3]), 50, seed=1), orders[[2, 0]])
    assert len({tuple(order) for order in orders.tolist()}) == 3
    assert not torch.equal(own_orders(torch.tensor([3]), 50, seed=2), orders[:1])


def test_an_agent_is_found_again_by_its_place_in_an_image_s_own_order():
    logs = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    shuffled = logs.gather(1, own_orders(torch.arange(6), 50, seed=3))
    places = shuffled.argmax(dim=1).numpy()
    places[4] = -1
    expected = logs.argmax(dim=1).tolist()
    assert in_own_orders(places, 50, seed=3).tolist() == [*expected[:4], -1, expected[5]]
    assert places[4] == -1  # and nothing else has changed
    assert (shuffled.argmax(dim=1).numpy()[:4] == places[:4]).all()
