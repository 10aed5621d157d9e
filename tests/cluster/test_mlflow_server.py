"""A real MLflow server that is killed in the middle of a run, twice: nothing is lost and nobody waits."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient

from raid.tracking import follower

BIN = Path(sys.executable).parent


class Server:
    """`mlflow server` on this machine, with a database and artifacts of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        log = (self.folder / "server.log").open("ab")
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and its workers at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    yield server
    server.kill()


def sync(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "raid"), "track", "sync", str(folder)], capture_output=True, text=True, timeout=120
    )


def test_a_server_that_is_killed_twice(server, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(follower, "POLL_S", 0.2)
    monkeypatch.setattr(follower, "LONGEST_PAUSE_S", 4.0)
    client = MlflowClient(tracking_uri=server.uri)
    folder = tracked.opened(tmp_path / "runs" / "run")
    took = []

    def epoch(*numbers: int) -> None:
        for number in numbers:
            begun = time.monotonic()
            tracked.record(folder, number)
            took.append(time.monotonic() - begun)
            time.sleep(0.5)

    with tracked.follow(folder, method="icsr"):
        epoch(0, 1)
        tracked.until(lambda: tracked.sent(folder) == [0, 1])
        server.kill()
        epoch(2, 3)
        tracked.until(lambda: tracked.warnings(caplog))
        server.start()
        tracked.until(lambda: tracked.sent(folder) == [0, 1, 2, 3])
        assert tracked.only_run(client).info.status == "RUNNING"
        server.kill()
        epoch(4, 5)
        tracked.end(folder)
        left = time.monotonic()
    assert time.monotonic() - left < follower.END_WAIT_S + 15
    assert max(took) < 2.0  # a server that is away would take as long as its time-outs
    told = tracked.warnings(caplog)
    assert len(told) in (2, 3)  # of the second outage at the end perhaps in the same breath
    assert all(server.uri in line and f"raid track sync {folder.path}" in line for line in told)
    assert caplog.text.count(f"{server.uri} answers again") == 1

    down = sync(folder.path)
    assert (down.returncode, down.stdout) == (2, "")
    assert down.stderr == (
        f"raid: {server.uri}: Connection refused; nothing is lost: everything is in {folder.path}\n"
    )
    server.start()
    up = sync(folder.path)
    assert (up.returncode, up.stderr) == (0, "")
    run = tracked.assert_complete(client, folder, tmp_path / "downloads", "FINISHED")
    assert up.stdout == (
        f"{folder.path}: sent 2 epochs, 5 files, status; FINISHED as run {run.info.run_id} at {server.uri}\n"
    )
    assert run.data.params["run.folder"] == str(folder.path)
    assert run.data.tags["method"] == "icsr"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert "nothing new" in sync(folder.path).stdout
    assert capfd.readouterr().out == ""
