"""Sweeps on real clusters of this machine: stopped, killed and resumed trials, and who has room for whom."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from mlflow import MlflowClient
from mlflow.entities import Run
from sweeping import options

from raid.config import to_yaml
from raid.distributed.ray_cluster import connect
from raid.errors import InputError
from raid.methods.sweeps.definition import MAP, SILHOUETTE, Sweep
from raid.methods.sweeps.driver import run_sweep
from raid.methods.sweeps.stages import LOCAL_LABELS
from raid.methods.sweeps.training import Training
from raid.run_folder import RunFolder
from raid.sweep_folder import Axis, SweepFolder

ray = pytest.importorskip("ray")
SCRIPT = Path(__file__).parents[2] / "tune" / "decay_schedule.py"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cluster and no server of others; none of a test is left behind."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield
    ray.shutdown()


def run_file(folder: Path, **overrides: Any) -> Path:
    """The run file of one-worker runs of seconds without a pool."""
    root = tiny.write_images(folder / "images")
    given = {"pool__size": 0, "track__enabled": True, **overrides}
    file = folder / "tiny.yaml"
    file.write_text(to_yaml(tiny.config(root, folder / "runs" / "sweep", **given)))
    return file


def until(happened: Any, seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_stopped_trials_give_their_cpus_back(tmp_path, capfd):
    """Ray leaks the workers of a trial that is stopped where no dashboard tells that their owner is gone."""
    # The best point is the first: what is in each wave stopped at the first epoch depends on nobody's haste.
    counts = (8, 2, 3, 4, 5)
    sweep = Sweep("asha", "icsr", "numbers of clusters", (Axis("inter.num_clusters", counts),), (SILHOUETTE,))
    file = run_file(tmp_path, refine__enabled=False, inter__epochs=4)
    connect(num_cpus=3)
    run_sweep(sweep, options(file, scheduler="asha", grace=1), Training(()))
    folder = SweepFolder(tmp_path / "runs" / "sweep")
    trials = folder.trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert {trial.state for trial in trials} == {"done", "stopped"}
    stopped = [trial for trial in trials if trial.state == "stopped"]
    # A wave of three, and two more, which begin in the place of others.
    assert sum(trial.started_s > min(other.ended_s for other in trials) for trial in trials) >= 2
    assert all(len(folder.run(trial.number).metrics()) < 4 for trial in stopped)
    assert "3 at a time: one needs 1 CPU, the cluster has 3" in capfd.readouterr().out
    until(lambda: ray.available_resources().get("CPU") == 3.0, 60.0)
    runs = _nested(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")[1]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    by = {name: run.data.tags.get("stopped_by") for name, run in runs.items()}
    assert by == {f"{trial.number:03d}": "asha" if trial in stopped else None for trial in trials}


def test_more_than_the_cluster_has_is_refused_before_anything_is_written(tmp_path):
    sweep = Sweep("made_up", "icsr", "decays", (Axis("refine.decay", ("none", "cosine")),), (MAP,))
    file = run_file(tmp_path)
    connect(num_cpus=2)
    with pytest.raises(
        InputError,
        match=r"--max-concurrent: 3 trials of 1 CPU each at the same time, and the cluster has 2; "
        "ask for at most 2",
    ):
        run_sweep(sweep, options(file, objective="mAP", max_concurrent=3), Training((LOCAL_LABELS,)))
    large = options(file, "run.workers=4", objective="mAP")
    with pytest.raises(InputError, match=r"run.workers: a trial needs 4 CPUs, and the cluster has 2"):
        run_sweep(sweep, large, Training((LOCAL_LABELS,)))
    assert not (tmp_path / "runs").exists()


def command(file: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Run tune/decay_schedule.py over two decays and two seeds, as a user does, in a group of its own."""
    line = [sys.executable, str(SCRIPT), str(file), "--objective", "churn", "--search", "grid"]
    chosen = ["--axes", "decay", "--values", "decay=[off, cosine]", "--seeds", "2"]
    log = (file.parent / "log").open("ab")
    return subprocess.Popen([*line, *chosen, *arguments], stdout=log, stderr=log, start_new_session=True)


def test_a_sweep_that_is_killed_half_way_goes_on_with_the_trials_that_are_left(tmp_path):
    """And two trials of one worker without a pool run at the same time on two CPUs."""
    file = run_file(tmp_path, inter__epochs=3)
    folder = SweepFolder(tmp_path / "runs" / "sweep")
    first = command(file)
    until(lambda: any(trial.state == "done" for trial in folder.trials()) or first.poll() is not None)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
    done = {trial.number: trial for trial in folder.trials() if trial.state == "done"}
    assert 1 <= len(done) < 4, (tmp_path / "log").read_text()
    written = {number: (folder.run(number).model).stat().st_mtime_ns for number in done}

    second = command(file, "--resume")
    assert second.wait(280) == 0, (tmp_path / "log").read_text()
    trials = folder.trials()
    assert [(trial.point["refine.decay"], trial.seed) for trial in trials] == [
        ("off", 1), ("off", 2), ("cosine", 1), ("cosine", 2),
    ]  # fmt: skip
    assert all(trial.state == "done" for trial in trials)
    for number, trial in done.items():
        assert trials[number] == trial
        assert folder.run(number).model.stat().st_mtime_ns == written[number]
    assert "2 at a time: one needs 1 CPU" in (tmp_path / "log").read_text()
    pairs = [(one, other) for one in trials for other in trials if one.number < other.number]
    assert any(one.started_s < other.ended_s and other.started_s < one.ended_s for one, other in pairs)
    _check_tracked(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", folder)


def _nested(uri: str) -> tuple[Run, dict[str, Run]]:
    """The one run of a sweep that MLflow has, and those that are nested in it, each once, by name."""
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "raid"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "sweep" in run.data.tags]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    by_name = {run.info.run_name: run for run in nested}
    assert len(by_name) == len(nested)
    return parent, by_name


def _check_tracked(uri: str, folder: SweepFolder) -> None:
    """MLflow has every trial once, nested, finished and with all its epochs."""
    client = MlflowClient(tracking_uri=uri)
    parent, by_name = _nested(uri)
    assert parent.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {"best.yaml", "report.html"}
    for trial in folder.trials():
        run = by_name[f"{trial.number:03d}"]
        epochs = RunFolder(folder.run(trial.number).path).metrics()
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert run.info.status == "FINISHED"
        assert {metric.step: metric.value for metric in history} == {
            epoch["epoch"]: epoch["train/loss"] for epoch in epochs
        }


def test_a_server_that_is_killed_and_started_again_in_the_middle(tmp_path, monkeypatch):
    from test_mlflow_server import Server

    place = tmp_path / "server"
    place.mkdir()
    server = Server(place)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    file = run_file(tmp_path, inter__epochs=6)
    folder = SweepFolder(tmp_path / "runs" / "sweep")
    try:
        sweep = command(file)
        until(lambda: _epochs(folder) >= 2 or sweep.poll() is not None)
        server.kill()
        until(lambda: any(trial.state == "done" for trial in folder.trials()) or sweep.poll() is not None)
        assert sweep.poll() is None, (tmp_path / "log").read_text()
        server.start()
        assert sweep.wait(280) == 0, (tmp_path / "log").read_text()
        assert all(trial.state == "done" for trial in folder.trials())
        _check_tracked(server.uri, folder)
    finally:
        server.kill()


def _epochs(folder: SweepFolder) -> int:
    return sum(len(folder.run(trial.number).metrics()) for trial in folder.trials())


def test_a_database_that_trials_would_write_to_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    file = run_file(tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(file), "--objective", "mAP"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "sqlite" in done.stderr
    assert "mlflow server --backend-store-uri" in done.stderr
    assert not (tmp_path / "runs").exists()
