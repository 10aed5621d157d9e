"""A DCGAN in training: both networks, both optimisers, and what of them is kept in files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raid.distributed.checkpoint import write_tensors
from raid.errors import InputError
from raid.files import read_tensors
from raid.methods.slsr.config import Gan
from raid.models import dcgan
from raid.models.gan_step import GanLosses, gan_optimizer, gan_step

_BLOCK_ROWS = 64  # images that are generated together: a fixed cut, for the bits change with it
_FORMAT = 1


class Dcgan:
    """Generator and discriminator on one device, each with its Adam."""

    def __init__(self, gan: Gan, seeds: tuple[int, int], device: torch.device) -> None:
        """Start from weights that are drawn by `seeds`, the generator's and the discriminator's."""
        self.device = device
        self._generator_steps = gan.generator_steps
        self._built: dict[str, Any] = {"height": gan.height, "width": gan.width, "base": gan.channels}
        self._built |= {"num_latent": gan.num_latent, "form": gan.form}
        self.generator = dcgan.generator(**self._built, seed=seeds[0]).to(device)
        self.discriminator = dcgan.discriminator(
            height=gan.height, width=gan.width, base=gan.channels, form=gan.form, seed=seeds[1]
        ).to(device)
        self._optimizers = {
            "generator": gan_optimizer(self.generator, gan.learning_rate, gan.beta1),
            "discriminator": gan_optimizer(self.discriminator, gan.learning_rate, gan.beta1),
        }

    def step(self, real: Tensor, z: Tensor) -> GanLosses:
        """Train on `real` (B, 3, H, W) in -1..1 and noise `z` (B, num_latent), both on the device."""
        return gan_step(
            self.generator,
            self.discriminator,
            self._optimizers["generator"],
            self._optimizers["discriminator"],
            real,
            z,
            generator_steps=self._generator_steps,
        )

    def generate(self, z: Tensor) -> NDArray[np.uint8]:
        """Return the pictures of noise `z`: see `generate`."""
        return generate(self.generator, z, self.device)

    def are_finite(self) -> bool:
        """Whether all weights and running statistics of both networks are."""
        values = [*self.generator.state_dict().values(), *self.discriminator.state_dict().values()]
        return all(bool(torch.isfinite(value).all()) for value in values)

    def state(self) -> dict[str, Any]:
        """Return the full state, tensors and plain values."""
        return {
            "generator": _weights(self.generator),
            "discriminator": _weights(self.discriminator),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def write(self, place: Path, *, with_discriminator: bool) -> None:
        """Write discriminator.pt, where others will start from it, and then generator.pt to a folder."""
        if with_discriminator:
            content = {"format": _FORMAT, "weights": _weights(self.discriminator)}
            write_tensors(place / "discriminator.pt", content)
        content = {"format": _FORMAT, **self._built, "weights": _weights(self.generator)}
        write_tensors(place / "generator.pt", content)

    def load_weights(self, place: Path) -> None:
        """Take both networks' weights from the folder of a GAN of the same size."""
        self.generator.load_state_dict(read_tensors(place / "generator.pt")["weights"])
        self.discriminator.load_state_dict(read_tensors(place / "discriminator.pt")["weights"])


def generate(generator: nn.Module, z: Tensor, device: torch.device) -> NDArray[np.uint8]:
    """Return the pictures (n, 3, H, W) uint8 of noise `z` (n, num_latent), in fixed blocks."""
    blocks = [dcgan.generate(generator, part.to(device)).cpu() for part in z.split(_BLOCK_ROWS)]
    pictures: NDArray[np.uint8] = torch.cat(blocks).numpy()
    return pictures


def load_generator(path: Path, device: torch.device) -> tuple[nn.Sequential, int]:
    """Read generator.pt; return the generator and the length of its noise.

    Raises:
        InputError: the file is missing, or is none.
    """
    content = read_tensors(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT or "num_latent" not in content:
        raise InputError(f"{path}: not a generator of raid's format {_FORMAT}")
    built = {key: content[key] for key in ("height", "width", "base", "num_latent", "form")}
    generator = dcgan.generator(**built, seed=0)
    generator.load_state_dict(content["weights"])
    return generator.to(device), int(content["num_latent"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.cpu() for key, value in model.state_dict().items()}
