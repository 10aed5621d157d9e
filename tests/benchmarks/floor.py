"""What no implementation can beat: a network's products at the rate of this machine's matrix product."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from raid.models.backbone import Backbone

_SIDE, _IMAGES = {"cpu": 1024, "cuda": 8192}, {"cpu": 16, "cuda": 256}
_CHANNELS, _HEIGHT, _WIDTH = 256, 32, 16  # of a 3x3 convolution, the largest share of a ResNet
_REPEATS = 5
BACKWARD = 2  # times the forward pass: the gradients of the maps, and those of the filters


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second at their best: of two large matrices, or of a large convolution.

    The libraries of both differ: on some CPUs the convolution's is half as fast again.
    """
    side, images = _SIDE[device.type], _IMAGES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    maps = torch.randn(images, _CHANNELS, _HEIGHT, _WIDTH, device=device).to(dtype)
    filters = torch.randn(_CHANNELS, _CHANNELS, 3, 3, device=device).to(dtype)
    maps, filters = (one.contiguous(memory_format=torch.channels_last) for one in (maps, filters))
    of_maps = 2 * images * _HEIGHT * _WIDTH * 9 * _CHANNELS**2
    with torch.no_grad():
        return max(
            2 * side**3 / _seconds(lambda: left @ right, device),
            of_maps / _seconds(lambda: functional.conv2d(maps, filters, padding=1), device),
        )


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """Of the quickest of some, after a first."""
    found = []
    for _ in range(1 + _REPEATS):
        begun = _settled(device)
        work()
        found.append(_settled(device) - begun)
    return min(found[1:])


def forward_flops(network: Backbone, height: int, width: int) -> float:
    """Of one image, without a norm's or an activation's."""
    images = torch.zeros((1, 3, height, width), device=next(network.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval().maps(images)
    return float(counter.get_total_flops())


def _settled(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
