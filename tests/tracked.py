"""Run folders without a training, and what MLflow has of them, for the tests of tracking."""

import json
import logging
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from raid import tracking
from raid.config import load
from raid.methods.icsr.config import IcsrConfig
from raid.run_folder import RunFolder

# What a process does that follows a run and is ended from without.
FOLLOWS = """
import sys, time
from pathlib import Path
import tracked
from raid import log, tracking
from raid.tracking import follower

log.configure()
follower.POLL_S = 0.05
path, how, *epochs = sys.argv[1:]
folder = tracked.opened(Path(path), resume=how == "resume")
with tracking.follow(folder, "raid", {"method": "icsr"}):
    print("following", flush=True)
    tracked.record(folder, *map(int, epochs))
    if how == "ends":
        tracked.end(folder)
    else:
        time.sleep(120)
"""
FINGERPRINT = "0123456789abcdef"


def configured(path: Path, **overrides: Any) -> IcsrConfig:
    """A whole configuration; overrides are written `section__field=value`."""
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(IcsrConfig, overrides={"data.root": "images", "run.folder": str(path), **given})


def opened(path: Path, *, resume: bool = False, fresh: bool = False, **overrides: Any) -> RunFolder:
    """Open the folder of a run as a method does."""
    config = configured(path, **overrides)
    return RunFolder.open(path, config, FINGERPRINT, method="icsr", resume=resume, fresh=fresh)


def figures(epoch: int, *, loss: float | None = None, seconds: float = 2.0) -> dict[str, float]:
    """What an epoch records."""
    return {
        "epoch": epoch,
        "refine/discard_probability": 1.0 - epoch / 10,
        "cluster/num": 60.0,
        "cluster/camera_purity": math.nan if epoch == 0 else 0.5,
        "quality/refined_all/bcubed_f": 0.5 + epoch / 100,
        "train/loss": 3.0 - epoch if loss is None else loss,
        "eval/mAP": epoch / 7,
        "time/train_s": seconds + epoch / 1000,
        "time/data_wait_s": seconds / 10,
    }


def record(folder: RunFolder, *epochs: int, **changes: float) -> None:
    """Write epochs down, as the first worker does."""
    for epoch in epochs:
        folder.record_epoch(figures(epoch, **changes), [1.0, 2.0], {"same": [epoch]} if epoch else None)


def end(folder: RunFolder) -> None:
    """Leave what a run leaves at its end."""
    folder.local_labels.write_bytes(b"labels" * 1000)
    folder.model.write_bytes(b"weights")
    folder.report.write_text("<title>a run</title>")


def only_run(client: MlflowClient, experiment: str = "raid") -> Run:
    """The one run that there is."""
    (run,) = all_runs(client, experiment)
    return run


def all_runs(client: MlflowClient, experiment: str = "raid") -> list[Run]:
    """All runs, the first one made first."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def history(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric in the order of the steps, and of the times within."""
    return {
        key: [
            (metric.step, metric.value)
            for metric in sorted(
                client.get_metric_history(run.info.run_id, key), key=lambda m: (m.step, m.timestamp)
            )
        ]
        for key in run.data.metrics
    }


def in_folder(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """What `history` is to be if every epoch was made once."""
    lines = folder.metrics()
    keys = {key for line in lines for key in line} - {"epoch"}
    return {key: [(line["epoch"], line[key]) for line in lines if key in line] for key in keys}


def equal(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two histories are equal; NaN is equal to itself."""
    return repr(sorted(ours.items())) == repr(sorted(theirs.items()))


def assert_complete(client: MlflowClient, folder: RunFolder, downloads: Path, status: str) -> Run:
    """Everything that the folder has is in the one run of MLflow; return that."""
    run = only_run(client)
    assert run.info.status == status
    assert equal(history(client, run), in_folder(folder)), (history(client, run), in_folder(folder))
    expected = {"config.yaml", "metrics.jsonl", "mining.jsonl", "local_labels.parquet", "report.html"}
    expected = {name for name in expected if (folder.path / name).exists()}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == expected
    downloads.mkdir(exist_ok=True)
    for name in expected:
        file = client.download_artifacts(run.info.run_id, name, str(downloads))
        assert Path(file).read_bytes() == (folder.path / name).read_bytes(), name
    return run


def process(path: Path, how: str, *epochs: int) -> "subprocess.Popen[str]":
    """Follow a run in a process that waits when it has recorded `epochs`, unless it ends."""
    command = [sys.executable, "-c", FOLLOWS, str(path), how, *map(str, epochs)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def follow(folder: RunFolder, **tags: str) -> AbstractContextManager[None]:
    """As a method follows its run."""
    return tracking.follow(folder, "raid", tags)


def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def sent(folder: RunFolder) -> list[int]:
    """The epochs that were sent somewhere."""
    try:
        content = json.loads((folder.path / "tracking.json").read_text())
    except FileNotFoundError:
        return []
    return sorted({int(epoch) for place in content["sent"].values() for epoch in place["epochs"]})


def rows(runs: Path) -> dict[str, Any]:
    """How much is in a database."""
    database = sqlite3.connect(runs / "mlflow.db")
    tables = ("runs", "metrics", "latest_metrics", "params", "tags", "experiments")
    counts = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables} | {
        "changed": database.execute("SELECT max(end_time), max(status) FROM runs").fetchone()
    }
    database.close()
    return counts


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the user is warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith(("raid", "urllib3", "mlflow"))
    ]
