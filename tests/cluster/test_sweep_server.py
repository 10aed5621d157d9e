"""A sweep's own MLflow server, a real one: killed in mid-sweep, ended with its driver; nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient
from mlflow.entities import Run

from raid import tracking
from raid.run_folder import RunFolder
from raid.tracking import follower, parent, place
from raid.tracking.registry import _new_version
from raid.tracking.server import served
from raid.tracking.sweep import Parent, Trial, close_trials

BIN = Path(sys.executable).parent
# A trial: records the epoch that it is told, ends when it is told no more.
TRIAL = """
import sys
from pathlib import Path
import tracked
from raid import tracking
from raid.tracking import follower
follower.POLL_S = 0.2
path, parent = sys.argv[1:]
folder = tracked.opened(Path(path), track__parent=parent)
with tracking.follow(folder, "raid", {tracking.PARENT_TAG: parent}):
    for line in sys.stdin:
        tracked.record(folder, int(line))
    tracked.end(folder)
"""
DRIVER = """
import sys, time
from pathlib import Path
from raid.tracking.server import served
with served(Path(sys.argv[1])):
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep") / "runs"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(follower, "POLL_S", 0.2)


def processes(runs: Path) -> dict[int, str]:
    """What is alive of the server over the database in `runs`: the command, and what it has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [(int(process.name), group, command)] if state != "Z" else []
    groups = {group for _, group, command in found if f"sqlite:///{runs}/mlflow.db" in command}
    return {pid: command for pid, group, command in found if group in groups}


class Started:
    """A trial in a process of its own."""

    def __init__(self, path: Path, parent: str) -> None:
        self.folder = RunFolder(path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRIAL, str(path), parent],
            cwd=Path(tracked.__file__).parent, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def records(self, *epochs: int) -> None:
        assert self.process.stdin is not None
        for epoch in epochs:
            self.process.stdin.write(f"{epoch}\n")
            self.process.stdin.flush()

    def ends(self) -> str:
        _, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        return err


def assert_sent(client: MlflowClient, run: Run, folder: RunFolder, downloads: Path) -> None:
    """All that the folder has is there once, and no more."""
    assert tracked.equal(tracked.history(client, run), tracked.in_folder(folder))
    files = {"config.yaml", "metrics.jsonl", "mining.jsonl", "local_labels.parquet", "report.html"}
    files = {name for name in files if (folder.path / name).exists()}
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == files
    for name in files:
        found = client.download_artifacts(run.info.run_id, name, str(downloads))
        assert Path(found).read_bytes() == (folder.path / name).read_bytes()


@pytest.mark.timeout(400)
def test_one_that_is_killed_in_mid_sweep(runs, tmp_path):
    sweep, rest = runs / "project" / "sweep", tracked.opened(runs / "rest")
    tracked.record(rest, 0)
    with served(sweep) as uri:
        assert uri == f"sqlite:///{runs}/mlflow.db"
        whole = Parent.open(sweep, uri, "raid", "a sweep", {"trials": "2"}, {})
        trials = [Started(sweep / name, whole.run_id) for name in ("first", "second")]
        for trial in trials:
            trial.records(0, 1)
        whole.log({"best": 0.1}, 1)
        tracked.until(lambda: [tracked.sent(trial.folder) for trial in trials] == [[0, 1]] * 2, 120)

        before, reached = processes(runs), place.reached_by(uri)
        (serving,) = [pid for pid, args in before.items() if "-m uvicorn" in args]
        os.kill(serving, signal.SIGKILL)
        for trial in trials:
            trial.records(2, 3)
        whole.log({"best": 0.2}, 2)
        tracked.until(lambda: [tracked.sent(trial.folder) for trial in trials] == [[0, 1, 2, 3]] * 2, 180)
        assert place.reached_by(uri) == reached
        assert not set(processes(runs)) & set(before)

        first, second = trials
        said = first.ends()
        assert "the run goes on, and what is missing is sent when it answers again" in said
        second.process.kill()  # as a scheduler does
        second.process.communicate()
        through = subprocess.run(
            [str(BIN / "raid"), "track", "sync", str(rest.path)], capture_output=True, text=True, timeout=120
        )
        assert "sent settings, 1 epochs" in through.stdout
        stopped = Trial(second.folder.path, "FINISHED", {"stopped_by": "asha"})
        assert close_trials([Trial(first.folder.path), stopped], uri, 60) == []
        (sweep / "best.json").write_text("{}")
        assert whole.end("FINISHED", [sweep / "best.json"], {}, 60)
        registered = register(MlflowClient(tracking_uri=reached), whole.run_id, tmp_path)
    assert processes(runs) == {}
    assert sorted(path.name for path in runs.iterdir()) == ["mlflow.db", "mlruns", "project", "rest"]

    client = MlflowClient(tracking_uri=uri)
    found = {run.info.run_name: run for run in tracked.all_runs(client)}
    assert sorted(found) == ["a sweep", "first", "rest", "second"]
    for trial in trials:
        run = found[trial.folder.path.name]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == whole.run_id
        assert run.info.artifact_uri == f"{runs}/mlruns/{run.info.run_id}/artifacts"
        assert_sent(client, run, trial.folder, tmp_path)
        assert "nothing new" in tracking.sync(trial.folder)
    assert found["second"].data.tags["stopped_by"] == "asha"
    assert_sent(client, found["rest"], rest, tmp_path)
    assert tracked.history(client, found["a sweep"]) == {"best": [(1, 0.1), (2, 0.2)]}
    assert [file.path for file in client.list_artifacts(whole.run_id)] == ["best.json"]
    assert "nothing new" in parent.sync_sweep(sweep)
    assert client.get_model_version("people", "1").source == registered


def register(client: MlflowClient, run_id: str, folder: Path) -> str:
    """Register what is no model, as `raid register` does; return where it is."""
    (folder / "model").mkdir()
    (folder / "model" / "MLmodel").write_text("")
    client.create_registered_model("people")
    logged = client.create_logged_model(client.get_run(run_id).info.experiment_id, source_run_id=run_id)
    client.log_model_artifacts(logged.model_id, str(folder / "model"))
    assert _new_version(client, "people", logged, {}) == "1"
    return str(logged.artifact_location)


@pytest.mark.timeout(300)
def test_of_a_driver_that_is_killed_nothing_is_left(runs):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, runs / "sweep"], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"up\n"
    assert len(processes(runs)) >= 2
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    deadline = time.monotonic() + 10
    while processes(runs):
        assert time.monotonic() < deadline, processes(runs)
        time.sleep(0.1)
    uri = place.own_uri(runs / "sweep")
    assert place.reached_by(uri) == uri
