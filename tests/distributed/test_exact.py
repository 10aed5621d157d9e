import math
from functools import partial

import pytest
import torch
from torch import nn

from raid.distributed.exact import (
    TreeSum,
    backward_by_groups,
    backward_from_features,
)
from raid.distributed.group import Group
from raid.distributed.launch import run_workers
from raid.losses.cluster_nce import cluster_nce
from raid.models.batch_norm import norm_factory, pending_statistics

GROUP_SIZE = 2
# (groups of the global batch, workers): shares that are subtrees, and shares that are not.
CASES = {2: (4, 6, 12), 3: (6, 12), 4: (4, 8, 12)}


def values_of(slots, seed=0):
    """Numbers of very different size, whose sum depends on the order in nearly every entry."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(slots, 50, generator=generator)
    return values * 10 ** torch.empty(slots, 1).uniform_(-3, 3, generator=generator)


def plain_tree(values):
    """Pair up neighbours, level after level; the odd one moves up as it is."""
    if len(values) == 1:
        return values[0]
    pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
    return plain_tree(pairs + ([values[-1]] if len(values) % 2 else []))


@pytest.mark.parametrize("slots", range(1, 18))
def test_tree_sum_does_not_depend_on_the_order_of_arrival(slots):
    values = values_of(slots)
    expected = plain_tree(list(values))
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        tree = TreeSum(slots)
        for slot in torch.randperm(slots, generator=generator).tolist():
            tree.add((0, slot), values[slot])
        assert torch.equal(tree.total(), expected)
    if slots > 4:  # the values are such that another order shows
        assert not torch.equal(expected, sum(values))


@pytest.mark.parametrize("slots", range(1, 18))
def test_only_a_logarithm_of_values_wait_when_they_come_in_order(slots):
    tree, values = TreeSum(slots), values_of(slots)
    for slot in range(slots):
        tree.add((0, slot), values[slot])
        assert len(tree.nodes) <= 1 + math.log2(slots)
    assert len(tree.nodes) == 1


@pytest.mark.parametrize("slots", [2, 3, 6, 12, 13])
def test_partial_trees_meet_to_the_same_sum(slots):
    values = values_of(slots)
    for cut in range(1, slots):
        whole = TreeSum(slots)
        for part in (range(cut), range(cut, slots)):
            tree = TreeSum(slots)
            for slot in part:
                tree.add((0, slot), values[slot])
            for node, value in tree.nodes.items():
                whole.add(node, value)
        assert torch.equal(whole.total(), plain_tree(list(values)))


def test_a_total_before_all_have_arrived_is_an_error():
    tree = TreeSum(3)
    tree.add((0, 0), torch.ones(1))
    tree.add((0, 2), torch.ones(1))
    with pytest.raises(ValueError, match="too many values"):
        tree.total()


def problem(num_groups, dtype):
    """A small network, the images of a global batch, and their loss."""
    generator = torch.Generator().manual_seed(num_groups)
    norm = norm_factory("ghost", group_size=GROUP_SIZE, all_reduce_sum=Group.solo().all_reduce_sum)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8)).to(dtype)
    model[4].bias.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    rows = num_groups * GROUP_SIZE
    images = torch.randn(rows, 3, 5, 4, generator=generator, dtype=dtype)
    targets = torch.randint(6, (rows,), generator=generator)
    centroids = nn.functional.normalize(torch.randn(6, 8, generator=generator, dtype=dtype))
    return model, images, targets, centroids


def loss_of_rows(features, rows, targets, centroids):
    return cluster_nce(features, centroids, targets[rows], 0.05)


def exact_step(group, num_groups, dtype=torch.float32):
    """What `backward_by_groups` leaves and returns on this worker."""
    model, images, targets, centroids = problem(num_groups, dtype)
    mine = group.slice(len(images))
    loss, features = backward_by_groups(
        model,
        images[mine],
        partial(loss_of_rows, targets=targets[mine], centroids=centroids),
        group=group,
        group_size=GROUP_SIZE,
    )
    found = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    statistics = group.gather_rows(pending_statistics(model))
    return {**found, "loss": loss, "features": group.gather_rows(features), "statistics": statistics}


def loss_of_pairs(features):
    """A mean over rows, each of which sees all others."""
    rows = nn.functional.normalize(features)
    return (rows @ rows.T / 0.2).logsumexp(dim=1).mean()


def whole_batch_step(group, num_groups, dtype=torch.float32):
    """What `backward_from_features` leaves on this worker for a loss of all pairs of the batch."""
    model, images, _, _ = problem(num_groups, dtype)
    mine = group.slice(len(images))
    outputs = [model(rows) for rows in images[mine].split(GROUP_SIZE)]
    features = group.gather_rows(torch.cat(outputs).detach()).requires_grad_()
    loss = loss_of_pairs(features)
    (gradients,) = torch.autograd.grad(loss, features)
    backward_from_features(model, outputs, gradients[mine], group=group, group_size=GROUP_SIZE)
    found = {f"gradient of {name}": value.grad for name, value in model.named_parameters()}
    statistics = group.gather_rows(pending_statistics(model))
    return {**found, "loss": loss.detach(), "features": features.detach(), "statistics": statistics}


STEPS = {"mean over rows": exact_step, "whole batch": whole_batch_step}


def exact_steps(group, folder):
    results = {
        (name, num_groups): step(group, num_groups)
        for name, step in STEPS.items()
        for num_groups in CASES[group.size]
    }
    torch.save(results, folder / f"{group.rank}.pt")


def test_equals_the_plain_backward_of_the_mean_loss():
    model, images, targets, centroids = problem(6, torch.float64)
    features = model(images)
    loss = cluster_nce(features, centroids, targets, 0.05)
    loss.backward()
    found = exact_step(Group.solo(), 6, torch.float64)
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["features"], features.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["statistics"], pending_statistics(model), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        gradient = found[f"gradient of {name}"]
        if parameter.requires_grad:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-12)
        else:
            assert gradient is None
    assert not found["loss"].requires_grad
    assert not found["features"].requires_grad


def test_a_loss_of_the_whole_batch_has_the_plain_gradient():
    model, images, _, _ = problem(6, torch.float64)
    features = model(images)
    loss = loss_of_pairs(features)
    loss.backward()
    found = whole_batch_step(Group.solo(), 6, torch.float64)
    torch.testing.assert_close(found["features"], features.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["statistics"], pending_statistics(model), rtol=1e-12, atol=1e-12)
    for name, parameter in model.named_parameters():
        gradient = found[f"gradient of {name}"]
        if parameter.requires_grad:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-12)
            if name != "0.bias":  # the norm takes it away again
                assert gradient.abs().max() > 1e-3, name
        else:
            assert gradient is None


def test_gradients_from_features_are_replaced_and_fit_the_outputs():
    model, images, _, _ = problem(2, torch.float32)
    backward = partial(backward_from_features, model, group=Group.solo(), group_size=GROUP_SIZE)
    grads = []
    for _ in range(2):
        backward((model(rows) for rows in images.split(GROUP_SIZE)), torch.ones(4, 8))
        grads.append(model[0].weight.grad)
    assert torch.equal(*grads)
    outputs = [model(rows) for rows in images.split(GROUP_SIZE)]
    with pytest.raises(AssertionError, match="3 rows are not whole groups of 2"):
        backward(outputs, torch.ones(3, 8))
    with pytest.raises(ValueError, match="longer"):
        backward(outputs, torch.ones(6, 8))


def test_gradients_are_replaced_and_not_added_to():
    model, images, targets, centroids = problem(2, torch.float32)
    loss_of = partial(loss_of_rows, targets=targets, centroids=centroids)
    for _ in range(2):
        backward_by_groups(model, images, loss_of, group=Group.solo(), group_size=GROUP_SIZE)
    expected = exact_step(Group.solo(), 2)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, expected[f"gradient of {name}"]), name


@pytest.mark.usefixtures("quick_starts")
@pytest.mark.parametrize("workers", CASES)
def test_workers_agree_with_one_process_bit_for_bit(workers, tmp_path):
    run_workers(exact_steps, workers, torch.get_num_threads(), tmp_path)
    for rank in range(workers):
        results = torch.load(tmp_path / f"{rank}.pt")
        for (step, num_groups), found in results.items():
            expected = STEPS[step](Group.solo(), num_groups)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                same = found[name] is None if value is None else torch.equal(found[name], value)
                assert same, (rank, step, num_groups, name)
