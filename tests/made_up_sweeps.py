"""Sweeps whose records are made up, to be reported."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import page

from raid.report import write_sweep_report
from raid.sweep_folder import Axis, Objective, SweepFolder, SweepRecord, Trial

MAP = Objective("mAP", "eval/mAP", "max", "mean average precision of the last epoch", on_test_set=True)
SILHOUETTE = Objective(
    "silhouette", "cluster/silhouette", "max", "how far clusters are apart, without any label"
)
LOSS = Objective("loss", "train/loss", "min", "training loss of the last epoch")
SECTIONS = ["best", "points", "effects", "coordinates", "importance", "curves", "trials", "configuration"]
DECAYS = ("off", "none", "linear", "exponential", "cosine")
DECAY = Axis("refine.decay", DECAYS, instead={"off": {"refine.enabled": False}})
BEGUN = 1_700_000_000.0


def record(axes: Sequence[Axis], **changes: Any) -> SweepRecord:
    given: dict[str, Any] = {
        "name": "made_up", "method": "icsr", "file": "jobs/icsr_demo.yaml", "overrides": (), "objective": MAP,
        "search": "grid", "scheduler": "none", "num_samples": 1, "seeds": (1,), "seed": 0,
    }  # fmt: skip
    return SweepRecord(**(given | changes), axes=tuple(axes))


def curve(key: str, last: float, epochs: int) -> list[dict[str, Any]]:
    """Epochs that come to a value."""
    return [
        {"epoch": epoch, key: last * (1 - math.exp(-3 * (epoch + 1) / epochs)) / (1 - math.exp(-3))}
        for epoch in range(epochs)
    ]


def add(
    folder: SweepFolder,
    number: int,
    point: dict[str, Any],
    value: float | None,
    *,
    seed: int = 1,
    state: str = "done",
    epochs: Sequence[dict[str, Any]] | None = None,
    key: str = "eval/mAP",
    reason: str = "",
    seconds: float = 300.0,
) -> None:
    """Write a trial, by default of three epochs that come to its value."""
    run = folder.run(number)
    run.path.mkdir(parents=True)
    begun = BEGUN + 60.0 * number
    ended = None if state == "running" else begun + seconds
    folder.write_trial(
        Trial(
            number=number, point=point, seed=seed, state=state, value=value, reason=reason, started_s=begun,
            ended_s=ended,
        )
    )  # fmt: skip
    if epochs is None:
        epochs = [] if value is None else curve(key, value, 3)
    for epoch in epochs:
        run.record_epoch(epoch, [])
    if state in ("done", "stopped"):
        run.report.write_text("a page")


def decay(path: Path, *, seeds: Sequence[int] = (1, 2, 3), epochs: int = 12) -> SweepFolder:
    """The ablation of the decay: every schedule with every seed."""
    folder, rng = SweepFolder(path), np.random.default_rng(0)
    num_trials = len(DECAYS) * len(seeds)
    folder.write(record([DECAY], name="decay_schedule", seeds=tuple(seeds), num_trials=num_trials))
    lasts = dict(zip(DECAYS, (0.412, 0.424, 0.447, 0.441, 0.459), strict=True))
    starts = {seed: rng.normal(0, 0.008) for seed in seeds}
    number = 0
    for name in DECAYS:
        for seed in seeds:
            last = lasts[name] + starts[seed] + rng.normal(0, 0.006)
            found = curve("eval/mAP", last, epochs)
            for epoch in found:
                epoch["eval/mAP"] += rng.normal(0, 0.004) if epoch["epoch"] < epochs - 1 else 0.0
                epoch["eval/rank1"] = epoch["eval/mAP"] + 0.05
            add(folder, number, {DECAY.path: name}, last, seed=seed, epochs=found)
            number += 1
    folder.best.write_text("refine:\n  decay: cosine\n")
    return folder


def written(folder: SweepFolder) -> page.Node:
    path = write_sweep_report(folder)
    assert path == folder.report
    return page.read(path)


def rows(node: page.Node, caption: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    (found,) = [table for table in node.all("table") if table.one("caption").text == caption]
    return [[cell.text for cell in row.children] for row in found.all("tr")]
