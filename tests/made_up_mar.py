"""Runs of MAR whose records are made up, to be reported."""

from pathlib import Path
from typing import Any

import numpy as np
import tiny
from made_up import record_of

from raid.evaluate import RetrievalSet, save_record
from raid.methods.mar.config import MarConfig
from raid.report import TrainingSets
from raid.run_folder import RunFolder

SECTIONS = [
    "alarms", "pretraining", "losses", "mining", "agents", "pairs", "cameras", "lists", "times", "figures",
    "configuration",
]  # fmt: skip
FACTS = {"set": "Made-up", "protocol": "standard", "source_set": "Elsewhere", "source_version": "V1"}
PRETRAINING, EPOCHS, STEPS = 2, 6, 5
LOSSES = ("mdl", "cml", "al", "rj")


def config(source: Path, target: Path, folder: Path, **overrides: Any) -> MarConfig:
    """The configuration of the run that is made up; overrides are written `section__field=value`."""
    own = {
        "pretraining__epochs": PRETRAINING,
        "training__epochs": EPOCHS - PRETRAINING,
        "mining__begin": 1,
        "losses__lambda2": 50.0,
    }
    return tiny.mar_config(source, target, folder, **{**own, **overrides})


def figures(
    epoch: int,
    *,
    pretraining: int = PRETRAINING,
    mined: bool = True,
    identities: bool = True,
    evaluated: bool = True,
    losses: tuple[str, ...] = LOSSES,
) -> dict[str, Any]:
    """The figures of an epoch of the whole run, all different."""
    rng = np.random.default_rng(epoch)
    found: dict[str, Any] = {"epoch": epoch, "time/train_s": rng.uniform(10, 20), "time/data_wait_s": 1.5}
    if epoch == 0:
        found |= {"time/prepare_s": 40.0, "time/statistics_s": 20.0}
    if epoch < pretraining:
        found |= {"pretraining/loss": 6.0 / (1 + epoch), "pretraining/accuracy": rng.uniform(0.2, 0.9)}
        evaluated &= epoch == pretraining - 1
    else:
        parts = {"mdl": 0.6, "cml": 90.0, "al": 0.1, "rj": 0.4}
        found |= {f"train/{name}": parts[name] * rng.uniform(0.8, 1.2) for name in losses}
        found |= {"train/loss": rng.uniform(8, 12), "source/accuracy": rng.uniform(0.9, 1.0)}
        if epoch > pretraining and mined:
            found |= _mined(rng, identities)
    if evaluated:
        low = 0.6 - 0.3 / (1 + epoch)
        found |= {
            "eval/mAP": low,
            "eval/rank1": low + 0.2,
            "eval/rank5": low + 0.3,
            "eval/rank10": low + 0.35,
        }
        found |= {"eval/mINP": 0.2, "time/evaluate_s": 1.5}
    return found


def _mined(rng: np.random.Generator, identities: bool) -> dict[str, float]:
    found = {
        "mining/positives": rng.uniform(30, 50),
        "mining/negatives": rng.uniform(30, 50),
        "mining/threshold": rng.uniform(0.4, 0.6),
        "mining/reached": rng.uniform(0.4, 0.6),
    }
    if identities:
        found |= {
            "mining/positive_precision": rng.uniform(0.6, 0.9),
            "mining/negative_precision": rng.uniform(0.8, 0.9),
            "mining/base_rate": rng.uniform(0.3, 0.5),
        }
    return found


def mining(epoch: int, sets: TrainingSets, *, identities: bool = True) -> dict[str, Any]:
    """What an epoch recorded of the pairs that it mined."""
    rng = np.random.default_rng(100 + epoch)
    similar = {"same": rng.beta(5, 3, 300), "different": rng.beta(3, 5, 400)}
    counts = {name: np.histogram(values, 20, (0, 1))[0].tolist() for name, values in similar.items()}
    if not identities:
        unknown = np.add(counts["same"], counts["different"]).tolist()
        counts = {"same": [0] * 20, "different": [0] * 20, "unknown": unknown}
    chosen = pairs(sets, rng, identities=identities)
    return {"edges": np.linspace(0, 1, 21).tolist(), "unknown": [0] * 20, **counts, **chosen}


def pairs(sets: TrainingSets, rng: np.random.Generator, *, identities: bool = True) -> dict[str, Any]:
    """Six pairs mined as positive and six as hard negative, a third of them wrongly."""
    people, found = sets.target.identities, {}
    for kind, positive in (("positives", True), ("negatives", False)):
        found[kind] = []
        for number in range(6):
            first = int(rng.integers(len(people)))
            same = positive == (number % 3 != 2)
            others = np.flatnonzero((people == people[first]) == same)
            second = int(rng.choice(others[others != first]))
            found[kind].append(
                {
                    "rows": [first, second],
                    "similarity": rng.uniform(0.6, 0.9),
                    "agreement": rng.uniform(0.5, 0.8) if positive else rng.uniform(0.1, 0.5),
                    "same": same if identities else None,
                }
            )
    return found


def multilabels(sets: TrainingSets, num_samples: int = 4, num_agents: int = 6) -> dict[str, np.ndarray]:
    """Nearest agents of sample images; an agent is a person of the source."""
    rng = np.random.default_rng(7)
    people = np.unique(sets.source.identities[sets.source.identities >= 0])
    agents = np.array([rng.permutation(len(people))[:num_agents] for _ in range(num_samples)])
    values = np.sort(rng.dirichlet(np.full(num_agents + 3, 0.4), num_samples))[:, ::-1][:, :num_agents]
    rows = [[int(np.flatnonzero(sets.source.identities == people[a])[0]) for a in each] for each in agents]
    return {
        "target_rows": rng.permutation(len(sets.target))[:num_samples].astype(np.int64),
        "agents": agents.astype(np.int64),
        "values": values.astype(np.float32),
        "source_rows": np.array(rows, np.int64),
    }


def recorded(
    config: MarConfig,
    sets: TrainingSets,
    epochs: list[dict[str, Any]],
    *,
    fingerprint: str = "images",
    retrieval: RetrievalSet | None = None,
    identities: bool = True,
) -> RunFolder:
    """A finished run of these epochs, with an evaluation where a set to evaluate is given."""
    path = config.run.folder
    folder = RunFolder.open(path, config, fingerprint, method="mar", facts=FACTS, resume=False, fresh=False)
    for epoch in epochs:
        mean = epoch["pretraining/loss"] if "pretraining/loss" in epoch else epoch["train/loss"]
        mined = mining(epoch["epoch"], sets, identities=identities) if "mining/positives" in epoch else None
        folder.record_epoch(epoch, (mean + np.linspace(-0.5, 0.5, STEPS)).tolist(), mined)
    if retrieval is not None:
        save_record(folder.evaluation, record_of(retrieval))
    if any("train/loss" in epoch for epoch in epochs):
        save_record(folder.multilabels, multilabels(sets))
    folder.model.write_text("a model")
    return folder
