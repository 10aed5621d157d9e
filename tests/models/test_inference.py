import pytest
import torch
from torch import nn

from raid.models.backbone import BackboneName, build
from raid.models.batch_norm import BatchNorm, norm_factory
from raid.models.inference import for_evaluation

# Convolutions that a batch norm alone reads. IBN-a splits what its first norm reads; of DenseNet's layers
# the first convolution's output goes to a norm, the second's to all later layers; its stem's to a norm.
PAIRS = {"resnet10": 12, "resnet18_ibn_a": 14, "resnet50": 53, "densenet121": 59}


def network(name: BackboneName = "resnet10", mode: str = "ghost", **options):
    """With statistics, scales and biases of some training."""
    norm = norm_factory(mode, group_size=2, all_reduce_sum=lambda value: value)
    made = build(name, norm=norm, seed=0, **options).double()
    draw = torch.Generator().manual_seed(1)
    for module in made.modules():
        if isinstance(module, BatchNorm):
            for value, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
            ):  # fmt: skip
                value.data.uniform_(low, high, generator=draw)
    return made


def images(seed=2):
    return torch.rand(3, 3, 48, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def num_norms(model):
    return sum(isinstance(module, BatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", PAIRS)
def test_features_are_those_of_the_network(name):
    model = network(name)
    fast = for_evaluation(model)
    assert num_norms(model) - num_norms(fast) == PAIRS[name]
    with torch.no_grad():
        for computed in ("maps", "pooled", "forward"):
            found, expected = getattr(fast, computed)(images()), getattr(model.eval(), computed)(images())
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options", [{"pool": "average", "neck": False, "final_relu": False}, {"last_stride": 2}, {"mode": "sync"}]
)
def test_features_of_other_networks(options):
    model = network("resnet50", **options)
    with torch.no_grad():
        found, expected = for_evaluation(model)(images()), model.eval()(images())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert options.get("final_relu", True) or (model.maps(images()) < 0).any()


def test_the_network_is_left_as_it_is():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = {name: type(module) for name, module in model.named_modules()}
    fast = for_evaluation(model)
    with torch.no_grad():
        for value in fast.parameters():
            if value.dim() == 4:
                value.zero_()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in fast.modules())
    assert {name: type(module) for name, module in model.named_modules()} == places
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in (*model.modules(), *fast.modules()))


def test_a_convolution_that_is_read_twice_is_not_folded():
    """Its other reader wants what it was."""

    class Twice(nn.Module):
        def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
            super().__init__()
            self.convolution, self.norm = convolution, norm

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            maps = self.convolution(rows)
            return self.norm(maps) + maps

    model = network()
    model.body.conv1 = Twice(model.body.conv1, model.body.bn1)
    model.body.bn1 = nn.Identity()
    with torch.no_grad():
        found, expected = for_evaluation(model)(images()), model.eval()(images())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_filters_have_their_channels_last():
    fast = for_evaluation(network("resnet50"))
    filters = [module.weight for module in fast.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)


def test_float32_features_have_the_same_direction():
    model = network("resnet50").float()
    with torch.no_grad():
        found, expected = for_evaluation(model)(images().float()), model.eval()(images().float())
    assert ((found * expected).sum(1) > 0.9999).all()
