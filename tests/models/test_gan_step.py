import copy

import pytest
import torch

from raid.models.dcgan import discriminator, generator
from raid.models.gan_step import gan_optimizer, gan_step, logistic_loss

SIZE = {"height": 32, "width": 16, "base": 2}
TIGHT = {"rtol": 1e-9, "atol": 1e-11}


def networks(form="released"):
    maker = generator(**SIZE, num_latent=5, form=form, seed=0).double()
    judge = discriminator(**SIZE, form=form, seed=1).double()
    return maker, judge


def batch(step, count=6):
    numbers = torch.Generator().manual_seed(step)
    real = 2 * torch.rand(count, 3, 32, 16, generator=numbers, dtype=torch.float64) - 1
    return real, 2 * torch.rand(count, 5, generator=numbers, dtype=torch.float64) - 1


class PlainAdam:
    """Kingma and Ba, algorithm 1, with the constants of the paper."""

    def __init__(self, model):
        self.parameters = list(model.parameters())
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    def descend(self, loss):
        self.steps += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.first[i] = 0.5 * self.first[i] + 0.5 * gradient
            self.second[i] = 0.999 * self.second[i] + 0.001 * gradient**2
            first, second = self.first[i] / (1 - 0.5**self.steps), self.second[i] / (1 - 0.999**self.steps)
            parameter.data -= 2e-4 * first / (second.sqrt() + 1e-8)


def plain_step(maker, judge, maker_adam, judge_adam, real, z, generator_steps=2):
    """A batch of the release: probabilities by the sigmoid, and the losses by their definition."""
    fake = maker(z).detach()
    of_real = -torch.log(torch.sigmoid(judge(real))).sum() / len(real)
    of_fake = -torch.log(1 - torch.sigmoid(judge(fake))).sum() / len(z)
    judge_adam.descend(of_real + of_fake)
    for _ in range(generator_steps):
        of_maker = -torch.log(torch.sigmoid(judge(maker(z)))).sum() / len(z)
        maker_adam.descend(of_maker)
    return of_real.item(), of_fake.item(), of_maker.item()


def assert_same(model, other, **tolerance):
    for key, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value, msg=key, **tolerance)


@pytest.mark.parametrize("generator_steps", [1, 2])
@pytest.mark.parametrize("form", ["released", "paper"])
def test_steps_equal_plain_ones(form, generator_steps):
    maker, judge = networks(form)
    plain = copy.deepcopy([maker, judge])
    plain_adams = [PlainAdam(model) for model in plain]
    optimizers = [gan_optimizer(maker), gan_optimizer(judge)]
    for step in range(3):
        real, z = batch(step)
        losses = gan_step(maker, judge, *optimizers, real, z, generator_steps=generator_steps)
        expected = plain_step(*plain, *plain_adams, real, z, generator_steps)
        found = [float(losses.real), float(losses.fake), float(losses.generator)]
        assert found == pytest.approx(list(expected), rel=1e-10)
        assert not any(value.requires_grad for value in (losses.real, losses.fake, losses.generator))
    assert_same(maker, plain[0], **TIGHT)  # the running statistics too
    assert_same(judge, plain[1], **TIGHT)
    assert int(maker.norm0.num_batches_tracked) == 3 * (1 + generator_steps)


def test_real_and_generated_pictures_are_normalised_apart():
    maker, judge = networks()
    real, z = batch(0)
    with torch.no_grad():
        made = copy.deepcopy(maker)(z)
        together = copy.deepcopy(judge)(torch.cat([real, made]))
        mixed = float(logistic_loss(together[: len(real)], True))
    losses = gan_step(maker, judge, gan_optimizer(maker), gan_optimizer(judge), real, z)
    assert abs(float(losses.real) - mixed) > 1e-4


def test_each_update_moves_its_own_network():
    maker, judge = networks()
    before = [copy.deepcopy(maker), copy.deepcopy(judge)]
    real, z = batch(0)
    still = torch.optim.SGD(judge.parameters(), lr=0.0)
    gan_step(maker, judge, gan_optimizer(maker), still, real, z)
    for own, old in zip(judge.parameters(), before[1].parameters(), strict=True):
        assert torch.equal(own, old)
    for own, old in zip(maker.parameters(), before[0].parameters(), strict=True):
        assert not torch.equal(own, old)
    left = [parameter.grad for parameter in judge.parameters()]
    gan_step(before[0], before[1], gan_optimizer(before[0]), still, real, z, generator_steps=1)
    # What its own loss left there, and nothing of the generator's, however many steps that took.
    for own, parameter in zip(left, before[1].parameters(), strict=True):
        assert torch.equal(own, parameter.grad)


def test_a_step_after_samples_were_made_is_the_same():
    ends = []
    for in_evaluation in (False, True):
        maker, judge = networks()
        optimizers = [gan_optimizer(maker), gan_optimizer(judge)]
        for step in range(2):
            maker.train(not in_evaluation)
            judge.train(not in_evaluation)
            gan_step(maker, judge, *optimizers, *batch(step))
        ends.append((maker, judge))
    assert_same(ends[0][0], ends[1][0], rtol=0, atol=0)
    assert_same(ends[0][1], ends[1][1], rtol=0, atol=0)


def test_the_optimiser_is_dcgans():
    maker, _ = networks()
    (parameters,) = gan_optimizer(maker).param_groups
    assert (parameters["lr"], parameters["betas"], parameters["eps"]) == (2e-4, (0.5, 0.999), 1e-8)
    assert parameters["weight_decay"] == 0
    assert gan_optimizer(maker, 1e-3, 0.9).param_groups[0]["betas"] == (0.9, 0.999)


def test_large_logits_have_finite_losses():
    logits = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    for is_real in (True, False):
        loss = logistic_loss(logits, is_real)
        assert loss.item() == pytest.approx((1e4 + 0.6931472) / 3)
        (gradient,) = torch.autograd.grad(loss, logits)
        expected = [-1 / 3, -1 / 6, 0] if is_real else [0, 1 / 6, 1 / 3]
        assert gradient.tolist() == pytest.approx(expected)
