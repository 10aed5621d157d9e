"""The networks of a DCGAN: pictures from noise, and the judge that tells them from real ones.

Source: SLSR section 4.1 and its release, which is the TensorFlow program by carpedm20 with Radford et al.'s
shapes: 100 uniform numbers become a 128x128 picture in four deconvolutions. The same code makes other sizes
(64 x 32 on a CPU), whose smallest map is a 16th of the picture.

Differences from the release, none of which changes what can be learned: a convolution before a batch norm has
no bias, which the norm would take away again; TensorFlow pads a side more than the other, torch both alike.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Form = Literal["released", "paper"]

_DEVIATION = 0.02  # of the initial weights


def generator(
    *,
    height: int = 128,
    width: int = 128,
    base: int = 64,
    num_latent: int = 100,
    form: Form = "released",
    seed: int,
) -> nn.Sequential:
    """Build the network from noise (B, num_latent), uniform in -1..1, to pictures (B, 3, H, W) in -1..1.

    The same seed gives the same weights, and the global generators are left as they were.

    Args:
        height: H, a multiple of 16.
        width: W, a multiple of 16.
        base: channels of the last hidden layer; those before have 2, 4 and 8 times as many.
        num_latent: length of the noise.
        form: `released`: batch norm and ReLU after all layers but the last; `paper`: batch norm after the
            last too. Its ReLU is left out in both: before the tanh it would leave no pixel darker than grey.
        seed: of the initial weights.

    Raises:
        ValueError: a size that is no multiple of 16, or an unknown form.
    """
    rows, columns = _smallest_map(height, width, form)
    channels = [8 * base, 4 * base, 2 * base, base, 3]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' as well
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["linear"] = nn.Linear(num_latent, channels[0] * rows * columns)
        layers["map"] = nn.Unflatten(1, (channels[0], rows, columns))
        layers["norm0"] = _norm(channels[0])
        layers["relu0"] = nn.ReLU(inplace=True)
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            is_last = i == len(channels) - 1
            is_normed = form == "paper" or not is_last
            layers[f"deconvolution{i}"] = nn.ConvTranspose2d(
                before, after, 5, stride=2, padding=2, output_padding=1, bias=not is_normed
            )
            if is_normed:
                layers[f"norm{i}"] = _norm(after)
            if not is_last:
                layers[f"relu{i}"] = nn.ReLU(inplace=True)
        layers["tanh"] = nn.Tanh()
        return _initialised(nn.Sequential(layers))


def discriminator(
    *, height: int = 128, width: int = 128, base: int = 64, form: Form = "released", seed: int
) -> nn.Sequential:
    """Build the network from pictures (B, 3, H, W) in -1..1 to logits (B,): positive where they look real.

    The same seed gives the same weights, and the global generators are left as they were.

    Args:
        height: H, a multiple of 16.
        width: W, a multiple of 16.
        base: channels of the first layer; the others have 2, 4 and 8 times as many.
        form: `released`: leaky ReLU (.2), and batch norm after all convolutions but the first; `paper`: batch
            norm and ReLU after all of them.
        seed: of the initial weights.

    Raises:
        ValueError: a size that is no multiple of 16, or an unknown form.
    """
    rows, columns = _smallest_map(height, width, form)
    channels = [3, base, 2 * base, 4 * base, 8 * base]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(pairwise(channels), start=1):
            is_normed = form == "paper" or i > 1
            layers[f"convolution{i}"] = nn.Conv2d(before, after, 5, stride=2, padding=2, bias=not is_normed)
            if is_normed:
                layers[f"norm{i}"] = _norm(after)
            layers[f"relu{i}"] = nn.ReLU(inplace=True) if form == "paper" else nn.LeakyReLU(0.2, inplace=True)
        layers["row"] = nn.Flatten()
        layers["linear"] = nn.Linear(channels[-1] * rows * columns, 1)
        layers["logit"] = nn.Flatten(0)
        return _initialised(nn.Sequential(layers))


def to_unit(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale `images` (B, 3, H, W) uint8 to -1..1."""
    return images.to(dtype) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Return `images` (B, 3, H, W), -1..1 and clamped to it, as uint8: the way back from `to_unit`."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor) -> Tensor:
    """Return the pictures (B, 3, H, W) uint8 of noise `z` (B, num_latent), each from its own row alone.

    Batch norm takes its running statistics; the generator is left in the mode that it was in.
    """
    was_training = generator.training
    images = to_uint8(generator.eval()(z))
    generator.train(was_training)
    return images


def _smallest_map(height: int, width: int, form: Form) -> tuple[int, int]:
    if form not in get_args(Form):
        raise ValueError(f"form {form!r} is none of {', '.join(get_args(Form))}")
    for name, size in (("height", height), ("width", width)):
        if size < 16 or size % 16:
            raise ValueError(f"{name} {size} is no multiple of 16: four layers halve it")
    return height // 16, width // 16


def _norm(channels: int) -> nn.BatchNorm2d:
    """Return torch's own batch norm: a GAN is trained by one process, on whole batches."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


def _initialised(model: nn.Sequential) -> nn.Sequential:
    """Draw the weights anew: N(0, .02), cut at two deviations in convolutions; biases are 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION)
        elif isinstance(module, nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=_DEVIATION)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
