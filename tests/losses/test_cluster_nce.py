import numpy as np
import pytest
import torch

from raid.losses.cluster_nce import ClusterMemory, cluster_centroids, cluster_nce


def sin_matrix(rows, columns, phase):
    i, j = np.arange(rows)[:, None], np.arange(columns)[None, :]
    matrix = np.sin(1.7 * i + 0.37 * j**2 + 0.11 * i * j + phase)
    return torch.tensor(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def random_batch(rows, clusters, dim, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(rows, dim, generator=generator, dtype=dtype)
    centroids = torch.randn(clusters, dim, generator=generator, dtype=dtype)
    targets = torch.randint(clusters, (rows,), generator=generator)
    return queries, centroids / centroids.norm(dim=1, keepdim=True), targets


def plain_loss(queries, centroids, targets, temperature):
    """Eq. 3, sample after sample."""
    terms = []
    for query, target in zip(queries, targets, strict=True):
        unit = query / query.norm()
        powers = [torch.exp(unit @ centroid / temperature) for centroid in centroids]
        terms.append(-torch.log(powers[target] / sum(powers)))
    return sum(terms) / len(terms)


def plain_update(centroids, features, targets, momentum):
    """Eq. 4, sample after sample."""
    centroids = centroids.clone()
    for feature, target in zip(features, targets, strict=True):
        unit = torch.nn.functional.normalize(feature, dim=0)
        mixed = momentum * centroids[target] + (1 - momentum) * unit
        centroids[target] = torch.nn.functional.normalize(mixed, dim=0)
    return centroids


def test_golden_values_of_the_release():
    centroids, queries = sin_matrix(5, 8, 0), sin_matrix(4, 8, 0.7).requires_grad_()
    targets = torch.tensor([0, 0, 3, 4])
    loss = cluster_nce(queries, centroids, targets, 0.05)
    loss.backward()
    assert loss.item() == pytest.approx(13.391199, abs=1e-6)
    assert queries.grad.norm().item() == pytest.approx(11.505969, abs=1e-6)
    memory = ClusterMemory(centroids, momentum=0.1)
    memory.update(queries, memory.visits(targets))
    expected = [0.46019667, 0.21271722, -0.46419373, -0.18245474]
    np.testing.assert_allclose(memory.centroids[0, :4], expected, atol=1e-7)


def test_golden_values_hold_for_queries_of_any_length():
    centroids, queries = (
        sin_matrix(5, 8, 0),
        sin_matrix(4, 8, 0.7) * torch.tensor([[2.0], [0.5], [7.0], [1.0]]),
    )
    targets = torch.tensor([0, 0, 3, 4])
    assert cluster_nce(queries, centroids, targets, 0.05).item() == pytest.approx(13.391199, abs=1e-6)
    memory = ClusterMemory(centroids, momentum=0.1)
    memory.update(queries, memory.visits(targets))
    assert memory.centroids[0, 0].item() == pytest.approx(0.46019667, abs=1e-7)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_loss_and_gradient_equal_the_plain_form(temperature):
    queries, centroids, targets = random_batch(9, 6, 5, seed=0)
    fast, slow = queries.clone().requires_grad_(), queries.clone().requires_grad_()
    loss, expected = (
        cluster_nce(fast, centroids, targets, temperature),
        plain_loss(slow, centroids, targets, temperature),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-10, atol=1e-12)


def test_gradcheck():
    queries, centroids, targets = random_batch(5, 4, 6, seed=1)
    assert torch.autograd.gradcheck(
        lambda q: cluster_nce(q, centroids, targets, 0.2), queries.requires_grad_()
    )


def test_no_gradient_reaches_the_centroids():
    queries, centroids, targets = random_batch(5, 4, 6, seed=2)
    centroids.requires_grad_()
    cluster_nce(queries.requires_grad_(), centroids, targets, 0.1).backward()
    assert centroids.grad is None
    memory = ClusterMemory(centroids, momentum=0.1)
    memory.update(queries, memory.visits(targets))
    assert not memory.centroids.requires_grad


def test_order_and_names_of_clusters_do_not_matter():
    queries, centroids, targets = random_batch(12, 6, 5, seed=3)
    names, order = torch.randperm(6), torch.randperm(12)
    renamed = torch.empty_like(centroids)
    renamed[names] = centroids
    loss = cluster_nce(queries, centroids, targets, 0.1)
    torch.testing.assert_close(cluster_nce(queries[order], renamed, names[targets][order], 0.1), loss)


def test_half_precision_queries_and_autocast_do_not_lower_the_precision():
    queries, centroids, targets = random_batch(8, 6, 64, seed=4, dtype=torch.float32)
    expected = cluster_nce(queries.bfloat16().float(), centroids, targets, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cluster_nce(queries.bfloat16(), centroids, targets, 0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.2, 1.0])
@pytest.mark.parametrize(("rows", "clusters", "dim"), [(1, 3, 5), (64, 16, 2048), (64, 300, 33), (50, 1, 7)])
def test_update_is_bitwise_the_loop(dtype, momentum, rows, clusters, dim):
    features, centroids, targets = random_batch(rows, clusters, dim, seed=rows, dtype=dtype)
    memory = ClusterMemory(centroids, momentum=momentum)
    memory.update(features, memory.visits(targets))
    assert torch.equal(memory.centroids, plain_update(centroids, features, targets, momentum))
    assert memory.centroids.dtype == dtype


def test_update_keeps_rows_unit_and_untouched_clusters_alone():
    features, centroids, _ = random_batch(20, 9, 16, seed=5)
    targets = torch.arange(20) % 4
    memory = ClusterMemory(centroids, momentum=0.1)
    memory.update(features, memory.visits(targets))
    torch.testing.assert_close(memory.centroids.norm(dim=1), torch.ones(9, dtype=torch.float64))
    assert torch.equal(memory.centroids[4:], centroids[4:])
    # The memory owns its copy.
    assert not torch.equal(memory.centroids[:4], centroids[:4])


def test_update_depends_on_the_order_inside_a_cluster_only():
    features, centroids, targets = random_batch(40, 5, 8, seed=6)
    by_cluster = torch.sort(targets, stable=True).indices
    one, other, turned = (ClusterMemory(centroids, momentum=0.1) for _ in range(3))
    one.update(features, one.visits(targets))
    other.update(features[by_cluster], other.visits(targets[by_cluster]))
    turned.update(features.flip(0), turned.visits(targets.flip(0)))
    assert torch.equal(one.centroids, other.centroids)
    assert not torch.allclose(one.centroids, turned.centroids)


def test_update_with_bad_or_no_rows():
    _, centroids, _ = random_batch(1, 3, 4, seed=7)
    memory = ClusterMemory(centroids, momentum=0.1)
    memory.update(torch.empty(0, 4), memory.visits(torch.empty(0, dtype=torch.int64)))
    assert torch.equal(memory.centroids, centroids)
    for targets in ([-1, 0], [0, 3], [0]):
        with pytest.raises(ValueError, match=r"targets|need"):
            memory.update(torch.ones(2, 4), memory.visits(torch.tensor(targets)))
    with pytest.raises(ValueError, match="momentum"):
        ClusterMemory(centroids, momentum=1.1)


def test_cluster_centroids_equal_the_plain_means():
    features, _, labels = random_batch(60, 7, 5, seed=8)
    labels[::6] = -1
    centroids = cluster_centroids(features, labels)
    expected = torch.stack([features[labels == k].mean(dim=0) for k in range(7)])
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(centroids, expected)
    order = torch.randperm(60)
    torch.testing.assert_close(cluster_centroids(features[order], labels[order]), expected)
    twice = cluster_centroids(features.repeat(2, 1), labels.repeat(2))
    torch.testing.assert_close(twice, expected)


@pytest.mark.parametrize("labels", [[0, 2, 2], [1, 1, 1], [0, -2, 1], [0, 1]])
def test_labels_with_gaps_are_refused(labels):
    with pytest.raises(ValueError, match=r"contiguous|labels must|need"):
        cluster_centroids(torch.eye(3), torch.tensor(labels))


def test_everything_left_out():
    assert cluster_centroids(torch.eye(3), torch.full((3,), -1)).shape == (0, 3)
