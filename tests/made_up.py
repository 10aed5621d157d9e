"""Runs whose records are made up, to be reported."""

from typing import Any

import numpy as np
import page

from raid.evaluate import RetrievalSet, camera_record, final_record, save_record
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import Inputs
from raid.protocols import Options
from raid.report import TrainingSets, write_report
from raid.run_folder import RunFolder

SECTIONS = ["alarms", "labels", "clusters", "fit", "cameras", "lists", "times", "figures", "configuration"]
QUALITY = {
    "B-cubed precision": "bcubed_precision",
    "B-cubed recall": "bcubed_recall",
    "B-cubed F": "bcubed_f",
    "Expansion": "expansion",
}
LINES = {
    "global": "global",
    "local (within a camera)": "local",
    "refined": "refined",
    "refined, discards as singletons": "refined_all",
}
STEPS = 4


def figures(
    epoch: int, *, refined: bool = True, identities: bool = True, evaluated: bool = True
) -> dict[str, Any]:
    """The figures of an epoch, all different."""
    rng = np.random.default_rng(epoch)
    found: dict[str, Any] = {
        "epoch": epoch,
        "train/loss": 3.0 / (1 + epoch),
        "cluster/num": 50.0 + epoch,
        "cluster/coverage": rng.uniform(0.7, 0.9) if refined else 1.0,
        "cluster/size_max": 30.0,
        "cluster/size_median": 4.5,
        "cluster/largest": 30.0 / 300,
        "cluster/singletons": 3.0 + epoch,
        "cluster/silhouette": rng.uniform(0.2, 0.4),
        "cluster/camera_purity": rng.uniform(0.5, 0.7),
        "refine/discarded": rng.uniform(0.1, 0.2) if refined else 0.0,
        "time/cluster_s": rng.uniform(1, 2),
        "time/train_s": rng.uniform(10, 20),
        "time/data_wait_s": rng.uniform(1, 2),
        **{"time/step_s": 1000.0, "time/images_per_s": 1000.0},  # of the steps: no stages
        **({"time/prepare_s": 40.0, "time/intra_camera_s": 300.0} if epoch == 0 else {}),
    }
    if epoch:
        found["cluster/churn"] = rng.uniform(0.1, 0.4)
    if refined:
        found["refine/discard_probability"] = 1.0 - 0.1 * epoch
    if identities:
        for of in ("global", "refined", "refined_all", *(["local"] if refined else [])):
            scores = {key: rng.uniform(0.3, 0.9) for key in QUALITY.values()} | {
                "expansion": rng.uniform(1, 4)
            }
            found |= {f"quality/{of}/{key}": value for key, value in scores.items()}
    if evaluated:
        # The best epoch is the one before the last of three.
        found |= {"eval/mAP": [0.31, 0.52, 0.47][epoch % 3], "eval/rank1": rng.uniform(0.5, 0.6)}
        found |= {"eval/rank5": 0.7, "eval/rank10": 0.8, "eval/mINP": 0.2, "time/evaluate_s": 1.5}
    return found


def features(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def record_of(retrieval: RetrievalSet) -> dict[str, Any]:
    sides = features(len(retrieval.query), 1), features(len(retrieval.gallery), 2)
    record = final_record(retrieval, *sides, Options())
    return record | camera_record(sides[1], retrieval.gallery)


def recorded(config: IcsrConfig, inputs: Inputs, epochs: list[dict[str, Any]]) -> RunFolder:
    """A finished run of these epochs, with an evaluation where one was evaluated."""
    facts = {"set": "Made-up", "version": "V2", "protocol": "standard"}
    folder = RunFolder.open(
        config.run.folder, config, inputs.fingerprint, method="icsr", facts=facts, resume=False, fresh=False
    )
    for epoch in epochs:
        losses = epoch["train/loss"] + np.linspace(-0.5, 0.5, STEPS)
        folder.record_epoch(epoch, losses.tolist())
    if any("eval/mAP" in epoch for epoch in epochs):
        save_record(folder.evaluation, record_of(inputs.retrieval))
    folder.model.write_text("a model")
    return folder


def written(
    folder: RunFolder, retrieval: RetrievalSet | None = None, training: TrainingSets | None = None
) -> page.Node:
    path = write_report(folder, retrieval, training)
    assert path == folder.report
    return page.read(path)
