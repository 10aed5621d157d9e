"""Reference agent learning: the agents themselves, and features that lie near the right ones (MAR eq. 7, 8).

L_RAL = L_AL + beta * L_RJ (eq. 9), beta = .2 in MAR.
"""

import torch
from torch import Tensor
from torch.nn import functional

from raid.ops.multilabel import agent_logits


def agent_loss(features: Tensor, agents: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Compute L_AL: the cross entropy of labelled images against the agents, averaged over them (eq. 7).

    L = mean_k -log( exp(s a_{w_k} . f(z_k)) / sum_j exp(s a_j . f(z_k)) ). The paper writes the sum: B times
    this. It is the one loss of MAR whose gradient reaches the agents. So, unlike the others, every worker
    gives it *its own* rows: on gathered rows each worker would find the agents' whole gradient, and
    multiplying by the number of workers, as gathered features need, would give it that many times over.

    Args:
        features: (B, D) unit rows of source images.
        agents: (P, D) unit rows.
        labels: (B,) int64, 0..P-1: each image's agent.
        scale: s, 30 in the release.

    Returns:
        Scalar, float32 at least.

    Memory: 2 * B * P numbers.
    """
    return functional.cross_entropy(agent_logits(features, agents, scale), labels)


def joint_embedding_loss(
    source: Tensor, labels: Tensor, target: Tensor, agents: Tensor, *, margin: float, form: str
) -> Tensor:
    """Compute L_RJ: pull labelled images to their agent, push images off agents within the margin (eq. 8).

    With d(a, f) = ||a - f||_2^2, and "near" meaning d < m:

    `released`: the mean over these terms: for each source image d to its own agent; for each source image
    that is near other agents, the mean over those of m - d; for each target image that is near agents, the
    mean over those of m - d. `paper`, eq. 8 as it stands: sum over agents i, target images x_j near a_i, and
    source images z_k of agent i, of [m - d(a_i, x_j)] + d(a_i, z_k).

    No factor leads from one form to the other: the paper pushes no source image, counts a pull once for each
    target image near its agent (none near: nothing is pulled), and sums products of counts. One source
    image, near no other agent, and one target image, near its agent alone, give paper = 2 * released.

    Agents get no gradient. On several workers: of all rows, gathered, times the number of workers.

    Args:
        source: (B, D) unit rows of labelled images.
        labels: (B,) int64, 0..P-1: each source image's agent.
        target: (T, D) unit rows of unlabelled images.
        agents: (P, D) unit rows.
        margin: m of the squared distance, 1 in MAR: agents of similarity above 1 - m / 2 are near.
        form: `released` or `paper`.

    Returns:
        Scalar, float32 at least; 0 for the paper's form when nothing is near.

    Raises:
        ValueError: an unknown form.

    Memory: a few times (B + T) * P numbers.
    """
    of_source, of_target = _squared_distances(source, agents), _squared_distances(target, agents)
    own = of_source.gather(1, labels[:, None])[:, 0]
    if form == "paper":
        pushes, counts = _pushes(of_target, margin, dim=0)
        return (pushes[labels] + counts[labels] * own).sum()
    if form == "released":
        others = of_source.scatter(1, labels[:, None], torch.inf)
        from_others, num_others = _pushes(others, margin, dim=1)
        from_agents, num_agents = _pushes(of_target, margin, dim=1)
        total = own.sum() + _mean(from_others, num_others).sum() + _mean(from_agents, num_agents).sum()
        num_terms = len(own) + (num_others > 0).sum() + (num_agents > 0).sum()
        return _mean(total, num_terms)
    raise ValueError(f"form must be 'released' or 'paper', got {form!r}")


def _squared_distances(features: Tensor, agents: Tensor) -> Tensor:
    """Return ||f - a||^2 of all rows with all agents, (B, P); the agents get no gradient."""
    products = agent_logits(features, agents.detach(), 1.0)
    lengths = features.to(products.dtype).square().sum(dim=1, keepdim=True)
    return lengths + agents.detach().to(products.dtype).square().sum(dim=1) - 2 * products


def _pushes(distances: Tensor, margin: float, dim: int) -> tuple[Tensor, Tensor]:
    """Return, along `dim`, the sum of m - d over the distances below m, and their number."""
    near = distances < margin
    return torch.where(near, margin - distances, 0).sum(dim), near.sum(dim)


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    """Return sums / counts, 0 of nothing."""
    return sums / counts.clamp(min=1)
