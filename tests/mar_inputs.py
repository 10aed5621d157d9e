"""The inputs of MAR's golden values (methods.md 3.3), and what its losses' tests share."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional


def sin_matrix(rows, columns, phase, dtype=torch.float32):
    """Unit rows of sin(1.7 i + .37 j^2 + .11 i j + phase)."""
    i, j = np.arange(rows)[:, None], np.arange(columns)[None, :]
    matrix = np.sin(1.7 * i + 0.37 * j**2 + 0.11 * i * j + phase)
    return torch.tensor(matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).to(dtype)


def golden(dtype=torch.float32):
    return SimpleNamespace(
        target=sin_matrix(24, 16, 0, dtype),
        source=sin_matrix(12, 16, 0.5, dtype),
        agents=sin_matrix(10, 16, 1, dtype),
        labels=torch.arange(12) % 10,
        views=torch.arange(24) % 3 + 1,
    )


def unit_rows(rows, dim, seed, *, spread=1.0, dtype=torch.float64):
    """Unit rows around one direction: the smaller the spread, the nearer to one another."""
    generator = torch.Generator().manual_seed(seed)
    rows = 1 + spread * torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return functional.normalize(rows, dim=1).to(dtype)


def value_and_gradients(loss, *tensors):
    """Return the loss of the tensors and its gradient with respect to each."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def assert_same(found, expected, tolerance=1e-11):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def weight_gradient(loss, inputs, num_ranks):
    """Return the gradient of a linear embedding's weight that data-parallel workers end up with.

    Every rank embeds its share of each of `inputs`, gathers the rows (the gradient flows to its own),
    multiplies the loss of them all by the number of ranks, and the gradients are averaged.
    """
    start = torch.randn(inputs[0].shape[1], 6, generator=torch.Generator().manual_seed(9)).double()
    total = torch.zeros_like(start)
    for rank in range(num_ranks):
        weight = start.clone().requires_grad_()
        gathered = [
            torch.cat(
                [
                    functional.normalize(part @ (weight if owner == rank else start), dim=1)
                    for owner, part in enumerate(rows.chunk(num_ranks))
                ]
            )
            for rows in inputs
        ]
        (num_ranks * loss(*gathered)).backward()
        total += weight.grad / num_ranks
    return total
