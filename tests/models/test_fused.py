"""Convolutions with the ReLU or the sum after them: as torch's layers, one after the other."""

import pytest
import torch
from models.test_inference import images, network
from torch import fx, nn, profiler

from raid.models.fused import FusedConvolution, fused
from raid.models.inference import folded, for_evaluation

# With a ReLU, and with a sum. A ResNet-50 has a convolution and 16 blocks of three, the last of which takes
# the sum, or that of the shortcut where there is one. Between the first convolutions of IBN-a's six blocks in
# stages 1 to 3 and their ReLUs are norms that are not folded. DenseNet adds nothing.
TAKEN = {"resnet10": (5, 4), "resnet18_ibn_a": (3, 8), "resnet50": (33, 16), "densenet121": (59, 0)}


def taken(module):
    convolutions = [one for one in module.modules() if isinstance(one, FusedConvolution)]
    rectified = sum(one.rectified for one in convolutions)
    return rectified, len(convolutions) - rectified


@pytest.mark.parametrize("name", TAKEN)
def test_float32_features_are_those_of_torchs_layers(name):
    model = network(name).float()
    fast, plain = for_evaluation(model), folded(model)
    assert taken(fast) == TAKEN[name]
    with torch.no_grad():
        for computed in ("maps", "pooled", "forward"):
            found, expected = (getattr(one, computed)(images().float()) for one in (fast, plain))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_block_without_its_last_relu():
    """Whose ReLUs are hooks of its convolutions, which stay as they are."""
    model = network("resnet50", pool="average", neck=False, final_relu=False).float()
    fast, plain = for_evaluation(model), folded(model)
    assert taken(fast) == (31, 15)
    with torch.no_grad():
        found, expected = fast(images().float()), plain(images().float())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (expected < 0).any()


@pytest.mark.parametrize("place", ["conv1", "layer2.0.conv1", "layer2.0.conv2", "layer4.0.downsample.0"])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_what_is_not_finite_is_seen(place, autocast):
    """A diverged model's features are refused: NaN has to get to them."""
    model = network("resnet10", autocast=autocast).float()
    model.body.get_submodule(place).weight.data[0] = torch.nan
    with torch.no_grad():
        assert for_evaluation(model)(images().float()).isnan().all()


bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without bfloat16"
)


@bfloat16
@pytest.mark.parametrize("name", TAKEN)
@torch.no_grad()
def test_half_precision(name):
    """As near to float32 as torch's own layers: what is added and rectified is not rounded before."""
    model = network(name).float()
    exact = folded(model)(images().float())
    model.autocast = "bfloat16"
    fast, plain = for_evaluation(model), folded(model)
    with profiler.profile() as profile:
        found = fast(images().float())
    operations = [event.key for event in profile.key_averages()]
    assert "mkldnn::_convolution_pointwise" in operations
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    lost, lost_by_torch = (1 - (rows * exact).sum(1) for rows in (found, plain(images().float())))
    assert (lost < 1e-4).all()
    assert lost.mean() < 1.5 * lost_by_torch.mean()
    assert torch.equal(fast(images().float()), found)


@bfloat16
@torch.no_grad()
def test_parameters_are_rounded_once():
    model = network("resnet10", autocast="bfloat16").float()
    fast = for_evaluation(model)
    fast(images().float())
    kept = [one._in_half for one in fast.modules() if isinstance(one, FusedConvolution)]
    fast(images().float())
    again = [one._in_half for one in fast.modules() if isinstance(one, FusedConvolution)]
    assert all(one is not None and one is other for one, other in zip(kept, again, strict=True))


def test_what_is_fused_is_not_fused_again():
    fast = for_evaluation(network())
    assert for_evaluation(fast) is fast


class Residual(nn.Module):
    """Maps and a convolution of theirs, put together in some way."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps):
        return self.way(self, maps)


def two(net, maps):
    """Of which the second does not read what is added."""
    return net.third(net.second(maps))


def read_afterwards(net, maps):
    shortcut = net.first(maps)
    return (two(net, shortcut) + shortcut) * shortcut


def read_between(net, maps):
    shortcut = net.first(maps)
    computed = two(net, shortcut)
    doubled = shortcut * 2
    return (computed + shortcut) * doubled


def of_a_view(net, maps):
    shortcut = net.first(maps)
    view = shortcut.flatten(1)
    return (two(net, shortcut) + shortcut).flatten(1) * view


def of_the_input(net, maps):
    return two(net, maps) + maps


def of_what_may_be_the_input(net, maps):
    kept = maps.contiguous()
    return two(net, kept) + kept


def of_a_number(net, maps):
    return net.second(maps) + 1.0


def twice_itself(net, maps):
    computed = net.second(maps)
    return computed + computed


def of_one_convolution_twice(net, maps):
    return net.relu(net.first(maps)) - net.first(maps)


def of_a_relu_in_place(net, maps):
    computed = net.first(maps)
    rectified = net.relu(computed)
    return two(net, rectified) + rectified + computed


def of_its_own_input(net, maps):
    shortcut = net.relu(net.first(maps))
    return net.relu(net.second(shortcut) + shortcut)


def block(net, maps):
    shortcut = net.relu(net.first(maps))
    return net.relu(net.third(net.relu(net.second(shortcut))) + shortcut)


def blocks(net, maps):
    return block(net, block(net, maps))


def of_two_convolutions(net, maps):
    return net.first(maps) + net.second(maps)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        (read_afterwards, (0, 0)), (read_between, (0, 0)), (of_a_view, (0, 0)), (of_the_input, (0, 0)),
        (of_what_may_be_the_input, (0, 0)), (of_a_number, (0, 0)), (twice_itself, (0, 0)),
        (of_one_convolution_twice, (1, 0)),
        (of_a_relu_in_place, (0, 0)), (of_its_own_input, (1, 0)), (block, (2, 1)), (blocks, (4, 2)),
        (of_two_convolutions, (0, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_nothing_is_overwritten_that_is_read(way, expected, dtype):
    body = Residual(way).eval().to(dtype)
    maps = torch.randn(2, 4, 6, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    wanted, kept = body(maps), maps.clone()
    fast = fused(body, fx.Tracer().trace(body))
    assert taken(fast) == expected
    torch.testing.assert_close(fast(maps), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(maps, kept)


@pytest.mark.parametrize("options", [{"padding_mode": "reflect", "padding": 1}, {"padding": "same"}])
@torch.no_grad()
def test_convolutions_of_another_kind_stay(options):
    body = nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.ReLU()).eval()
    fast = fused(body, fx.Tracer().trace(body))
    assert taken(fast) == (0, 0)
    assert torch.equal(fast(images().float()), body(images().float()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2}, {"groups": 3}, {"bias": False}])
@torch.no_grad()
def test_geometries(options, layout):
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=(1, 0), **options), nn.ReLU()).eval()
    maps = (images().float() - 0.5).contiguous(memory_format=layout)
    torch.testing.assert_close(fused(body, fx.Tracer().trace(body))(maps), body(maps), rtol=1e-5, atol=1e-6)
