"""Discriminative embedding learning: similar pairs, told apart by their multilabels (MAR eq. 3 and 4).

A step: `memory.update`, `mine_by_agreement` with the memory's multilabels, `discriminative_loss` of what was
mined, and last `next_threshold`. On several workers all of it sees the gathered global batch, and the loss is
multiplied by the number of workers: pairs of a part of the batch are fewer than a share of all pairs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raid.ops.multilabel import pair_agreements, rows_of_pairs, similar_pairs

_NO_NEGATIVES = 0.5  # the release's mean over no pairs; over no positives it is 1, so their term is 0


@dataclass(frozen=True)
class MinedPairs:
    """The similar pairs of a batch, for the loss and for figures.

    Attributes:
        rows: (K, 2) int64, the pairs' rows in the batch, nearest first.
        scores: (K,) their agreement (or similarity, where the features are the guide).
        positive: (K,) bool; the others are hard negatives.
        threshold: (), what the scores were compared with.
        reached: (), the K-th largest score of all pairs of the batch, which the threshold follows.
    """

    rows: Tensor
    scores: Tensor
    positive: Tensor
    threshold: Tensor
    reached: Tensor

    @property
    def num_positives(self) -> int:
        """How many pairs are taken for the same person."""
        return int(self.positive.sum())

    @property
    def num_negatives(self) -> int:
        """How many pairs are taken for two persons that look alike."""
        return len(self.positive) - self.num_positives


def mine_by_agreement(
    features: Tensor, multilabels: Tensor, threshold: Tensor, *, ratio: float, form: str
) -> MinedPairs:
    """Split the most similar pairs by the agreement of their multilabels (eq. 3).

    Similar are the `num_similar` pairs at the smallest feature distance. The two forms differ where the
    agreement equals the threshold: `released` takes A > T for positive, `paper` A >= T.

    Args:
        features: (B, D), at least two rows.
        multilabels: (B, P) rows of the memory, on the features' device: not those of this batch alone.
        threshold: T, (), on the features' device.
        ratio: share of similar pairs, .005 in MAR.
        form: `released` or `paper`.

    Raises:
        ValueError: fewer than two rows, a bad ratio, or an unknown form.

    Memory: B * (B - 1) / 2 numbers, a few times.
    """
    pairs = similar_pairs(features, ratio)
    agreements = pair_agreements(multilabels)
    scores = agreements[pairs]
    reached = agreements.topk(len(pairs)).values[-1]
    rows = rows_of_pairs(pairs, len(features))
    return MinedPairs(rows, scores, _above(scores, threshold, form), threshold, reached)


def mine_by_feature(features: Tensor, *, ratio: float, form: str) -> MinedPairs:
    """Split the most similar pairs by their feature similarity: the ablation's "feature-guided" baseline.

    Our reading: paper and release leave it undefined. Agreement is replaced by f_i . f_j, the threshold by
    its median over the mined pairs (of an even number, half way between the middle two): the nearer half is
    positive. Arguments, errors and memory as in `mine_by_agreement`.
    """
    rows = rows_of_pairs(similar_pairs(features, ratio), len(features))
    kind = torch.promote_types(features.dtype, torch.float32)
    left, right = features.detach().to(kind)[rows].unbind(dim=1)
    scores = (left * right).sum(dim=1)
    threshold = scores.quantile(0.5)
    return MinedPairs(rows, scores, _above(scores, threshold, form), threshold, scores.min())


def discriminative_loss(features: Tensor, mined: MinedPairs) -> Tensor:
    """Compute L_MDL = -log( P / (P + N) ) (eq. 4).

    P is the mean of exp(-||f_i - f_j||_2^2) over the positive pairs, 1 if there are none; N over the
    negative ones, .5 if there are none. (Eq. 4 writes f(z), which is the source's letter; the pairs are of
    target images.)

    Args:
        features: (B, D) unit rows of target images, as they were mined.
        mined: their pairs.

    Returns:
        Scalar, float32 at least; finite for any distances.

    Memory: 3 * K * D numbers.
    """
    kind = torch.promote_types(features.dtype, torch.float32)
    left, right = features.to(kind)[mined.rows].unbind(dim=1)
    distances = (left - right).square().sum(dim=1)
    log_p = _log_mean_exp(-distances, mined.positive, if_none=1)
    log_n = _log_mean_exp(-distances, ~mined.positive, if_none=_NO_NEGATIVES)
    return functional.softplus(log_n - log_p)  # log(1 + N / P)


def next_threshold(mined: MinedPairs, momentum: float) -> Tensor:
    """Return the threshold of the next step: T <- (1 - m) T + m * the K-th largest agreement of the batch.

    Args:
        mined: by agreement, with T.
        momentum: m, share of the batch: .1 in MAR.
    """
    return (1 - momentum) * mined.threshold + momentum * mined.reached.to(mined.threshold.dtype)


def check_rows(rows: Tensor, num_images: int) -> None:
    """Look through the rows of a batch where it is drawn: of a GPU's tensor each look would be a wait.

    Args:
        rows: (B,) int64, each once: a pair of an image with itself is at distance 0 and would be mined.
        num_images: N.

    Raises:
        ValueError: rows outside 0..N-1, or one that is there twice.
    """
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= num_images):
        raise ValueError(f"rows must be 0 to {num_images - 1}")
    if len(torch.unique(rows)) < len(rows):
        raise ValueError("an image is twice in the batch")


class MultilabelMemory:
    """The soft multilabel of every target image, averaged over its visits.

    Attributes:
        table: (N, P) float32 (or `dtype`): N * P * 4 bytes (Market, 4101 agents: 212 MB). Rows not visited
            yet are 0 and would agree wholly: update with a batch before mining it.
        visited: (N,) bool.
        momentum: share of the *new* multilabel in a further visit, .1 in MAR.
    """

    def __init__(
        self,
        num_images: int,
        num_agents: int,
        *,
        momentum: float,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be 0 to 1, got {momentum}")
        self.table = torch.zeros(num_images, num_agents, device=device, dtype=dtype)
        self.visited = torch.zeros(num_images, dtype=torch.bool, device=device)
        self.momentum = momentum

    @torch.no_grad()
    def update(self, rows: Tensor, multilabels: Tensor) -> None:
        """Store the multilabels of a batch: y itself at an image's first visit, then (1 - m) old + m y.

        Args:
            rows: (B,) int64, the images' rows in the table, as `check_rows` wants them.
            multilabels: (B, P); no gradient is kept.

        Raises:
            ValueError: shapes that do not fit.
        """
        if rows.ndim != 1 or multilabels.shape != (len(rows), self.table.shape[1]):
            raise ValueError(
                f"need (B,) and (B, {self.table.shape[1]}), got {tuple(rows.shape)} and "
                f"{tuple(multilabels.shape)}"
            )
        new, old = multilabels.to(self.table.dtype), self.table[rows]
        mixed = (1 - self.momentum) * old + self.momentum * new
        self.table[rows] = torch.where(self.visited[rows, None], mixed, new)
        self.visited[rows] = True

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps, not copied."""
        return {"table": self.table, "visited": self.visited}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned, on this memory's device."""
        self.table.copy_(state["table"])
        self.visited.copy_(state["visited"])


def _above(scores: Tensor, threshold: Tensor, form: str) -> Tensor:
    if form not in ("released", "paper"):
        raise ValueError(f"form must be 'released' or 'paper', got {form!r}")
    return scores >= threshold if form == "paper" else scores > threshold


def _log_mean_exp(values: Tensor, chosen: Tensor, if_none: float) -> Tensor:
    """Return log(mean(exp(values))) over those that are chosen, or log(`if_none`), without asking which."""
    number = chosen.sum()
    some = number > 0
    # Where none is chosen the sum is over all, to have a finite gradient: of which nothing is taken.
    of_chosen = torch.logsumexp(values.masked_fill(~chosen & some, -torch.inf), dim=0)
    return torch.where(some, of_chosen - number.clamp(min=1).to(values.dtype).log(), math.log(if_none))
