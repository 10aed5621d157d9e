"""One step of training a GAN (SLSR eq. 3, as its release runs it).

The discriminator learns to give real pictures a large logit and generated ones a small one; the generator, to
make pictures that get a large one. It takes two steps for each of the discriminator's, so that the
discriminator does not win.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam, Optimizer


@dataclass(frozen=True)
class GanLosses:
    """Of a step, detached scalars.

    Attributes:
        real: the discriminator's of the real pictures, before its update.
        fake: the discriminator's of the generated ones, before its update; it minimises the sum of both.
        generator: before the generator's last update.
    """

    real: Tensor
    fake: Tensor
    generator: Tensor


def logistic_loss(logits: Tensor, is_real: bool) -> Tensor:
    """Compute the mean of -log sigmoid(x) of `logits` (B,) that should be large, or -log(1 - sigmoid(x))."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))


def gan_optimizer(model: nn.Module, learning_rate: float = 2e-4, beta1: float = 0.5) -> Adam:
    """Return DCGAN's optimiser of either network; on a GPU it is one kernel."""
    parameters = list(model.parameters())
    return Adam(parameters, lr=learning_rate, betas=(beta1, 0.999), fused=parameters[0].is_cuda)


def gan_step(
    generator: nn.Module,
    discriminator: nn.Module,
    generator_optimizer: Optimizer,
    discriminator_optimizer: Optimizer,
    real: Tensor,
    z: Tensor,
    *,
    generator_steps: int = 2,
) -> GanLosses:
    """Update the discriminator once, and then the generator, with the same noise throughout.

    Real and generated pictures pass the discriminator apart, each normalised by their own statistics. Every
    pass moves the running statistics of its network, so the generator's move by all 1 + `generator_steps`.

    Args:
        generator: noise to pictures; trained, and left in training mode.
        discriminator: pictures to logits (B,); likewise.
        generator_optimizer: of all the generator's parameters.
        discriminator_optimizer: of all the discriminator's parameters.
        real: (B, 3, H, W) in -1..1.
        z: (B, num_latent) noise.
        generator_steps: updates of the generator; at least 1.
    """
    assert generator_steps >= 1
    generator.train()
    discriminator.train()
    with torch.no_grad():
        made = generator(z)
    of_real = logistic_loss(discriminator(real), True)
    of_fake = logistic_loss(discriminator(made), False)
    _descend(of_real + of_fake, discriminator, discriminator_optimizer)
    for _ in range(generator_steps):
        of_generator = logistic_loss(discriminator(generator(z)), True)
        _descend(of_generator, generator, generator_optimizer)
    return GanLosses(of_real.detach(), of_fake.detach(), of_generator.detach())


def _descend(loss: Tensor, model: nn.Module, optimizer: Optimizer) -> None:
    """Update `model` alone: the generator's loss passes the discriminator and leaves nothing there."""
    optimizer.zero_grad()
    loss.backward(inputs=list(model.parameters()))
    optimizer.step()
