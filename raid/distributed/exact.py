"""Gradients that are equal bit for bit for any number of workers (`numerics.reproducible: exact`).

Each ghost group of the global batch gets its own forward and backward pass, always of the same shape, and
the groups' gradients are summed in one fixed binary tree over the groups, whoever holds them. In the
batched mode the weight gradients depend, in their last bits, on how many rows one worker holds.

A loss that is a mean over rows goes through `backward_by_groups`. One that sees the whole batch, as mined
pairs do, needs all features first: `forward_by_groups`, the loss of the features that all workers gathered,
its gradient with respect to them, and `backward_from_features` with the rows that are this worker's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

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
    parameters = _trainable(model)
    features = []

    def parts() -> Iterator[list[Tensor]]:
        for start in range(0, len(images), group_size):
            rows = slice(start, start + group_size)
            output = model(images[rows])
            loss = loss_of(output, rows)
            features.append(output.detach())
            yield [loss.detach(), *torch.autograd.grad(loss, parameters)]

    num_local = _num_groups(images, group_size)
    mean = _sum_of_groups(parts(), num_local, group) / (num_local * group.size)
    _set_gradients(parameters, mean[1:])
    return mean[0].clone(), torch.cat(features)  # a view would keep all gradients as long as the loss is kept


def backward_from_features(
    model: nn.Module, outputs: Iterable[Tensor], gradients: Tensor, *, group: Group, group_size: int
) -> None:
    """Set every parameter's gradient to that of a loss of all features of the global batch.

    It is the sum over all groups of the batch of the group's vector-Jacobian product, and it is a sum: a
    loss that is a mean has its division in `gradients`. The workers' shares are those of one batch, in rank
    order, as `Group.slice` cuts it.

    Args:
        model: not wrapped; its parameters' gradients are replaced.
        outputs: of every ghost group of this worker's rows, each with the graph of its own pass, which is
            freed before the next is asked for.
        gradients: (B/W, D), of the loss of the global batch with respect to this worker's rows.
        group: the workers.
        group_size: rows of a ghost group.
    """
    parameters = _trainable(model)
    parts = (
        torch.autograd.grad(output, parameters, gradient)
        for output, gradient in zip(outputs, gradients.split(group_size), strict=True)
    )
    _set_gradients(parameters, _sum_of_groups(parts, _num_groups(gradients, group_size), group))


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _num_groups(rows: Tensor, group_size: int) -> int:
    assert len(rows) % group_size == 0, f"{len(rows)} rows are not whole groups of {group_size}"
    return len(rows) // group_size


def _set_gradients(parameters: list[nn.Parameter], packed: Tensor) -> None:
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, gradient in zip(parameters, packed.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)


def _sum_of_groups(parts: Iterable[Sequence[Tensor]], num_local: int, group: Group) -> Tensor:
    """Return the sum of all workers' groups; `parts` are this worker's, each packed into one vector."""
    tree = TreeSum(num_local * group.size)
    for i, part in enumerate(parts):
        packed = torch.cat([value.reshape(-1) for value in part])
        tree.add((0, group.rank * num_local + i), packed)
    return _sum_over_workers(tree, num_local, group)


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
