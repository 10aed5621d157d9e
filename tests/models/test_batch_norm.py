import pytest
import torch
from torch import nn

from raid.distributed.group import Group
from raid.models.batch_norm import norm_factory, pending_statistics, update_running_statistics

CHANNELS = 5
SHAPES = [(12, CHANNELS), (12, CHANNELS, 4, 3)]
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def random_rows(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1


def layer_of(mode, group_size=12):
    """A layer in float64 with nothing left at its neutral value."""
    factory = norm_factory(mode, group_size=group_size, all_reduce_sum=Group.solo().all_reduce_sum)
    layer = factory(CHANNELS).double()
    values = random_rows((4, CHANNELS), seed=99)
    with torch.no_grad():
        layer.weight.copy_(values[0])
        layer.bias.copy_(values[1])
    layer.running_mean.copy_(values[2])
    layer.running_var.copy_(values[3].abs() + 0.1)
    return layer


def torchs(layer, rows):
    """torch's own layer with the same parameters and running statistics."""
    own = (nn.BatchNorm2d if rows.dim() == 4 else nn.BatchNorm1d)(layer.num_features).double()
    own.load_state_dict(layer.state_dict())
    return own


def finish_step(layer):
    statistics = pending_statistics(layer)
    if statistics is not None:
        update_running_statistics(layer, statistics)


def gradients(output, *inputs):
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((weights * output.square()).sum(), inputs)


def plain_ghost(layer, rows, group_size):
    """torch's layer group after group; the running statistics move once, towards the groups' mean."""
    outputs, means, variances = [], [], []
    for group in rows.split(group_size):
        own = torchs(layer, rows)
        own.momentum = 1.0
        own.weight, own.bias = layer.weight, layer.bias
        outputs.append(own(group))
        means.append(own.running_mean)
        variances.append(own.running_var)
    mean = 0.9 * layer.running_mean + 0.1 * sum(means) / len(means)
    variance = 0.9 * layer.running_var + 0.1 * sum(variances) / len(variances)
    return torch.cat(outputs), mean, variance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["ghost", "sync", "local"])
def test_one_group_equals_torch(mode, shape):
    layer, rows = layer_of(mode), random_rows(shape).requires_grad_()
    own = torchs(layer, rows)
    output, expected = layer(rows), own(rows)
    torch.testing.assert_close(output, expected, **TIGHT)
    torch.testing.assert_close(
        gradients(output, rows, layer.weight, layer.bias),
        gradients(expected, rows, own.weight, own.bias),
        **TIGHT,
    )
    finish_step(layer)
    torch.testing.assert_close(layer.running_mean, own.running_mean, **TIGHT)
    torch.testing.assert_close(layer.running_var, own.running_var, **TIGHT)


def test_running_variance_is_unbiased():
    for mode in ("ghost", "sync", "local"):
        layer, rows = layer_of(mode), random_rows((12, CHANNELS))
        before = layer.running_var.clone()
        layer(rows)
        finish_step(layer)
        expected = 0.9 * before + 0.1 * rows.var(dim=0, correction=1)
        torch.testing.assert_close(layer.running_var, expected, **TIGHT)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group_size", [2, 3, 4, 6])
def test_ghost_equals_torch_group_after_group(shape, group_size):
    layer, rows = layer_of("ghost", group_size), random_rows(shape).requires_grad_()
    expected, mean, variance = plain_ghost(layer, rows, group_size)
    output = layer(rows)
    torch.testing.assert_close(output, expected, **TIGHT)
    inputs = (rows, layer.weight, layer.bias)
    torch.testing.assert_close(gradients(output, *inputs), gradients(expected, *inputs), **TIGHT)
    finish_step(layer)
    torch.testing.assert_close(layer.running_mean, mean, **TIGHT)
    torch.testing.assert_close(layer.running_var, variance, **TIGHT)


@pytest.mark.parametrize("shape", SHAPES)
def test_local_over_workers_is_ghost_over_as_many_groups(shape):
    rows = random_rows(shape)
    ghost, workers = layer_of("ghost", 6), [layer_of("local"), layer_of("local")]
    outputs = [worker(half) for worker, half in zip(workers, rows.split(6), strict=True)]
    torch.testing.assert_close(torch.cat(outputs), ghost(rows), rtol=0, atol=0)
    gathered = torch.cat([pending_statistics(worker) for worker in workers])
    assert torch.equal(gathered, pending_statistics(ghost))
    assert gathered.shape == (2, 2 * CHANNELS)


@pytest.mark.parametrize("mode", ["ghost", "sync", "local"])
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_equals_torch_and_changes_nothing(mode, shape):
    layer, rows = layer_of(mode).eval(), random_rows(shape).requires_grad_()
    own, before = torchs(layer, rows).eval(), {k: v.clone() for k, v in layer.state_dict().items()}
    output, expected = layer(rows), own(rows)
    assert torch.equal(output, expected)
    torch.testing.assert_close(
        gradients(output, rows, layer.weight), gradients(expected, rows, own.weight), **TIGHT
    )
    assert pending_statistics(layer) is None
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_forward_leaves_the_running_statistics_of_grouped_layers_alone():
    for mode in ("ghost", "local"):
        layer = layer_of(mode)
        before = layer.running_mean.clone()
        layer(random_rows((12, CHANNELS)))
        assert torch.equal(layer.running_mean, before)


def test_permuting_the_rows_of_a_group_permutes_its_outputs():
    layer, rows = layer_of("ghost", 4), random_rows((12, CHANNELS, 4, 3))
    generator = torch.Generator().manual_seed(1)
    inside = torch.cat([start + torch.randperm(4, generator=generator) for start in (0, 4, 8)])
    torch.testing.assert_close(layer(rows[inside]), layer(rows)[inside], **TIGHT)
    across = torch.arange(12).roll(1)
    assert not torch.allclose(layer(rows[across]), layer(rows)[across])


def test_rows_must_be_whole_groups():
    with pytest.raises(AssertionError, match="10 rows are not whole groups of 4"):
        layer_of("ghost", 4)(random_rows((10, CHANNELS)))


def test_statistics_of_a_model_travel_as_one_tensor():
    factory = norm_factory("ghost", group_size=4, all_reduce_sum=Group.solo().all_reduce_sum)
    model = nn.Sequential(nn.Linear(5, 3), factory(3), nn.Linear(3, 7), factory(7)).double()
    twin = nn.Sequential(nn.Linear(5, 3), factory(3), nn.Linear(3, 7), factory(7)).double()
    twin.load_state_dict(model.state_dict())
    rows = random_rows((12, 5))
    model(rows)
    statistics = pending_statistics(model)
    assert statistics.shape == (3, 2 * 3 + 2 * 7)
    assert not statistics.requires_grad
    assert pending_statistics(model) is None
    update_running_statistics(model, statistics)
    for group in rows.split(4):  # group after group, as in the exact mode
        twin(group)
    update_running_statistics(twin, pending_statistics(twin))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[key], **TIGHT)
    assert not torch.equal(model[3].running_mean, torch.zeros(7, dtype=torch.float64))


def test_a_model_without_grouped_layers_has_no_statistics():
    layer = layer_of("sync")
    layer(random_rows((12, CHANNELS)))
    assert pending_statistics(layer) is None
    assert pending_statistics(nn.Linear(2, 2)) is None


def test_statistics_of_half_precision_rows_are_float32():
    factory = norm_factory("ghost", group_size=4, all_reduce_sum=Group.solo().all_reduce_sum)
    layer, rows = factory(CHANNELS), random_rows((8, CHANNELS, 2, 2))
    layer(rows.bfloat16())
    mean, variance = pending_statistics(layer).mean(0).view(2, CHANNELS)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.double(), rows.mean((0, 2, 3)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("mode", ["ghost", "sync", "local"])
def test_state_dict_has_torchs_names(mode):
    state = layer_of(mode).state_dict()
    own = nn.BatchNorm1d(CHANNELS).double()
    assert set(state) == set(own.state_dict()) - {"num_batches_tracked"}
    own.load_state_dict(state)  # strict
    assert torch.equal(own.running_var, state["running_var"])
    assert own.eps == layer_of(mode).eps
    assert own.momentum == layer_of(mode).momentum


def test_new_layers_start_like_torchs():
    layer = norm_factory("ghost", group_size=4, all_reduce_sum=Group.solo().all_reduce_sum)(CHANNELS)
    own = nn.BatchNorm1d(CHANNELS).state_dict()
    assert all(torch.equal(value, own[key]) for key, value in layer.state_dict().items())


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'batch' is none of ghost, sync, local"):
        norm_factory("batch", group_size=4, all_reduce_sum=Group.solo().all_reduce_sum)
