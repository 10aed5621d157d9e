"""What stage 2 of MAR starts from: the networks of stage 1, and one look at all target images."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import small_network
import torch
from comparing import assert_same_bits
from mar_steps import configured, pretrained, started, worker_of
from torch import Tensor

from raid.methods.mar.adaptation import AdaptationStage
from raid.methods.mar.config import MarConfig
from raid.methods.mar.weights import random_agents
from raid.ops.multilabel import agreement_quantile


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def multilabels_of(stage: AdaptationStage) -> Tensor:
    """Multilabels of all target images as they are, (N, P), by a loop."""
    features = stage.networks.encoder.extract(stage.target.train_images)
    agents = [agent / agent.norm() for agent in stage.networks.agents.detach()]
    rows = []
    for feature in features:
        raised = torch.stack([torch.exp(stage.followed.scale * agent @ feature) for agent in agents])
        rows.append(raised / raised.sum())
    return torch.stack(rows)


def test_the_networks_are_those_of_stage_1_to_the_last_bit(sets):
    worker = worker_of(configured(sets))
    weights = pretrained(worker)
    stage = AdaptationStage(worker, weights)
    assert_same_bits(stage.networks.encoder.model.state_dict(), weights.model)
    assert torch.equal(stage.networks.agents, weights.agents)
    kernel = weights.model["body.0.weight"]
    assert not torch.equal(kernel, kernel.float().double())  # there are bits to be lost
    assert stage.networks.encoder.model.unit_features


@pytest.mark.parametrize("ratio", [0.005, 0.3])
def test_centre_and_threshold_are_of_all_target_images(sets, ratio):
    stage = started(configured(sets, mining__ratio=ratio))
    multilabels, cameras = multilabels_of(stage), stage.target.train.cameras
    views = [multilabels.log()[torch.from_numpy(cameras == camera)] for camera in np.unique(cameras)]
    assert len(views) == 3
    mean = sum(view.mean(dim=0) for view in views) / 3
    deviation = sum(view.std(dim=0) for view in views) / 3
    torch.testing.assert_close(stage.followed.centre.mean, mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(stage.followed.centre.deviation, deviation, rtol=1e-10, atol=0)
    agreements = sorted(
        1 - float((multilabels[i] - multilabels[j]).abs().sum()) / 2
        for i, j in combinations(range(len(multilabels)), 2)
    )
    assert len(agreements) == 990
    assert stage.followed.threshold == pytest.approx(agreements[-int(ratio * 990)], abs=4e-6)
    assert not stage.followed.table.memory.visited.any()


def test_threshold_of_a_sample(sets):
    stage = started(configured(sets, mining__start=20, seed=5))
    expected = agreement_quantile(multilabels_of(stage).float().numpy(), 0.3, num_sampled=20, seed=5)
    assert stage.followed.threshold == pytest.approx(expected, abs=1e-6)
    assert stage.followed.threshold != started(configured(sets, seed=5)).followed.threshold


@pytest.mark.parametrize(
    ("switches", "centre", "table"),
    [
        ({"losses__cml": False}, False, True),
        ({"losses__mdl": False}, True, False),
        ({"mining__guide": "feature"}, True, False),
        ({"losses__cml": False, "losses__mdl": False}, False, False),
    ],
)
def test_what_no_loss_asks_for_is_not_there(sets, switches, centre, table):
    followed = started(configured(sets, **switches)).followed
    assert (followed.centre is not None, followed.table is not None) == (centre, table)
    assert (followed.threshold > 0) == table


def test_scale_is_given_or_that_of_stage_1(sets):
    assert started(configured(sets)).followed.scale == 30.0
    assert started(configured(sets, multilabel__scale="auto")).followed.scale == 12.5


def test_permuted_agents_are_so_from_the_start(sets):
    honest = started(configured(sets)).followed
    permuted = started(configured(sets, multilabel__control="permuted")).followed
    assert permuted.threshold < honest.threshold - 0.05
    # Of one order for all images the centre would be permuted too; of many it is nearly flat.
    assert permuted.centre.mean.std() < 0.5 * honest.centre.mean.std()


def test_centre_follows_by_the_images_of_a_batch_of_both_sets(sets):
    assert MarConfig().centre_momentum == 368 / 10_000
    assert configured(sets).centre_momentum == 16 / 10_000
    assert configured(sets, losses__centre_momentum=0.2).centre_momentum == 0.2
    many = {"training__source": 8000, "training__target": 8000, "model__ghost_size": 16_000}
    assert configured(sets, **many).centre_momentum == 1.0


def test_agents_start_as_a_linear_layer_does():
    agents = random_agents(400, 100, seed=3)
    assert (agents.shape, agents.dtype) == ((400, 100), torch.float32)
    assert float(agents.abs().max()) == pytest.approx(0.1, rel=1e-3)
    assert float(agents.std()) == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert torch.equal(agents, random_agents(400, 100, seed=3))
    assert not torch.equal(agents, random_agents(400, 100, seed=4))
