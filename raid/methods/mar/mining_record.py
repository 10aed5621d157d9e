"""What an epoch of MAR mined: figures, and what a report shows. Here alone identities are looked at."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NUM_BINS = 20
_NUM_SHOWN = 6  # pairs of either kind
_KINDS = ("different", "same", "unknown")


@dataclass
class MiningTally:
    """The pairs that the steps of an epoch mined, added up.

    Attributes:
        steps: that mined.
        threshold: after the latest.
        reached: sum over the steps of the K-th largest agreement.
        counts: pairs by how they were taken (positive, negative) and what they are (different, same, not
            known), (2, 3).
        histogram: of the scores, by what the pairs are, (3, 20).
        shown: the nearest pairs that were taken for positive and for negative.
    """

    steps: int = 0
    threshold: float = 0.0
    reached: float = 0.0
    counts: Ints = field(default_factory=lambda: np.zeros((2, 3), np.int64))
    histogram: Ints = field(default_factory=lambda: np.zeros((3, NUM_BINS), np.int64))
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"positives": [], "negatives": []})

    def add(
        self,
        pairs: Ints,
        scores: NDArray[np.floating],
        positive: NDArray[np.bool_],
        similarity: NDArray[np.floating],
        *,
        threshold: float,
        reached: float,
        identities: Ints,
    ) -> None:
        """Count the K pairs of a step, as `MinedPairs` has them.

        Args:
            pairs: (K, 2) rows in the target's training images.
            scores: (K,) of their agreement.
            positive: (K,) which are taken for positive.
            similarity: (K,) of the pairs' features.
            threshold: after the step.
            reached: the K-th largest score of the batch.
            identities: (N,) of the target's training images, -1 = not known.
        """
        scores = np.asarray(scores, np.float64)
        first, second = identities[pairs].T
        truth = np.where((first < 0) | (second < 0), 2, first == second)
        bins = np.clip((scores * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
        np.add.at(self.counts, ((~positive).astype(np.int64), truth), 1)
        np.add.at(self.histogram, (truth, bins), 1)
        self.steps, self.threshold = self.steps + 1, threshold
        self.reached += reached
        for name, which in (("positives", positive), ("negatives", ~positive)):
            self._show(name, np.flatnonzero(which)[:_NUM_SHOWN], pairs, similarity, scores, truth)

    def _show(
        self,
        name: str,
        which: Ints,
        pairs: Ints,
        similarity: NDArray[np.floating],
        scores: NDArray[np.floating],
        truth: Ints,
    ) -> None:
        """Keep the nearest of the pairs seen so far, each pair once."""
        found = {tuple(sorted(pair["rows"])): pair for pair in self.shown[name]}
        for pair in which:
            key = tuple(sorted(int(row) for row in pairs[pair]))
            found[key] = {
                "rows": list(key),
                "similarity": float(similarity[pair]),
                "agreement": float(scores[pair]),
                "same": [False, True, None][int(truth[pair])],
            }
        nearest = sorted(found.values(), key=lambda pair: (-pair["similarity"], pair["rows"]))
        self.shown[name] = nearest[:_NUM_SHOWN]

    def figures(self) -> dict[str, float]:
        """Return the figures of the epoch; none without a step that mined."""
        if self.steps == 0:
            return {}
        known = self.counts[:, :2]
        positives, negatives = known.sum(axis=1).tolist()
        found = {
            "mining/positives": float(self.counts[0].sum() / self.steps),
            "mining/negatives": float(self.counts[1].sum() / self.steps),
            "mining/threshold": self.threshold,
            "mining/reached": self.reached / self.steps,
        }
        if positives:
            found["mining/positive_precision"] = float(known[0, 1] / positives)
        if negatives:
            found["mining/negative_precision"] = float(known[1, 0] / negatives)
        if positives + negatives:
            found["mining/base_rate"] = float(known[:, 1].sum() / (positives + negatives))
        return found

    def details(self, epoch: int) -> dict[str, Any] | None:
        """Return the epoch's line of mining.jsonl; None without a step that mined."""
        if self.steps == 0:
            return None
        edges = [place / NUM_BINS for place in range(NUM_BINS + 1)]
        counts = dict(zip(_KINDS, self.histogram.tolist(), strict=True))
        return {"epoch": epoch, "edges": edges, **counts, **self.shown}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("steps", "threshold", "reached", "shown")} | {
            "counts": torch.from_numpy(self.counts),
            "histogram": torch.from_numpy(self.histogram),
        }

    @staticmethod
    def of_state(state: dict[str, Any]) -> "MiningTally":
        """Return what `state` was of."""
        arrays = {name: state[name].numpy().copy() for name in ("counts", "histogram")}
        return MiningTally(**{**state, **arrays})
