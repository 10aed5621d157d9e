import math
from functools import partial

import numpy as np
import pytest
import torch
from mar_inputs import assert_same, value_and_gradients
from torch.nn import functional

from raid.losses.soft_targets import log_mixture, soft_target_loss
from raid.ops.smoothing import all_in_one, identity_sets, lsr, sparse, uniform

NUM_IDENTITIES, NUM_CLUSTERS = 9, 3


def example(rows=12, seed=0, outputs=NUM_IDENTITIES):
    """Logits, identities of real images, clusters of generated ones, Z, and the clusters' identities."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(4 * rng.standard_normal((rows, outputs)))
    clusters, identities = rng.integers(0, NUM_CLUSTERS, 20), rng.integers(0, NUM_IDENTITIES, 20)
    sets = identity_sets(
        clusters, identities, num_clusters=NUM_CLUSTERS, num_identities=NUM_IDENTITIES, min_images=1
    )
    generated = np.arange(rows) % 3 != 0
    return logits, rng.integers(0, NUM_IDENTITIES, rows), rng.integers(0, NUM_CLUSTERS, rows), generated, sets


def targets_of(identities, clusters, generated, of_identities, of_clusters):
    """As a recipe does: one table, the identities' rows first."""
    table = torch.tensor(np.concatenate([of_identities, of_clusters]))
    return table[torch.tensor(np.where(generated, len(of_identities) + clusters, identities))]


def loss_of(logits, targets):
    return soft_target_loss(torch.log_softmax(logits, dim=1), targets)


def probability(row, k):
    """Eq. 4."""
    return torch.exp(row[k]) / sum(torch.exp(other) for other in row)


def paper_loss(logits, identities, clusters, generated, members):
    """Eq. 13, image by image: L = -(1 - Z) log p_y - Z / |C_i| sum over C_i of log p_k."""
    total = torch.zeros((), dtype=logits.dtype)
    for row, identity, cluster, z in zip(logits, identities, clusters, generated, strict=True):
        own = members[cluster]
        first = -(1 - int(z)) * torch.log(probability(row, identity))
        second = sum(torch.log(probability(row, k)) for k in own)
        total = total + first - int(z) / len(own) * second
    return total / len(logits)


@pytest.mark.parametrize("seed", range(5))
def test_value_and_gradient_equal_the_papers_loop(seed):
    logits, identities, clusters, generated, sets = example(seed=seed)
    members = [np.flatnonzero(row).tolist() for row in sets]
    targets = targets_of(identities, clusters, generated, lsr(np.arange(9), 9, 0), sparse(sets))
    found = value_and_gradients(partial(loss_of, targets=targets), logits)
    expected = value_and_gradients(lambda z: paper_loss(z, identities, clusters, generated, members), logits)
    assert_same(found, expected, tolerance=1e-12)


def test_uniform_is_the_release():
    logits, identities, clusters, generated, _ = example()
    targets = targets_of(
        identities, clusters, generated, lsr(np.arange(9), 9, 0), np.tile(uniform(9), (3, 1))
    )
    found = value_and_gradients(partial(loss_of, targets=targets), logits)
    expected = value_and_gradients(
        lambda z: paper_loss(z, identities, clusters, generated, [range(9)] * 3), logits
    )
    assert_same(found, expected, tolerance=1e-12)


@pytest.mark.parametrize("epsilon", [0, 0.1])
def test_smoothed_real_images_equal_torch(epsilon):
    logits, identities, *_ = example()
    targets = torch.tensor(lsr(identities, 9, epsilon))
    labels = torch.tensor(identities)
    assert_same(
        value_and_gradients(partial(loss_of, targets=targets), logits),
        value_and_gradients(lambda z: functional.cross_entropy(z, labels, label_smoothing=epsilon), logits),
        tolerance=1e-12,
    )


def test_all_in_one_is_a_class_of_its_own():
    logits, identities, clusters, generated, _ = example(outputs=10)
    targets = targets_of(
        identities, clusters, generated, lsr(np.arange(9), 10, 0), np.tile(all_in_one(9), (3, 1))
    )
    labels = torch.tensor(np.where(generated, 9, identities))
    assert loss_of(logits, targets).item() == pytest.approx(functional.cross_entropy(logits, labels).item())


def test_order_and_copies_do_not_matter():
    logits, identities, clusters, generated, sets = example()
    targets = targets_of(identities, clusters, generated, lsr(np.arange(9), 9, 0), sparse(sets))
    loss, order = loss_of(logits, targets), torch.arange(12).flip(0)
    assert loss_of(logits[order], targets[order]).item() == pytest.approx(loss.item(), abs=1e-12)
    assert loss_of(logits.repeat(2, 1), targets.repeat(2, 1)).item() == pytest.approx(loss.item(), abs=1e-12)
    halves = [loss_of(logits[part], targets[part]).item() for part in (slice(6), slice(6, 12))]
    assert np.mean(halves) == pytest.approx(loss.item(), abs=1e-12)


def test_half_precision_is_computed_in_single():
    logits, targets = example(rows=4)[0].bfloat16(), torch.full((4, 9), 1 / 9)
    found = soft_target_loss(torch.log_softmax(logits, dim=1), targets)
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        mixed = log_mixture(torch.full((2, 3), 1 / 3), torch.eye(3))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, torch.full((2, 3), math.log(1 / 3)))


def test_targets_have_no_gradient():
    targets = torch.full((2, 3), 1 / 3, requires_grad=True)
    logits = torch.zeros(2, 3, requires_grad=True)
    loss_of(logits, targets).backward()
    assert targets.grad is None


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="shape"):
        soft_target_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def plain_mixture(probabilities, transition):
    rows = [
        [sum(p * transition[i, j] for i, p in enumerate(row)) for j in range(len(transition))]
        for row in probabilities
    ]
    return torch.stack([torch.stack([torch.log(entry) for entry in row]) for row in rows])


def test_mixture_equals_the_loop_and_learns_the_transition():
    logits, *_ = example(rows=4)
    raw = torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.tensor(lsr(np.arange(4), 9, 0.1))

    def loss(mixture, z, parameter):
        transition = torch.softmax(parameter, dim=1)
        return soft_target_loss(mixture(torch.softmax(z, dim=1), transition), targets)

    found, expected = (
        value_and_gradients(partial(loss, mixture), logits, raw) for mixture in (log_mixture, plain_mixture)
    )
    assert_same(found, expected, tolerance=1e-12)
    assert found[2].abs().max() > 0


def test_mixture_rows_add_up_to_one_and_the_identity_changes_nothing():
    logits, *_ = example()
    p = torch.softmax(logits, dim=1)
    torch.testing.assert_close(log_mixture(p, torch.eye(9).double()), torch.log_softmax(logits, dim=1))
    transition = torch.softmax(example(rows=9, seed=1)[0], dim=1)
    torch.testing.assert_close(log_mixture(p, transition).exp().sum(dim=1), torch.ones(12).double())


def test_mixture_of_zeros_is_finite():
    certain = torch.tensor([[200.0, 0, 0]])

    def loss(z, transition):
        return soft_target_loss(log_mixture(torch.softmax(z, dim=1), transition), torch.tensor([[0.0, 1, 0]]))

    value, *gradients = value_and_gradients(loss, certain, torch.eye(3))
    assert value.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradient_of_a_softmax_transition_is_at_most_one():
    certain = torch.tensor([[60.0, 0, 0]])

    def loss(z, parameter):
        mixed = log_mixture(torch.softmax(z, dim=1), torch.softmax(parameter, dim=1))
        return soft_target_loss(mixed, torch.tensor([[0.0, 1, 0]]))

    value, *gradients = value_and_gradients(loss, certain, 30 * torch.eye(3))
    assert value.item() == pytest.approx(30, abs=1)
    assert all(gradient.isfinite().all() and gradient.abs().max() <= 1 for gradient in gradients)
    assert gradients[1].abs().max() == pytest.approx(1, abs=1e-6)
