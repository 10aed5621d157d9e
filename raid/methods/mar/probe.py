"""How fast this machine is at what a run of MAR does: images, losses as wide as the agents, agreements."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raid.data import synthetic
from raid.distributed.group import Group
from raid.losses.cross_view import CrossViewCentre, by_view
from raid.methods.encoder import build_model, device_of
from raid.methods.mar.config import MarConfig
from raid.methods.mar.losses import Batch, Followed, mar_loss
from raid.methods.mar.multilabel_table import MultilabelTable
from raid.methods.mar.networks import MarNetworks
from raid.methods.mar.start import as_threshold
from raid.methods.mar.weights import Weights
from raid.methods.probe import (
    EncoderSpeed,
    RandomImages,
    probe_encoder,
    probe_ranking,
    probed_batch,
    seconds_of,
    timed,
)
from raid.ops.multilabel import AGREEMENT_ROWS, agreement_quantile, log_soft_multilabels

_GPU_BATCH = 64
_MOST_PEOPLE = 8192  # of the probe: beyond, times are in proportion
_ROWS = 2000  # that are compared


@dataclass(frozen=True)
class MarSpeed:
    """Of one process.

    Attributes:
        encoder: a step's images, without the losses.
        softmax: seconds of stage 1's loss of a batch, forward and backward; every worker has all of it.
        losses: seconds of stage 2's, likewise.
        multilabel: seconds of an image in the look at all of them at the start.
        pair: seconds of each of `compared_pairs` there.
        ranked_pair: seconds of an evaluation for each pair of a query and a gallery image.
    """

    encoder: EncoderSpeed
    softmax: float
    losses: float
    multilabel: float
    pair: float
    ranked_pair: float


def compared_pairs(num_rows: int) -> float:
    """Return the pairs whose agreement is computed: of all rows, and twice those within a block."""
    return num_rows * (num_rows + min(num_rows, AGREEMENT_ROWS)) / 2


def probe(config: MarConfig, num_people: int, num_cameras: int, *, tflops: float | None) -> MarSpeed:
    """Do everything that a run does for a moment.

    Args:
        config: of the run.
        num_people: P.
        num_cameras: of the target.
        tflops: of a processor that is not here: seconds of encoder and losses are reckoned from the
            operations then.
    """
    torch.set_num_threads(config.numerics.threads)
    encoder = _probe_images(config, tflops)
    people = min(num_people, _MOST_PEOPLE)
    wider = num_people / people
    dimensions, device = encoder.dimensions, device_of(config.run.device)
    simulated = synthetic.features(1, num_identities=_ROWS // 10, images_per_identity=10, dim=dimensions)
    softmax = seconds_of(_softmax_step(config, people, dimensions), device, tflops)
    losses = seconds_of(loss_step(config, people, dimensions, num_cameras), device, tflops)
    multilabel, pair = _probe_start(config, simulated, people)
    return MarSpeed(
        encoder, wider * softmax, wider * losses, wider * multilabel, wider * pair, probe_ranking(simulated)
    )


def _probe_images(config: MarConfig, tflops: float | None) -> EncoderSpeed:
    device = device_of(config.run.device)
    batch = probed_batch(min(_GPU_BATCH, config.batch_size), device)
    settings = config.encoder()
    settings = replace(settings, model=replace(settings.model, ghost_size=batch))
    model = build_model(settings, Group.solo())
    agents = torch.zeros(1, model.num_features)
    weights = Weights(model.state_dict(), agents)
    networks = MarNetworks(settings, weights, Group.solo(), device, config.optimizer)
    images = RandomImages(batch, config.data.height, config.data.width)

    def step(features: Tensor) -> None:
        inputs = networks.encoder.augmented(images, np.arange(batch), batch, (0,))
        networks.step(inputs, Tensor.sum)

    return probe_encoder(networks.encoder, images, step, optimizer="sgd", tflops=tflops)


def _softmax_step(config: MarConfig, num_people: int, dimensions: int) -> Callable[[], None]:
    """Return stage 1's loss of a random batch, with its gradients."""
    features = _unit_rows(config.pretraining.batch_size, dimensions, config).requires_grad_()
    agents = _unit_rows(num_people, dimensions, config).requires_grad_()
    labels = torch.arange(len(features), device=features.device) % num_people

    def step() -> None:
        loss = functional.cross_entropy(features @ agents.T, labels)
        torch.autograd.grad(loss, [features, agents])

    return step


def loss_step(config: MarConfig, num_people: int, dimensions: int, num_cameras: int) -> Callable[[], None]:
    """Return stage 2's losses of a random batch, with their gradients."""
    source = _unit_rows(config.training.source, dimensions, config).requires_grad_()
    target = _unit_rows(config.training.target, dimensions, config).requires_grad_()
    agents = _unit_rows(num_people, dimensions, config).requires_grad_()
    device, dtype = target.device, target.dtype
    labels = torch.arange(len(source), device=device) % num_people
    rows = torch.arange(len(target))
    views = tuple(view.to(device) for view in by_view(rows % num_cameras))
    zeros = torch.zeros(num_people, device=device, dtype=dtype)
    table = MultilabelTable(
        len(target), num_people, momentum=0.1, sharded=False, group=Group.solo(), device=device, dtype=dtype
    )
    batch = Batch(labels, rows, views, table.places(rows).to(device))
    scale = 30.0 if config.multilabel.scale == "auto" else config.multilabel.scale
    centre = CrossViewCentre(zeros, zeros, momentum=0.1)
    followed = Followed(centre, table, as_threshold(0.5, device), scale)

    def step() -> None:
        loss, _ = mar_loss(source, target, agents, batch, followed, config, mines=True)
        sought = [source, target, agents]
        torch.autograd.grad(loss, sought, allow_unused=True, materialize_grads=True)

    return step


def _probe_start(
    config: MarConfig, simulated: synthetic.SimulatedFeatures, num_people: int
) -> tuple[float, float]:
    """Return the seconds an image, and those a pair, of the look at all images; on the CPU."""
    features = torch.from_numpy(simulated.features).to(config.encoder().dtype)
    agents = _unit_rows(num_people, features.shape[1], config).cpu()
    views = by_view(torch.from_numpy(simulated.cameras))

    def look() -> Tensor:
        logs = log_soft_multilabels(features, agents, 30.0)
        CrossViewCentre.of_images(logs, views, momentum=0.0)
        return logs.exp_()

    multilabels, seen = timed(look)
    rows = multilabels.float().numpy()
    agreement_quantile(rows[:64], config.mining.ratio)  # compiles what is not compiled yet
    _, compared = timed(lambda: agreement_quantile(rows, config.mining.ratio))
    return seen / len(rows), compared / compared_pairs(len(rows))


def _unit_rows(num_rows: int, dimensions: int, config: MarConfig) -> Tensor:
    """Return random unit rows, on the run's device."""
    rows = torch.randn(num_rows, dimensions, dtype=config.encoder().dtype)
    return functional.normalize(rows).to(device_of(config.run.device))
