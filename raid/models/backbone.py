"""Backbones for re-identification: last stride 1, GeM pooling, batch-norm neck, unit features.

Source: Cluster-Contrast's modification of ResNet-50, which ICSR section 3.1 follows. MAR's release has
average pooling, no neck, and no ReLU at the end of the last block: its features have both signs. So have
those of SLSR's DenseNet-121, which pools the average of its last batch norm.
"""

from collections import OrderedDict
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from raid.models.batch_norm import NormFactory

BackboneName = Literal["resnet10", "resnet18", "resnet50", "resnet18_ibn_a", "resnet50_ibn_a", "densenet121"]
PoolName = Literal["gem", "average"]
Autocast = Literal["auto", "none", "bfloat16"]

_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class GeM(nn.Module):
    """Generalised-mean pooling with one learnable exponent for all channels."""

    def __init__(self, exponent: float = 3.0, minimum: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor([exponent]))
        self.minimum = minimum

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `maps` (B, C, H, W) to (B, C)."""
        powered = maps.clamp(min=self.minimum).pow(self.exponent)
        return powered.mean((-2, -1)).pow(1.0 / self.exponent)


class AveragePool(nn.Module):
    """Global average pooling."""

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `maps` (B, C, H, W) to (B, C)."""
        return maps.mean((-2, -1))


class InstanceBatchNorm(nn.Module):
    """IBN-a: instance norm on the first half of the channels, batch norm on the rest."""

    def __init__(self, channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.split_at = channels // 2
        self.instance = nn.InstanceNorm2d(self.split_at, affine=True)
        self.batch = norm(channels - self.split_at)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise `maps` (B, C, H, W)."""
        first, rest = maps[:, : self.split_at], maps[:, self.split_at :]
        return torch.cat([self.instance(first.contiguous()), self.batch(rest.contiguous())], dim=1)


class Backbone(nn.Module):
    """Images (B, 3, H, W), normalised -> features (B, D), L2-normalised in training and evaluation.

    Attributes:
        num_features: D.
        unit_features: False: in training the rows are left as they are, for a classifier of raw features.
            In evaluation they are unit rows whatever it says. No part of the state dict.
        autocast: whether convolutions compute in bfloat16; auto: on GPUs. All that follows the maps is of
            the images' dtype.
    """

    def __init__(
        self,
        body: nn.Module,
        pool: nn.Module,
        neck: nn.Module,
        num_features: int,
        autocast: Autocast = "none",
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.body, self.pool, self.neck = body, pool, neck
        self.num_features = num_features
        self.unit_features = True

    def maps(self, images: Tensor) -> Tensor:
        """Return the last convolution's maps (B, C, h, w), after their ReLU unless it was left out."""
        half = self.autocast == "bfloat16" or (self.autocast == "auto" and images.is_cuda)
        # Not of float64: who asks for that wants all digits.
        enabled = half and images.dtype == torch.float32
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=enabled):
            maps: Tensor = self.body(images)
        return maps.to(images.dtype)

    def pooled(self, images: Tensor) -> Tensor:
        """Return features (B, D) of any length: the pooled maps, after the neck."""
        features: Tensor = self.neck(self.pool(self.maps(images)))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D)."""
        features = self.pooled(images)
        return features if self.training and not self.unit_features else functional.normalize(features)


def build(
    name: BackboneName,
    *,
    norm: NormFactory,
    seed: int,
    last_stride: int = 1,
    pool: PoolName = "gem",
    neck: bool = True,
    final_relu: bool = True,
    autocast: Autocast = "none",
) -> Backbone:
    """Build a randomly initialised backbone; the same seed gives the same weights.

    Args:
        name: architecture; resnet10 is ResNet-18 with one block a stage in place of two, for small sets
            and small machines; `_ibn_a` puts instance-batch normalisation in stages 1 to 3.
        norm: makes the normalisation layer for a number of channels (`batch_norm.norm_factory`).
        seed: of the initial weights; the global generators are left as they were.
        last_stride: stride of the last stage; 1 doubles the map (256x128 images give 16x8). DenseNet strides
            by the pooling of its last transition, which 1 leaves out.
        pool: `gem` or `average`.
        neck: batch normalisation of the pooled features.
        final_relu: whether the last map is what a ReLU leaves, as in the published classifiers.
        autocast: see `Backbone`.

    Raises:
        ValueError: an unknown name, or GeM without the final ReLU: it would lose all that is negative.
    """
    if name not in get_args(BackboneName):
        raise ValueError(f"backbone {name!r} is none of {', '.join(get_args(BackboneName))}")
    if pool == "gem" and not final_relu:
        raise ValueError("GeM pools what is positive alone: without the final ReLU use average")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' as well
        make = _densenet if name == "densenet121" else _resnet
        body, num_features = make(name, norm, last_stride, final_relu)
    pooling = GeM() if pool == "gem" else AveragePool()
    necking = _neck(num_features, norm) if neck else nn.Identity()
    return Backbone(body, pooling, necking, num_features, autocast)


def _resnet(
    name: BackboneName, norm: NormFactory, last_stride: int, final_relu: bool
) -> tuple[nn.Sequential, int]:
    """Return the layers up to the last map, and its channels."""
    # Here: it takes a second, for which commands that build no network need not wait.
    from torchvision.models import resnet as resnets

    architecture = name.removesuffix("_ibn_a")
    if architecture == "resnet10":
        resnet = resnets.ResNet(resnets.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    else:
        resnet = getattr(resnets, architecture)(weights=None, norm_layer=norm)
    if name.endswith("_ibn_a"):
        _use_instance_batch_norm(resnet, norm)
    _set_last_stride(resnet, last_stride)
    if not final_relu:
        _without_final_relu(resnet.layer4[-1])
    body = nn.Sequential(OrderedDict((stage, getattr(resnet, stage)) for stage in _STAGES))
    return body, int(resnet.fc.in_features)


def _densenet(
    name: BackboneName, norm: NormFactory, last_stride: int, final_relu: bool
) -> tuple[nn.Sequential, int]:
    """Return the layers up to the last map, and its channels."""
    from torchvision.models import densenet as densenets  # here: see `_resnet`

    densenet = getattr(densenets, name)(weights=None)
    _replace_norms(densenet, norm)  # it takes no factory
    if last_stride == 1:
        densenet.features.transition3.pool = nn.Identity()
    body = nn.Sequential(OrderedDict(features=densenet.features))
    if final_relu:
        body.add_module("relu", nn.ReLU(inplace=True))
    return body, int(densenet.classifier.in_features)


def _replace_norms(module: nn.Module, norm: NormFactory) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm(child.num_features))  # under the same name, in the same place
        else:
            _replace_norms(child, norm)


def _neck(num_features: int, norm: NormFactory) -> nn.Module:
    neck = norm(num_features)
    neck.bias.requires_grad_(False)
    return neck


def _use_instance_batch_norm(resnet: Any, norm: NormFactory) -> None:
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3):
        for block in stage:
            block.bn1 = InstanceBatchNorm(block.bn1.num_features, norm)


def _set_last_stride(resnet: Any, stride: int) -> None:
    first = resnet.layer4[0]
    # The bottleneck block strides in its 3x3 convolution (conv2), the basic block in its first.
    strided = first.conv2 if hasattr(first, "conv3") else first.conv1
    strided.stride = (stride, stride)
    first.downsample[0].stride = (stride, stride)


def _without_final_relu(block: Any) -> None:
    # The block calls one ReLU after each of its norms and after the addition. Those inside move to the
    # convolution that reads them, so that the call after the addition changes nothing; no key changes.
    block.relu = nn.Identity()
    for convolution in (block.conv2, getattr(block, "conv3", None)):
        if convolution is not None:
            convolution.register_forward_pre_hook(_rectified)


def _rectified(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return functional.relu(inputs[0], inplace=True)
