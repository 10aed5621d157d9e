"""No training step waits for a value: the host of a GPU queues a step while the one before is computed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import host_waits
import mar_steps
import numpy as np
import pytest
import small_network
import test_slsr_classification as slsr
import tiny
import torch

from raid.distributed.group import Group
from raid.methods.encoder import starting_weights
from raid.methods.icsr.contrastive import ContrastiveEncoder
from raid.methods.inputs import open_inputs
from raid.methods.mar.pretraining import PretrainingStage
from raid.methods.slsr.dcgan_state import Dcgan


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: float(values[0]),
        lambda values: values[values > 1],
        lambda values: values.masked_fill_(values > 1, 0)[values > 1],
        lambda values: bool(values.any()),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
        lambda values: values.requires_grad_()[values > 1].sum().backward(),
    ],
)
def test_what_waits_is_found(wait: Callable[[torch.Tensor], Any]):
    with pytest.raises(AssertionError), host_waits.nobody_waits():
        wait(torch.arange(4.0))


def test_what_does_not_wait_is_not_found():
    with host_waits.nobody_waits():
        values = torch.arange(4.0, requires_grad=True)
        torch.where(values > 1, values, 0)[torch.tensor([0, 1])].sum().backward()


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_icsr(tmp_path: Path, micro_batch: int | None):
    config = tiny.config(
        tiny.write_images(tmp_path / "images"), tmp_path / "run", numerics__micro_batch=micro_batch
    )
    images = open_inputs(config.data).train_images
    encoder = ContrastiveEncoder(
        config.training, starting_weights(config.training.encoder), Group.solo(), torch.device("cpu")
    )
    # As on a GPU: that of CPUs reads how many steps it has made.
    encoder.optimizer = torch.optim.Adam(encoder.parameters, lr=1e-4, fused=True)
    labels = np.arange(len(images)) % 5
    memory = encoder.memory(encoder.extract(images), labels, 0.1)
    steps = encoder.train_steps(images, labels, None, memory, key=(2, 0), num_steps=3)
    next(steps)
    with host_waits.nobody_waits():
        next(steps)


def test_mar_pretraining(sets: Path):
    stage = PretrainingStage(mar_steps.worker_of(mar_steps.configured(sets)))
    stage.step(0, 0)
    with host_waits.nobody_waits():
        stage.step(0, 1)


@pytest.mark.parametrize("table", ["whole", "sharded"])
@pytest.mark.parametrize("guide", ["agreement", "feature"])
def test_mar(sets: Path, guide: str, table: str):
    stage = mar_steps.started(mar_steps.configured(sets, mining__guide=guide, multilabel__table=table))
    epoch = stage.epochs.start
    stage.step(epoch, 0)
    with host_waits.nobody_waits():
        stage.step(epoch, 1)


def test_slsr(sets: Path):
    _, stage = slsr.made(sets)
    stage.step(stage.epochs.start, 0)
    with host_waits.nobody_waits():
        stage.step(stage.epochs.start, 1)


def test_a_gan(sets: Path):
    networks = Dcgan(tiny.slsr_config(sets / "target", sets / "unused").gan, (1, 2), torch.device("cpu"))
    # As on a GPU: that of CPUs reads how many steps it has made.
    networks._optimizers = {
        name: torch.optim.Adam(getattr(networks, name).parameters(), fused=True)
        for name in ("generator", "discriminator")
    }
    size, noise = networks._built, torch.rand(4, networks._built["num_latent"])
    pictures = torch.zeros(4, 3, size["height"], size["width"])
    networks.step(pictures, noise)
    with host_waits.nobody_waits():
        networks.step(pictures, noise)
