"""ResNets of an eighth of the channels behind the first layer, where a test is of what surrounds them.

Blocks, strides, norms and options are those of the whole ones: they are built by the project's own code.
`python thin_resnet.py icsr ...` is the command with such a network.
"""

import sys
from contextlib import AbstractContextManager
from typing import Any

import small_network
from torch import nn
from torchvision.models import resnet

from raid.cli import main

WHOLE = resnet.ResNet


class ThinResNet(resnet.ResNet):
    """ResNet with 8, 16, 32 and 64 channels in its stages, four times as many with bottlenecks."""

    def __init__(self, *arguments: Any, **chosen: Any) -> None:
        super().__init__(*arguments, **chosen)
        self.fc = nn.Linear(self.inplanes, 1000)

    def _make_layer(self, block: Any, planes: int, *others: Any, **chosen: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *others, **chosen)


def in_use() -> AbstractContextManager[None]:
    """Every ResNet that this process makes is thin."""
    return small_network.instead(resnet, "ResNet", ThinResNet)


if __name__ == "__main__":
    with in_use():
        sys.exit(main(sys.argv[1:]))
