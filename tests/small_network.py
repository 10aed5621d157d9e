"""A backbone of two convolutions, in place of a ResNet where a test is of what surrounds it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from raid.methods.slsr import memory
from raid.models import backbone
from raid.models.backbone import AveragePool, Backbone
from raid.models.batch_norm import NormFactory

DIMENSIONS = 16


def build(name: str, *, norm: NormFactory, seed: int, **chosen: Any) -> Backbone:
    """Build it as `backbone.build` does: two batch norms, features of both signs."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False),
            norm(8),
            nn.ReLU(),
            nn.Conv2d(8, DIMENSIONS, 3, stride=2, bias=False),
            norm(DIMENSIONS),
        )
    return Backbone(body, AveragePool(), nn.Identity(), DIMENSIONS)


def in_use() -> AbstractContextManager[None]:
    """Every encoder that this process makes is of this network."""
    return instead(backbone, "build", build)


@contextmanager
def instead(place: object, name: str, network: Any) -> Iterator[None]:
    """Whoever looks `name` up at `place` finds `network`."""
    with mock.patch.object(place, name, network):
        memory._feature_length.cache_clear()  # what is remembered is of the other network
        yield
    memory._feature_length.cache_clear()
