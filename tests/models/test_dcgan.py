import functools
import math

import pytest
import torch
from torch import nn

from raid.models.dcgan import discriminator, generate, generator, to_uint8, to_unit

FORMS = ["released", "paper"]
SMALL = {"height": 32, "width": 16, "base": 4}


@functools.cache
def at_the_papers_size(build, form="released"):
    return build(form=form, seed=3)


def noise(count, length=100, seed=0, dtype=torch.float32):
    numbers = torch.rand(count, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return 2 * numbers - 1


def pictures(count, height=32, width=16, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(count, 3, height, width, generator=generator, dtype=dtype) - 1


def shapes(model, inputs):
    """The shape of what every layer gives, by name."""
    found = {}
    with torch.no_grad():
        for name, layer in model.named_children():
            inputs = layer(inputs)
            found[name] = tuple(inputs.shape[1:])
    return found


def test_shapes_of_the_paper():
    found = shapes(at_the_papers_size(generator), noise(2))
    maps = [found["map"], *(found[f"deconvolution{i}"] for i in (1, 2, 3, 4))]
    assert maps == [(512, 8, 8), (256, 16, 16), (128, 32, 32), (64, 64, 64), (3, 128, 128)]
    found = shapes(at_the_papers_size(discriminator), pictures(2, 128, 128))
    maps = [found[f"convolution{i}"] for i in (1, 2, 3, 4)]
    assert maps == [(64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]
    assert (found["row"], found["logit"]) == ((32768,), ())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("height", "width", "base"), [(16, 16, 1), (64, 32, 16), (48, 112, 2), (128, 64, 4)])
def test_other_sizes(height, width, base, form):
    size = {"height": height, "width": width, "base": base, "form": form}
    made = generator(**size, num_latent=7, seed=0).eval()(noise(3, 7))
    assert made.shape == (3, 3, height, width)
    assert bool((made.abs() <= 1).all())
    logits = discriminator(**size, seed=0).eval()(made)
    assert logits.shape == (3,)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_numbers_of_parameters():
    # Linear with its bias, the norms' weight and bias, 5 x 5 kernels; a bias where no norm follows.
    assert count(at_the_papers_size(generator)) == (
        (100 * 32768 + 32768)
        + 2 * (512 + 256 + 128 + 64)
        + 25 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
        + 3
    )
    assert count(at_the_papers_size(generator)) == 7_617_091
    assert count(at_the_papers_size(discriminator)) == (
        25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512) + (32768 + 1)
    )
    assert count(at_the_papers_size(discriminator)) == 4_340_225
    # The last deconvolution and the first convolution have a norm in place of the bias.
    assert count(at_the_papers_size(generator, "paper")) == 7_617_091 + 3
    assert count(at_the_papers_size(discriminator, "paper")) == 4_340_225 + 64


def kinds(model):
    return [type(layer).__name__ for layer in model if not isinstance(layer, nn.Unflatten | nn.Flatten)]


def test_the_layers_of_both_forms():
    hidden = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    start = ["Linear", "BatchNorm2d", "ReLU", *3 * hidden, "ConvTranspose2d"]
    assert kinds(generator(**SMALL, seed=0)) == [*start, "Tanh"]
    assert kinds(generator(**SMALL, form="paper", seed=0)) == [*start, "BatchNorm2d", "Tanh"]
    leaky = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds(discriminator(**SMALL, seed=0)) == ["Conv2d", "LeakyReLU", *3 * leaky, "Linear"]
    plain = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds(discriminator(**SMALL, form="paper", seed=0)) == [*4 * plain, "Linear"]
    slopes = {
        layer.negative_slope for layer in discriminator(**SMALL, seed=0) if hasattr(layer, "negative_slope")
    }
    assert slopes == {0.2}
    for build in (generator, discriminator):
        norms = [layer for layer in build(**SMALL, seed=0) if isinstance(layer, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_initial_weights():
    for build in (generator, discriminator):
        for layer in at_the_papers_size(build):
            if isinstance(layer, nn.BatchNorm2d):
                assert bool((layer.weight == 1).all())
            elif isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                weights, truncated = layer.weight.detach(), isinstance(layer, nn.Conv2d)
                # A normal distribution that is cut at two deviations has .8796 of its deviation.
                deviation = 0.02 * (0.8796 if truncated else 1)
                tolerance = 4 / math.sqrt(weights.numel())
                assert float(weights.std()) == pytest.approx(deviation, rel=tolerance)
                assert abs(float(weights.mean())) < tolerance * deviation
                if truncated:
                    assert 0.039 < float(weights.abs().max()) <= 0.04
                elif weights.numel() > 10_000:
                    assert float(weights.abs().max()) > 0.05
            if getattr(layer, "bias", None) is not None:
                assert not layer.bias.any()


@pytest.mark.parametrize("build", [generator, discriminator])
def test_the_seed_alone_decides_the_weights(build, monkeypatch):
    expected = build(**SMALL, seed=3).state_dict()
    torch.manual_seed(12)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded the GPUs"))
    before = torch.get_rng_state()
    again, other = build(**SMALL, seed=3).state_dict(), build(**SMALL, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, expected[key]) for key, value in again.items())
    drawn = [key for key in expected if key.endswith("weight") and "norm" not in key]
    assert len(drawn) == 5
    assert not any(torch.equal(other[key], expected[key]) for key in drawn)


def plain_deconvolution(maps, weight):
    """Each pixel of `maps` (B, C, H, W) paints its kernel, `weight` (C, D, 5, 5), around twice its place."""
    batch, _, height, width = maps.shape
    painted = torch.zeros(batch, weight.shape[1], 2 * height, 2 * width, dtype=maps.dtype)
    for y in range(height):
        for x in range(width):
            for dy in range(5):
                for dx in range(5):
                    to_y, to_x = 2 * y + dy - 2, 2 * x + dx - 2
                    if 0 <= to_y < 2 * height and 0 <= to_x < 2 * width:
                        painted[:, :, to_y, to_x] += maps[:, :, y, x] @ weight[:, :, dy, dx]
    return painted


def plain_convolution(maps, weight):
    """Every second pixel of `maps` (B, C, H, W) sees 5 x 5 neighbours; `weight` (D, C, 5, 5)."""
    batch, _, height, width = maps.shape
    seen = torch.zeros(batch, len(weight), height // 2, width // 2, dtype=maps.dtype)
    for y in range(height // 2):
        for x in range(width // 2):
            for dy in range(5):
                for dx in range(5):
                    at_y, at_x = 2 * y + dy - 2, 2 * x + dx - 2
                    if 0 <= at_y < height and 0 <= at_x < width:
                        seen[:, :, y, x] += maps[:, :, at_y, at_x] @ weight[:, :, dy, dx].T
    return seen


def test_a_layer_of_each_equals_loops():
    numbers = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 8, 3, 2, generator=numbers, dtype=torch.float64)
    with torch.no_grad():
        layer = generator(**SMALL, seed=0).double().deconvolution3
        torch.testing.assert_close(
            layer(maps), plain_deconvolution(maps, layer.weight), rtol=1e-12, atol=1e-14
        )
        maps = torch.randn(2, 4, 6, 4, generator=numbers, dtype=torch.float64)
        layer = discriminator(**SMALL, seed=0).double().convolution2
        torch.testing.assert_close(layer(maps), plain_convolution(maps, layer.weight), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_every_parameter(form):
    maker = generator(**SMALL, form=form, seed=0).double()
    judge = discriminator(**SMALL, form=form, seed=1).double()
    judge(maker(noise(6, dtype=torch.float64))).square().sum().backward()
    for model in (maker, judge):
        for name, parameter in model.named_parameters():
            assert float(parameter.grad.abs().max()) > 1e-12, name


def test_the_judge_sees_every_pixel():
    judge = discriminator(**SMALL, seed=1).eval()
    images = pictures(2).requires_grad_()
    judge(images).sum().backward()
    assert bool((images.grad != 0).all())


@pytest.mark.parametrize("form", FORMS)
def test_generated_pictures_are_of_their_own_row_alone(form):
    maker = generator(**SMALL, form=form, seed=0)
    for seed in range(20):
        maker.train()(noise(8, seed=seed))
    z, before = noise(6, seed=99), {key: value.clone() for key, value in maker.state_dict().items()}
    images = generate(maker, z)
    assert images.shape == (6, 3, 32, 16)
    assert images.dtype == torch.uint8
    assert maker.training
    assert all(torch.equal(value, before[key]) for key, value in maker.state_dict().items())
    assert torch.equal(generate(maker, z), images)
    alone = torch.cat([generate(maker, row[None]) for row in z]).int()
    assert int((alone - images.int()).abs().max()) <= 1  # a batch of another size rounds otherwise
    assert len({tuple(image.flatten().tolist()) for image in images}) == 6
    in_training = to_uint8(maker(z).detach())
    assert int((in_training.int() - images.int()).abs().max()) > 1
    maker.eval()
    generate(maker, z)
    assert not maker.training


def test_pixels_there_and_back():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    for dtype in (torch.float32, torch.float64):
        unit = to_unit(every, dtype=dtype)
        assert unit.dtype == dtype
        assert (float(unit.min()), float(unit.max())) == (-1, 1)
        assert torch.equal(to_uint8(unit), every)
    assert to_uint8(torch.tensor([-3.0, -1.0, -0.997, 0.0, 0.004, 1.0, 9.0])).tolist() == [
        0,
        0,
        0,
        128,
        128,
        255,
        255,
    ]


@pytest.mark.parametrize("build", [generator, discriminator])
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"height": 120}, "height 120 is no multiple of 16"),
        ({"width": 0}, "width 0 is no multiple of 16"),
        ({"form": "neither"}, "form 'neither' is none of released, paper"),
    ],
)
def test_what_cannot_be_built_is_refused(build, options, reason):
    with pytest.raises(ValueError, match=reason):
        build(**options, seed=0)
