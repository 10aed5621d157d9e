import copy
import functools
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from raid.distributed.group import Group
from raid.models.backbone import AveragePool, GeM, InstanceBatchNorm, build
from raid.models.batch_norm import BatchNorm, norm_factory, pending_statistics
from raid.models.weights import backbone_keys

NAMES = ["resnet10", "resnet18", "resnet50", "resnet18_ibn_a", "resnet50_ibn_a", "densenet121"]
DIMS = {"resnet10": 512, "resnet18": 512, "resnet50": 2048, "densenet": 1024}
NORM = norm_factory("ghost", group_size=2, all_reduce_sum=Group.solo().all_reduce_sum)


@functools.cache
def built(name, last_stride=1):
    return build(name, norm=NORM, seed=3, last_stride=last_stride).eval()


def random_images(count=4, height=64, width=32, seed=0):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def map_size(model, images):
    sizes = []
    handle = model.body.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape))
    with torch.no_grad():
        model(images)
    handle.remove()
    return tuple(sizes[0])


@pytest.mark.parametrize("name", NAMES)
def test_features_are_unit_rows_in_training_and_evaluation(name):
    model = built(name)
    dims = DIMS[name[:8]]
    assert model.num_features == dims
    for training in (True, False):
        with torch.no_grad():
            features = model.train(training)(random_images())
        assert features.shape == (4, dims)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(4))
        assert not torch.allclose(features[0], features[1])
    assert not model.training


@pytest.mark.parametrize("name", NAMES)
def test_last_stride_sets_the_size_of_the_map(name):
    dims = DIMS[name[:8]]
    images = random_images(2)
    assert map_size(built(name), images) == (2, dims, 4, 2)
    assert map_size(built(name, last_stride=2), images) == (2, dims, 2, 1)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_a_whole_image_gives_a_16_by_8_map(name):
    assert map_size(built(name), random_images(1, 256, 128))[-2:] == (16, 8)


@pytest.mark.parametrize(
    ("name", "num_convolutions"), [("resnet18", 20), ("resnet18_ibn_a", 20), ("densenet121", 120)]
)
def test_the_seed_alone_decides_the_weights(name, num_convolutions):
    torch.manual_seed(12)
    again = build(name, norm=NORM, seed=3)
    expected = built(name).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
    other = build(name, norm=NORM, seed=4).state_dict()
    convolutions = [key for key in expected if expected[key].dim() == 4]
    assert len(convolutions) == num_convolutions
    assert not any(torch.equal(other[key], expected[key]) for key in convolutions)


def test_the_ambient_generators_are_left_alone(monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded the GPUs"))
    build("resnet18", norm=NORM, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_norm_is_the_one_asked_for():
    counts = {"resnet10": 13, "resnet18": 21, "resnet50": 54, "densenet": 122}
    for name in NAMES:
        modules = list(built(name).modules())
        assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
        assert sum(isinstance(module, BatchNorm) for module in modules) == counts[name[:8]]


@pytest.mark.parametrize("name", NAMES)
def test_the_neck_starts_neutral_and_its_bias_is_frozen(name):
    model = built(name)
    frozen = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["neck.bias"]
    assert torch.equal(model.neck.weight, torch.ones(model.num_features))
    assert not model.neck.bias.any()


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "densenet121"])
def test_a_training_step_reaches_every_parameter_that_is_not_frozen(name):
    model = build(name, norm=NORM, seed=0).train()
    model(random_images())[:, :3].sum().backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == ["neck.bias"]


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet50_ibn_a"])
def test_ibn_a_is_the_first_norm_of_every_block_of_stages_1_to_3(name):
    body = built(name).body
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for block in getattr(body, stage):
            assert isinstance(block.bn1, InstanceBatchNorm) == (stage != "layer4")
            assert isinstance(block.bn2, BatchNorm)
    assert isinstance(body.bn1, BatchNorm)
    block = body.layer2[0]
    channels = block.conv1.out_channels
    assert block.bn1.instance.num_features == block.bn1.batch.num_features == channels // 2


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels", [6, 7])
def test_ibn_a_splits_the_channels(channels, training):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, channels, 4, 3, generator=generator, dtype=torch.float64)
    layer = InstanceBatchNorm(channels, NORM).double().train(training)
    instance = nn.InstanceNorm2d(3, affine=True).double()
    batch = nn.BatchNorm2d(channels - 3).double().train(training)
    for module in (instance, batch):
        nn.init.normal_(module.weight, generator=generator)
        nn.init.normal_(module.bias, generator=generator)
    batch.running_mean.normal_(generator=generator)
    layer.instance.load_state_dict(instance.state_dict())
    layer.batch.load_state_dict(batch.state_dict(), strict=False)
    expected = torch.cat([instance(maps[:, :3]), batch(maps[:, 3:])], dim=1)
    torch.testing.assert_close(layer(maps), expected, rtol=1e-12, atol=1e-12)


def plain_gem(maps, exponent, minimum=1e-6):
    rows = []
    for image in maps:
        channels = []
        for channel in image:
            powers = [max(float(value), minimum) ** exponent for value in channel.flatten()]
            channels.append((sum(powers) / len(powers)) ** (1 / exponent))
        rows.append(channels)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("exponent", [1.0, 2.5, 3.0])
def test_gem_equals_the_plain_form(exponent):
    maps = random_images(2, 4, 3).double()
    pooled = GeM(exponent).double()(maps)
    torch.testing.assert_close(pooled, plain_gem(maps, exponent), rtol=1e-12, atol=0)


def test_gem_lies_between_the_mean_and_the_maximum():
    maps = random_images().double().abs() + 0.1
    average, largest = AveragePool()(maps), maps.amax((-2, -1))
    torch.testing.assert_close(average, maps.mean((2, 3)))
    torch.testing.assert_close(GeM(1.0).double()(maps), average)
    assert bool(((GeM().double()(maps) > average) & (GeM().double()(maps) < largest)).all())
    torch.testing.assert_close(GeM(400.0).double()(maps), largest, rtol=0.02, atol=0)


def test_gem_gradients():
    pool = GeM().double()
    maps = random_images(2, 3, 2).double().requires_grad_()
    assert bool((maps < 0).any())
    exponent = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda maps, exponent: functional_call(pool, {"exponent": exponent}, (maps,)), (maps, exponent)
    )


def test_gem_has_one_exponent_of_3():
    assert torch.equal(built("resnet50").pool.exponent, torch.tensor([3.0]))
    average = build("resnet18", norm=NORM, seed=3, pool="average")
    assert isinstance(average.pool, AveragePool)
    assert not any(key.startswith("pool.") for key in average.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_raw_features_are_for_training_alone(training):
    model = build("resnet10", norm=NORM, seed=3).train(training)
    with torch.no_grad():
        unit = model(random_images())
        model.unit_features = False
        features = model(random_images())
    if training:
        torch.testing.assert_close(nn.functional.normalize(features), unit)
        assert bool((features.norm(dim=1) > 2).all())
    else:
        assert torch.equal(features, unit)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("neck", [True, False])
def test_maps_pooled_features_and_unit_features_follow_from_each_other(training, neck):
    model = build("resnet10", norm=NORM, seed=3, neck=neck).train(training)
    images = random_images()
    with torch.no_grad():
        maps, pooled, unit = model.maps(images), model.pooled(images), model(images)
    assert maps.dim() == 4
    assert maps.shape[:2] == (len(images), model.num_features)
    assert bool((maps >= 0).all())
    with torch.no_grad():
        assert torch.equal(model.neck(model.pool(maps)), pooled)
    assert torch.equal(nn.functional.normalize(pooled), unit)
    assert bool((pooled.norm(dim=1) > 1.5).all())


def test_without_a_neck_the_features_are_the_pooled_map():
    model = build("resnet10", norm=NORM, seed=3, neck=False).train()
    model.unit_features = False
    with_neck = build("resnet10", norm=NORM, seed=3).state_dict()
    state = model.state_dict()
    assert set(with_neck) - set(state) == {key for key in with_neck if key.startswith("neck.")}
    assert all(torch.equal(value, with_neck[key]) for key, value in state.items())
    with torch.no_grad():
        images = random_images()
        assert torch.equal(model(images), model.pool(model.body(images)))
    assert all(parameter.requires_grad for parameter in model.parameters())


def last_block(model, images):
    """What goes into the last block, and what its last norm gives."""
    seen = []
    block = model.body.layer4[-1]
    norm = getattr(block, "bn3", block.bn2)
    handles = [
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone())),
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output.clone())),
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet50"])
def test_without_the_final_relu_the_last_block_ends_with_the_sum(name):
    images = random_images(2)
    common = {"norm": NORM, "seed": 3, "pool": "average"}
    usual, model = build(name, **common), build(name, **common, final_relu=False)
    assert list(model.state_dict()) == list(usual.state_dict())
    with torch.no_grad():
        before, branch = last_block(usual, images)
        downsample = usual.body.layer4[-1].downsample
        expected = branch + (before if downsample is None else downsample(before))
        found = copy.deepcopy(pickle.loads(pickle.dumps(model))).body(images)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found.relu(), usual.body(images))
    assert bool((found < -0.1).any())
    usual.body(images).sum().backward()
    model.body(images).relu().sum().backward()  # the inner ReLUs have gradients as before
    for (key, value), other in zip(usual.body.named_parameters(), model.body.parameters(), strict=True):
        torch.testing.assert_close(other.grad, value.grad, msg=key)


def test_gem_without_the_final_relu_is_refused():
    with pytest.raises(ValueError, match="without the final ReLU use average"):
        build("resnet18", norm=NORM, seed=0, final_relu=False)


def test_without_the_final_relu_densenets_map_is_its_last_norm():
    common = {"norm": NORM, "seed": 3, "pool": "average"}
    usual, model = build("densenet121", **common), build("densenet121", **common, final_relu=False)
    assert list(model.state_dict()) == list(usual.state_dict())
    with torch.no_grad():
        found = model.body(random_images(2))
        assert torch.equal(found.relu(), usual.body(random_images(2)))
    assert bool((found < -0.1).any())


def torchvisions(architecture):
    """Torchvision's network with no norm left neutral, and a list of what its classifier is given."""
    network = getattr(torchvision.models, architecture)(weights=None)
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(std=0.2, generator=generator)
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    pooled = []
    classifier = network.fc if hasattr(network, "fc") else network.classifier
    classifier.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    return network, pooled


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "densenet121"])
def test_the_map_equals_torchvisions_where_the_weights_are_copied(architecture):
    model = build(architecture, norm=NORM, seed=0, last_stride=2, pool="average").eval()
    network, pooled = torchvisions(architecture)
    missing, unexpected = model.load_state_dict(backbone_keys(network.state_dict()), strict=False)
    assert all(key.startswith("neck.") for key in missing)
    assert unexpected == []
    with torch.no_grad():
        network.eval()(random_images())
        torch.testing.assert_close(model.pool(model.body(random_images())), pooled[0])
    assert pooled[0].std() > 1e-3


@pytest.mark.parametrize("mode", ["ghost", "sync", "local"])
def test_densenet_in_training_equals_torchvisions_group_after_group(mode):
    size = 3 if mode == "ghost" else 6
    norm = norm_factory(mode, group_size=size, all_reduce_sum=Group.solo().all_reduce_sum)
    options = {"last_stride": 2, "pool": "average", "neck": False}
    model = build("densenet121", norm=norm, seed=0, **options).double().train()
    network, pooled = torchvisions("densenet121")
    network.double().train()
    model.load_state_dict(backbone_keys(network.state_dict()))
    images = random_images(6, 64, 64).double()
    found = model.pool(model.body(images))
    for group in images.split(size):
        network(group)
    torch.testing.assert_close(found, torch.cat(pooled), rtol=1e-9, atol=1e-10)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    (weights * found).sum().backward()
    (weights * torch.cat(pooled)).sum().backward()
    gradients = {f"body.{key}": value.grad for key, value in network.named_parameters()}
    for key, value in model.named_parameters():
        torch.testing.assert_close(value.grad, gradients[key], rtol=1e-7, atol=1e-9, msg=key)
    if mode != "sync":
        assert pending_statistics(model).shape == (6 // size, 2 * 41_824)  # 83,648 / 2 channels of 121 norms


@pytest.mark.parametrize("name", ["resnet34", "resnet50_ibn_b", "densenet161", "ibn_a", ""])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="is none of resnet10, resnet18, resnet50"):
        build(name, norm=NORM, seed=0)


@pytest.mark.parametrize("mode", ["ghost", "sync", "local"])
@pytest.mark.parametrize("name", ["resnet10", "resnet18_ibn_a", "densenet121"])
def test_in_autocast_the_convolutions_alone_are_narrow(name, mode):
    norm = norm_factory(mode, group_size=2, all_reduce_sum=Group.solo().all_reduce_sum)
    narrow, wide = (build(name, norm=norm, seed=3, autocast=how) for how in ("bfloat16", "none"))
    seen = set()
    for module in narrow.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    features = narrow(random_images())
    assert seen == {torch.bfloat16}
    assert features.dtype == torch.float32
    assert not torch.equal(features, wide(random_images()))
    features.square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in narrow.parameters() if p.requires_grad)
    assert all(value.dtype == torch.float32 for value in narrow.buffers())
    statistics = pending_statistics(narrow)
    assert statistics is None or statistics.dtype == torch.float32
    evaluated = [model.eval()(random_images()) for model in (narrow, wide)]
    assert (functional.cosine_similarity(*evaluated) > 0.999).all()


def test_autocast_leaves_float64_and_what_is_on_a_cpu_alone():
    images, plain = random_images(), build("resnet10", norm=NORM, seed=3)
    assert torch.equal(build("resnet10", norm=NORM, seed=3, autocast="auto")(images), plain(images))
    narrow = build("resnet10", norm=NORM, seed=3, autocast="bfloat16").double()
    assert torch.equal(narrow(images.double()), plain.double()(images.double()))
