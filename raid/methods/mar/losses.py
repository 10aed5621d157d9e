"""The losses of a step of MAR on the whole batch, and what follows the batches beside the networks."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from raid.data.streams import CONTROL, stream
from raid.losses.cross_view import CrossViewCentre, cross_view_loss
from raid.losses.discriminative import (
    MinedPairs,
    discriminative_loss,
    mine_by_agreement,
    mine_by_feature,
    next_threshold,
)
from raid.losses.reference_agent import agent_loss, joint_embedding_loss
from raid.methods.mar.config import MarConfig
from raid.methods.mar.multilabel_table import MultilabelTable, Places
from raid.ops.multilabel import log_soft_multilabels

Ints = NDArray[np.int64]


@dataclass
class Followed:
    """What follows the target images from batch to batch: the same on every worker, and in a checkpoint.

    Attributes:
        centre: of the log multilabels of all cameras (L_CML); None without that loss.
        table: multilabels of the target images (L_MDL); None without that loss.
        threshold: T, (), float64: what a pair's agreement is compared with.
        scale: of the products of unit rows.
    """

    centre: CrossViewCentre | None
    table: MultilabelTable | None
    threshold: Tensor
    scale: float


@dataclass(frozen=True)
class Batch:
    """What is known of the S source and T target images of a global batch.

    Attributes:
        labels: (S,) int64 reference persons.
        rows: (T,) int64 rows of the target's training images, on the CPU.
        views: rows of the batch of each camera, see `by_view`.
        places: of the rows in the table; None without it.
    """

    labels: Tensor
    rows: Tensor
    views: tuple[Tensor, ...]
    places: Places | None


@dataclass
class StepLosses:
    """The losses of a step, unweighted and detached, and the pairs that were mined, if any."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    mined: MinedPairs | None = None
    accuracy: Tensor = field(default_factory=lambda: torch.empty(0))


def mar_loss(
    source: Tensor,
    target: Tensor,
    agents: Tensor,
    batch: Batch,
    followed: Followed,
    config: MarConfig,
    *,
    mines: bool,
) -> tuple[Tensor, StepLosses]:
    """Compute L_MAR = L_MDL + lambda1 L_CML + lambda2 (L_AL + beta L_RJ) (MAR eq. 9 and 10), with its parts.

    Every worker calls it with the same arguments. It moves `followed` by the batch, in the release's order:
    the centre before L_CML is measured from it, the table before the pairs are compared, the threshold after.

    Args:
        source: (S, D) unit rows.
        target: (T, D) unit rows.
        agents: (P, D) rows of any length.
        batch: what is known of the images.
        followed: moved by the batch.
        config: of the run.
        mines: False in the first epochs, whose L_MDL is 0.
    """
    chosen, step = config.losses, StepLosses()
    unit_agents = functional.normalize(agents)
    logs = log_soft_multilabels(target, unit_agents.detach(), followed.scale)
    if config.multilabel.control == "permuted":
        logs = logs.gather(1, own_orders(batch.rows, len(agents), config.seed).to(logs.device))
    total = target.sum() * 0
    if chosen.mdl and mines:
        step.mined = _mined(target, logs, batch, followed, config)
        step.parts["mdl"] = discriminative_loss(target, step.mined)
        total = total + step.parts["mdl"]
    if chosen.cml:
        assert followed.centre is not None
        followed.centre.update(logs, batch.views)
        step.parts["cml"] = cross_view_loss(logs, batch.views, followed.centre, form=chosen.cml_form)
        total = total + chosen.lambda1 * step.parts["cml"]
    if chosen.al:
        step.parts["al"] = agent_loss(source, unit_agents, batch.labels, followed.scale)
        total = total + chosen.lambda2 * step.parts["al"]
    if chosen.rj:
        step.parts["rj"] = joint_embedding_loss(
            source, batch.labels, target, unit_agents, margin=chosen.margin, form=chosen.rj_form
        )
        total = total + chosen.lambda2 * chosen.beta * step.parts["rj"]
    step.parts = {name: value.detach() for name, value in step.parts.items()}
    with torch.no_grad():
        step.accuracy = ((source @ unit_agents.T).argmax(dim=1) == batch.labels).float().mean()
    return total, step


def own_orders(rows: Tensor, num_agents: int, seed: int) -> Tensor:
    """Return a random order of the agents for each image, (B, P) int64: of its row alone, at every visit.

    Rows and orders are on the CPU: of the control, which waits for them.
    """
    orders = [_own_order(row, num_agents, seed) for row in rows.tolist()]
    return torch.from_numpy(np.stack(orders))


def in_own_orders(places: Ints, num_agents: int, seed: int) -> Ints:
    """Return which agents stand at `places` (N,), one in the order of each image, -1 = none."""
    agents = places.copy()
    for row in np.flatnonzero(places >= 0).tolist():  # by itself: all orders are N * P numbers
        agents[row] = _own_order(row, num_agents, seed)[places[row]]
    return agents


def _own_order(row: int, num_agents: int, seed: int) -> Ints:
    return stream(seed, CONTROL, row).permutation(num_agents)


def _mined(target: Tensor, logs: Tensor, batch: Batch, followed: Followed, config: MarConfig) -> MinedPairs:
    """Mine the pairs of the batch, with the multilabels of the memory, and move the threshold."""
    mining = config.mining
    if mining.guide == "feature":
        return mine_by_feature(target, ratio=mining.ratio, form=mining.form)
    assert followed.table is not None
    assert batch.places is not None
    remembered = followed.table.visit(batch.places, logs.detach().exp())
    mined = mine_by_agreement(target, remembered, followed.threshold, ratio=mining.ratio, form=mining.form)
    followed.threshold = next_threshold(mined, mining.momentum)
    return mined
