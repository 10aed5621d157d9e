import math

import pytest
import torch

from raid.data.streams import stream
from raid.distributed.group import Group
from raid.models.batch_norm import norm_factory, pending_statistics, update_running_statistics
from raid.models.heads import Transition, build

NAMES = ["bottleneck", "transition", "none"]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def head_of(name, num_features=6, num_classes=4, group_size=4, **options):
    norm = norm_factory("ghost", group_size=group_size, all_reduce_sum=Group.solo().all_reduce_sum)
    options = {"seed": 0, **options}
    return build(name, num_features=num_features, num_classes=num_classes, norm=norm, **options)


def random_head(name, **options):
    """In float64 and with no parameter at its neutral value."""
    head = head_of(name, **options).double().train()
    numbers = torch.Generator().manual_seed(8)
    for parameter in head.parameters():
        parameter.data += 0.4 * torch.randn(parameter.shape, generator=numbers, dtype=torch.float64)
    return head


def features_of(count, num_features=6, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_features, generator=numbers, dtype=torch.float64)


def plain_block(head, rows, kept):
    """The ClassBlock of one ghost group, entry by entry."""
    block = head.block
    outputs = [[] for _ in rows]
    for j in range(block.width):
        column = [(row * block.linear.weight[j]).sum() + block.linear.bias[j] for row in rows]
        mean = sum(column) / len(column)
        variance = sum((entry - mean) ** 2 for entry in column) / len(column)
        for i, entry in enumerate(column):
            normed = (entry - mean) / torch.sqrt(variance + 1e-5) * block.norm.weight[j] + block.norm.bias[j]
            passed = normed if normed > 0 else 0.1 * normed
            outputs[i].append(2 * passed if kept[i, j] else 0 * passed)
    return torch.stack([torch.stack(row) for row in outputs])


def plain_log_probabilities(head, features, kept, group_size=4):
    rows = features
    if head.block is not None:
        parts = zip(features.split(group_size), kept.split(group_size), strict=True)
        rows = torch.cat([plain_block(head, *part) for part in parts])
    found = []
    for row in rows:
        weights = zip(head.classifier.weight, head.classifier.bias, strict=True)
        logits = [(row * weight).sum() + bias for weight, bias in weights]
        total = sum(torch.exp(logit) for logit in logits)
        p = [torch.exp(logit) / total for logit in logits]
        if head.transition is not None:
            t = [[torch.exp(entry) for entry in line] for line in head.transition.logits]
            p = [sum(p[i] * t[i][j] / sum(t[i]) for i in range(len(p))) for j in range(len(p))]
        found.append(torch.stack([torch.log(probability) for probability in p]))
    return torch.stack(found)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_loops(name):
    head = random_head(name, width=5)  # the loops are slow
    features = features_of(8).requires_grad_()
    kept = head.draw(8, stream(0, 1))
    inputs = [features, *head.parameters()]
    weights = torch.linspace(-1, 2, 32, dtype=torch.float64).view(8, 4)
    found, expected = head(features, kept), plain_log_probabilities(head, features, kept)
    torch.testing.assert_close(found, expected, **TIGHT)
    for one, other in zip(
        torch.autograd.grad((weights * found).sum(), inputs),
        torch.autograd.grad((weights * expected).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, **TIGHT)


def test_shapes_of_the_paper():
    sizes = {}
    for name in NAMES:
        head = head_of(name, num_features=2048, num_classes=751, group_size=8)
        sizes[name] = {key: tuple(value.shape) for key, value in head.named_parameters()}
        logs = head(torch.randn(8, 2048), head.draw(8, stream(0)))
        assert logs.shape == (8, 751)
        torch.testing.assert_close(logs.exp().sum(1), torch.ones(8))
    assert sizes["none"] == {"classifier.weight": (751, 2048), "classifier.bias": (751,)}
    assert sizes["transition"] == {**sizes["none"], "transition.logits": (751, 751)}
    assert sizes["bottleneck"] == {
        "block.linear.weight": (512, 2048),
        "block.linear.bias": (512,),
        "block.norm.weight": (512,),
        "block.norm.bias": (512,),
        "classifier.weight": (751, 512),
        "classifier.bias": (751,),
    }
    assert sum(math.prod(shape) for shape in sizes["bottleneck"].values()) == 1_435_375


def test_initial_weights():
    head = head_of("bottleneck", num_features=1024, num_classes=700).requires_grad_(False)
    block = head.block
    assert float(block.linear.weight.std()) == pytest.approx(math.sqrt(2 / 512), rel=0.01)  # fan_out: 512
    assert float(head.classifier.weight.std()) == pytest.approx(0.001, rel=0.01)
    assert float(block.norm.weight.mean()) == pytest.approx(1, abs=0.004)
    assert float(block.norm.weight.std()) == pytest.approx(0.02, rel=0.15)
    for bias in (block.linear.bias, block.norm.bias, head.classifier.bias):
        assert not bias.any()
    assert head_of("none", 1024, 700).classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_weights(name, monkeypatch):
    expected = head_of(name, seed=3).state_dict()
    torch.manual_seed(12)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded the GPUs"))
    before = torch.get_rng_state()
    again, other = head_of(name, seed=3).state_dict(), head_of(name, seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, expected[key]) for key, value in again.items())
    assert not torch.equal(other["classifier.weight"], expected["classifier.weight"])


def test_dropout_keeps_half_and_its_mean():
    head = random_head("bottleneck", num_features=6)
    features = features_of(8)
    kept = head.draw(8, stream(0, 1))
    everything = torch.ones(8, 512, dtype=torch.bool)
    rows, whole = head.block(features, kept), head.block(features, everything) / 2
    assert not rows[~kept].any()
    torch.testing.assert_close(rows[kept], 2 * whole[kept], **TIGHT)
    assert float(head.draw(2000, stream(1)).float().mean()) == pytest.approx(0.5, abs=0.002)
    head.block.dropout = 0.2
    assert float(head.draw(2000, stream(1)).float().mean()) == pytest.approx(0.8, abs=0.002)
    torch.testing.assert_close(head.block(features, everything), whole / 0.8, **TIGHT)


def test_coins_depend_on_the_generator_and_the_row_alone():
    head = head_of("bottleneck")
    whole = head.draw(12, stream(3, 7))
    assert torch.equal(whole, head.draw(12, stream(3, 7)))
    assert torch.equal(whole[:5], head.draw(5, stream(3, 7)))
    assert not torch.equal(whole, head.draw(12, stream(3, 8)))
    assert len({tuple(row.tolist()) for row in whole}) == 12
    assert head_of("none").draw(12, stream(3)) is None
    assert head_of("transition").draw(12, stream(3)) is None


def test_evaluation_flips_no_coins_and_a_training_without_them_is_refused():
    head = random_head("bottleneck")
    features = features_of(8)
    with pytest.raises(AssertionError, match="needs its coins"):
        head(features)
    head.eval()
    logs = head(features)
    assert torch.equal(logs, head(features, head.draw(8, stream(0))))
    torch.testing.assert_close(head(features[3:4]), logs[3:4], **TIGHT)  # the statistics of no batch
    rows = features @ head.block.linear.weight.T + head.block.linear.bias
    rows = rows / math.sqrt(1 + 1e-5) * head.block.norm.weight + head.block.norm.bias
    rows = torch.where(rows > 0, rows, 0.1 * rows)
    expected = torch.log_softmax(rows @ head.classifier.weight.T + head.classifier.bias, dim=1)
    torch.testing.assert_close(logs, expected, **TIGHT)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_that_share_a_batch_get_what_one_gets(name, num_workers):
    """Each takes its rows of features and coins; gradients are summed, statistics gathered."""
    features, targets = features_of(16), torch.arange(16) % 4

    def step(parts):
        head = random_head(name)
        kept = head.draw(16, stream(5, 0))
        logs, statistics = [], []
        for rows in parts:
            logs.append(head(features[rows], None if kept is None else kept[rows]))
            statistics.append(pending_statistics(head))
            loss = -logs[-1].gather(1, targets[rows, None]).sum() / 16
            loss.backward()
        if name == "bottleneck":
            update_running_statistics(head, torch.cat(statistics))
        gradients = [parameter.grad for parameter in head.parameters()]
        return [torch.cat(logs), *gradients, *head.state_dict().values()]

    share = 16 // num_workers
    many = step([slice(start, start + share) for start in range(0, 16, share)])
    for one, other in zip(step([slice(16)]), many, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


@pytest.mark.parametrize("num_classes", [1, 2, 5, 751])
def test_the_transition_starts_as_the_identity(num_classes):
    matrix = Transition(num_classes).matrix()
    torch.testing.assert_close(matrix, torch.eye(num_classes), rtol=0, atol=1.1e-3)
    torch.testing.assert_close(matrix.sum(1), torch.ones(num_classes))
    if num_classes > 1:
        torch.testing.assert_close(matrix.diagonal(), torch.full((num_classes,), 0.999))
        others = matrix[~torch.eye(num_classes, dtype=torch.bool)]
        torch.testing.assert_close(others, torch.full_like(others, 0.001 / (num_classes - 1)))
    plain, changed = head_of("none", num_classes=num_classes), head_of("transition", num_classes=num_classes)
    features = features_of(3).float() * 1000
    torch.testing.assert_close(changed(features).exp(), plain(features).exp(), rtol=0, atol=2e-3)


def test_the_transition_stays_stochastic_and_learns_how_labels_are_swapped():
    transition = Transition(5)
    swapped = torch.tensor([1, 0, 2, 4, 3])
    sure = (torch.eye(5) * 8).log_softmax(dim=1)
    optimizer = torch.optim.SGD(
        transition.parameters(), lr=3.0, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    losses = []
    for _ in range(80):
        loss = -transition(sure).gather(1, swapped[:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        matrix = transition.matrix()
        assert bool((matrix >= 0).all())
        torch.testing.assert_close(matrix.sum(1), torch.ones(5))
    assert losses[0] > 4
    assert losses[-1] < 0.1
    assert matrix.argmax(1).tolist() == swapped.tolist()


def test_probabilities_that_underflow_have_finite_losses():
    transition = Transition(3)
    transition.logits.data *= 40  # exact zeros beside the diagonal
    assert transition.matrix()[0, 1].item() == 0
    logs = torch.tensor([[0.0, -1e4, -1e4]], requires_grad=True)
    found = transition(logs)
    assert bool(torch.isfinite(found).all())
    found.sum().backward()
    assert bool(torch.isfinite(logs.grad).all())
    assert bool(torch.isfinite(transition.logits.grad).all())


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_have_float32_probabilities(name):
    head = head_of(name).bfloat16()
    logs = head(features_of(8).bfloat16(), head.draw(8, stream(0)))
    assert logs.dtype == torch.float32
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(8), rtol=0, atol=0.01)


def test_permuted_classes_are_permuted_columns():
    head, order = random_head("transition"), torch.tensor([2, 0, 3, 1])
    logs = head(features_of(4))
    head.classifier.weight.data, head.classifier.bias.data = (
        head.classifier.weight[order],
        head.classifier.bias[order],
    )
    head.transition.logits.data = head.transition.logits[order][:, order]
    torch.testing.assert_close(head(features_of(4)), logs[:, order], **TIGHT)


def test_unknown_noise_layers_are_refused():
    with pytest.raises(ValueError, match="'softmax' is none of bottleneck, transition, none"):
        head_of("softmax")
