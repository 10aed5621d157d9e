"""Gradients that are equal bit for bit for any number of workers (`numerics.reproducible: exact`).

Each ghost group of the global batch gets its own forward and backward pass, always of the same shape, and
the groups' gradients are summed in one fixed binary tree over the groups, whoever holds them. In the
batched mode the weight gradients depend, in their last bits, on how many rows one worker holds.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from raid.distributed.group import Group

Node = tuple[int, int]  # (level, index): the leaves are level 0


class TreeSum:
    """Sum the values of numbered slots in one fixed binary tree, in whatever order they arrive.

    A node is summed as soon as both its children are known, so at most about log2(slots) values wait.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.nodes: dict[Node, Tensor] = {}

    def add(self, node: Node, value: Tensor) -> None:
        """Put `value` at `node` and sum upwards as far as the siblings are known."""
        level, index = node
        while (width := -(-self.num_slots >> level)) > 1:
            sibling = index ^ 1
            if sibling < width:  # the last node of an odd level has no sibling and moves up as it is
                other = self.nodes.pop((level, sibling), None)
                if other is None:
                    break
                value = value + other if index < sibling else other + value
            level, index = level + 1, index // 2
        self.nodes[level, index] = value

    def total(self) -> Tensor:
        """Return the sum over all slots."""
        (value,) = self.nodes.values()
        return value


def backward_by_groups(
    model: nn.Module,
    images: Tensor,
    loss_of: Callable[[Tensor, slice], Tensor],
    *,
    group: Group,
    group_size: int,
) -> tuple[Tensor, Tensor]:
    """Set every parameter's gradient to that of the mean loss of the global batch.

    Args:
        model: not wrapped; its parameters' gradients are replaced.
        images: this worker's rows (B/W, ...) of the global batch; whole groups.
        loss_of: mean loss of (features of the rows, the rows as a slice of this worker's rows).
        group: the workers.
        group_size: rows of a ghost group.

    Returns:
        (mean loss of the global batch, detached; this worker's features (B/W, D), detached).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_local = len(images) // group_size
    tree = TreeSum(num_local * group.size)
    features = []
    for i in range(num_local):
        rows = slice(i * group_size, (i + 1) * group_size)
        output = model(images[rows])
        loss = loss_of(output, rows)
        gradients = torch.autograd.grad(loss, parameters)
        packed = torch.cat([loss.detach().view(1), *(gradient.reshape(-1) for gradient in gradients)])
        tree.add((0, group.rank * num_local + i), packed)
        features.append(output.detach())
    mean = _sum_over_workers(tree, num_local, group) / tree.num_slots
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, gradient in zip(parameters, mean[1:].split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    return mean[0], torch.cat(features)


def _sum_over_workers(tree: TreeSum, num_local: int, group: Group) -> Tensor:
    if group.size == 1:
        return tree.total()
    like = next(iter(tree.nodes.values()))
    whole = TreeSum(tree.num_slots)
    for rank in range(group.size):
        for node in _nodes_held(tree.num_slots, range(rank * num_local, (rank + 1) * num_local)):
            mine = tree.nodes[node] if rank == group.rank else torch.empty_like(like)
            whole.add(node, group.broadcast(mine, source=rank))
    return whole.total()


def _nodes_held(num_slots: int, slots: Iterable[int]) -> list[Node]:
    """Return the nodes that a worker is left with after adding its own slots."""
    tree = TreeSum(num_slots)
    for slot in slots:
        tree.add((0, slot), torch.zeros(()))
    return list(tree.nodes)
