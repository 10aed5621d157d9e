"""ResNets of an eighth of the channels behind the first layer, where a test is of what surrounds them.

Blocks, strides, norms and options are those of the whole ones: they are built by the project's own code.
`python thin_resnet.py icsr ...` is the command with such a network.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import nn
from torchvision.models import resnet

from raid.cli import main
from raid.methods.slsr import memory

WHOLE = resnet.ResNet


class ThinResNet(resnet.ResNet):
    """ResNet with 8, 16, 32 and 64 channels in its stages, four times as many with bottlenecks."""

    def __init__(self, *arguments: Any, **chosen: Any) -> None:
        super().__init__(*arguments, **chosen)
        self.fc = nn.Linear(self.inplanes, 1000)

    def _make_layer(self, block: Any, planes: int, *others: Any, **chosen: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *others, **chosen)


@contextmanager
def in_use() -> Iterator[None]:
    """Every ResNet that this process makes is thin."""
    with mock.patch.object(resnet, "ResNet", ThinResNet):
        memory._feature_length.cache_clear()  # what is remembered is of the other network
        yield
    memory._feature_length.cache_clear()


if __name__ == "__main__":
    with in_use():
        sys.exit(main(sys.argv[1:]))
