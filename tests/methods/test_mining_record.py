import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from raid.losses.discriminative import MinedPairs
from raid.methods.mar.mining_record import NUM_BINS, MiningTally

IDENTITIES = np.array([4, 4, 9, 9, 9, -1, 7, 4])


def mined(seed: int, number: int = 12) -> tuple[MinedPairs, np.ndarray, np.ndarray]:
    """Pairs of a batch, nearest first, with the batch's rows and the pairs' similarities."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(8)[:6]
    pairs = rng.permutation([(i, j) for i in range(6) for j in range(i + 1, 6)])[:number]
    scores = rng.uniform(0, 1, number)
    similarity = np.sort(rng.uniform(-1, 1, number))[::-1]
    threshold = 0.5 + 0.01 * seed
    return (
        MinedPairs(
            torch.from_numpy(pairs),
            torch.from_numpy(scores),
            torch.from_numpy(scores > threshold),
            torch.tensor(threshold, dtype=torch.float64),
            torch.tensor(0.3 + 0.1 * seed, dtype=torch.float64),
        ),
        rows,
        similarity,
    )


def add(
    tally: MiningTally,
    mined: MinedPairs,
    threshold: float,
    rows: np.ndarray,
    similarity: np.ndarray,
    identities: np.ndarray,
) -> None:
    pairs, scores, positive = rows[mined.rows.numpy()], mined.scores.numpy(), mined.positive.numpy()
    tally.add(
        pairs, scores, positive, similarity,
        threshold=threshold, reached=float(mined.reached), identities=identities,
    )  # fmt: skip


def tallied(steps: int, identities: np.ndarray = IDENTITIES) -> MiningTally:
    tally = MiningTally()
    for seed in range(steps):
        pairs, rows, similarity = mined(seed)
        add(tally, pairs, float(pairs.threshold) + 0.001, rows, similarity, identities)
    return tally


def slow_pairs(steps: int, identities: np.ndarray = IDENTITIES) -> list[dict[str, Any]]:
    """Every pair of every step, looked at by itself."""
    found = []
    for seed in range(steps):
        pairs, rows, similarity = mined(seed)
        for number, (i, j) in enumerate(pairs.rows.tolist()):
            one, other = sorted((int(rows[i]), int(rows[j])))
            unknown = identities[one] < 0 or identities[other] < 0
            found.append(
                {
                    "rows": [one, other],
                    "agreement": float(pairs.scores[number]),
                    "similarity": float(similarity[number]),
                    "same": None if unknown else bool(identities[one] == identities[other]),
                    "positive": bool(pairs.positive[number]),
                }
            )
    return found


def test_figures_are_those_of_all_pairs_of_the_epoch():
    pairs, figures = slow_pairs(3), tallied(3).figures()
    positives = [pair for pair in pairs if pair["positive"]]
    negatives = [pair for pair in pairs if not pair["positive"]]
    assert figures == pytest.approx(
        {
            "mining/positives": len(positives) / 3,
            "mining/negatives": len(negatives) / 3,
            "mining/threshold": 0.52 + 0.001,  # after the last step
            "mining/reached": (0.3 + 0.4 + 0.5) / 3,
            "mining/positive_precision": mean_same(positives),
            "mining/negative_precision": 1 - mean_same(negatives),
            "mining/base_rate": mean_same(pairs),
        }
    )


def mean_same(pairs: list[dict[str, Any]]) -> float:
    return float(np.mean([pair["same"] for pair in pairs if pair["same"] is not None]))


def test_histogram_counts_every_pair_by_what_it_is():
    details = tallied(3).details(7)
    assert details["epoch"] == 7
    assert details["edges"] == [number / NUM_BINS for number in range(NUM_BINS + 1)]
    pairs = slow_pairs(3)
    for kind, same in (("same", True), ("different", False), ("unknown", None)):
        scores = [pair["agreement"] for pair in pairs if pair["same"] is same]
        assert details[kind] == np.histogram(scores, details["edges"])[0].tolist()
    assert sum(map(sum, (details["same"], details["different"], details["unknown"]))) == 36
    json.dumps(details)


@pytest.mark.parametrize("steps", [1, 5])
def test_shown_are_the_nearest_pairs_each_once(steps):
    """A step shows its six nearest of either kind; of a pair that comes again the latest counts."""
    details = tallied(steps).details(0)
    for kind, positive in (("positives", True), ("negatives", False)):
        nearest: dict[tuple[int, ...], dict[str, Any]] = {}
        for step in range(steps):
            pairs = slow_pairs(steps)[12 * step : 12 * step + 12]
            for pair in [pair for pair in pairs if pair["positive"] == positive][:6]:
                nearest[tuple(pair["rows"])] = {key: pair[key] for key in pair if key != "positive"}
            kept = sorted(nearest.items(), key=lambda item: -item[1]["similarity"])[:6]
            nearest = dict(kept)
        assert details[kind] == list(nearest.values())
        rows = [tuple(pair["rows"]) for pair in details[kind]]
        assert len(set(rows)) == len(rows)


def test_scores_at_and_beyond_the_ends_are_counted():
    scores = torch.tensor([0.0, 1.0, -0.2, 0.05, 0.95], dtype=torch.float64)
    rows = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2]])
    pairs = MinedPairs(rows, scores, scores > 0.5, torch.tensor(0.5), torch.tensor(0.5))
    tally = MiningTally()
    add(tally, pairs, 0.5, np.arange(5), np.linspace(1, 0, 5), np.array([1, 1, 1, 1, 1]))
    same = tally.details(0)["same"]
    assert (same[0], same[1], same[-1]) == (2, 1, 2)
    assert sum(same) == 5


def test_nobody_known_and_nothing_mined():
    nobody = tallied(2, np.full(8, -1))
    assert set(nobody.figures()) == {
        "mining/positives", "mining/negatives", "mining/threshold", "mining/reached",
    }  # fmt: skip
    assert sum(nobody.details(0)["unknown"]) == 24
    assert {pair["same"] for pair in nobody.details(0)["positives"]} == {None}
    assert MiningTally().figures() == {}
    assert MiningTally().details(0) is None


@pytest.mark.parametrize("threshold", [2.0, -1.0])
def test_one_kind_alone_has_one_precision(threshold):
    pairs, rows, similarity = mined(0)
    one_kind = replace(pairs, positive=pairs.scores > threshold)
    tally = MiningTally()
    add(tally, one_kind, threshold, rows, similarity, IDENTITIES)
    figures = tally.figures()
    assert ("mining/positive_precision" in figures) == (threshold < 0)
    assert ("mining/negative_precision" in figures) == (threshold > 1)
    assert figures["mining/base_rate"] == pytest.approx(mean_same(slow_pairs(1)))


def test_a_tally_goes_on_where_its_state_was_taken(tmp_path):
    torch.save(tallied(2).state(), tmp_path / "state.pt")
    resumed = MiningTally.of_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in (2, 3):
        pairs, rows, similarity = mined(seed)
        add(resumed, pairs, float(pairs.threshold) + 0.001, rows, similarity, IDENTITIES)
    whole = tallied(4)
    assert resumed.figures() == whole.figures()
    assert resumed.details(3) == whole.details(3)
