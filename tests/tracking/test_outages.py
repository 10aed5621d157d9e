import itertools
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient

from raid import tracking
from raid.tracking import follower, manners
from raid.tracking.record import Record
from raid.tracking.sender import Sender


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_one_that_hangs_slows_nothing_and_is_given_up_at_the_end(
    client, folder, mute, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(follower, "END_WAIT_S", 1.0)
    begun = time.monotonic()
    with tracked.follow(folder):
        entered = time.monotonic()
        for epoch in range(20):
            tracked.record(folder, epoch)
        tracked.end(folder)
        time.sleep(1)  # by now it hangs
        left = time.monotonic()
    ended = time.monotonic()
    assert entered - begun < 1
    assert left - entered < 2
    assert 0.9 < ended - left < 3
    assert tracked.warnings(caplog) == [
        f"tracking: {mute} has not all of this run; `raid track sync {folder.path}` sends the rest"
    ]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.sync(folder)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


def test_the_thread_that_was_given_up_writes_nothing_any_more(folder, mute, monkeypatch):
    monkeypatch.setattr(follower, "END_WAIT_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with tracked.follow(folder):
        time.sleep(0.5)
    before = (folder.path / "tracking.json").read_bytes()
    threads = [thread for thread in threading.enumerate() if thread.name == "raid-tracking"]
    assert threads
    with Record.open(folder.path).changing():  # others can have it
        pass
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert (folder.path / "tracking.json").read_bytes() == before


def test_a_process_ends_though_its_thread_hangs(folder, mute):
    program = "from raid.tracking import follower\nfollower.END_WAIT_S = 0.5\n" + tracked.FOLLOWS
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder.path) + "2", "ends", "0"],
        cwd=Path(tracked.__file__).parent, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 20
    assert done.stderr.splitlines()[1:] == [
        f"tracking: {mute} has not all of this run; `raid track sync {folder.path}2` sends the rest"
    ]


def test_one_that_is_down_is_told_once(client, folder, monkeypatch, caplog, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    attempts, real = [], Sender.send
    monkeypatch.setattr(Sender, "send", lambda sender: attempts.append(time.monotonic()) or real(sender))
    with tracked.follow(folder):
        tracked.record(folder, 0)
        tracked.until(lambda: len(attempts) >= 5)
        ending = time.monotonic()
    assert time.monotonic() - ending < 5
    during, after = tracked.warnings(caplog)
    shown = uri.replace("secret", "***")
    assert during == (
        f"tracking: {shown}: Connection refused; the run goes on, and what is missing is sent when it "
        f"answers again, or by `raid track sync {folder.path}`"
    )
    assert after.startswith(f"tracking: {shown} has not all of this run")
    pauses = [b - a for a, b in itertools.pairwise(attempts)]
    assert pauses[3] > 3 * pauses[0]  # 0.05, 0.1, 0.2, 0.4 and the attempt
    assert "secret" not in caplog.text + (folder.path / "tracking.json").read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.sync(folder)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


def test_one_that_comes_back_gets_what_it_missed(template, tmp_path, caplog):
    runs, folder = tmp_path / "runs", tracked.opened(tmp_path / "runs" / "run")
    (runs / "mlflow.db").mkdir()  # no database can be there
    times = []
    with caplog.at_level(logging.INFO), tracked.follow(folder):
        tracked.record(folder, 0)
        tracked.until(lambda: tracked.warnings(caplog))
        for epoch in (1, 2):
            times.append(time.time() * 1000)
            tracked.record(folder, epoch)
            time.sleep(0.3)
        (runs / "mlflow.db").rmdir()
        shutil.copy(template, runs / "mlflow.db")
        tracked.until(lambda: tracked.sent(folder) == [0, 1, 2])
        tracked.record(folder, 3)
        tracked.end(folder)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    run = tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")
    assert len(tracked.warnings(caplog)) == 1
    assert caplog.text.count("mlflow.db answers again") == 1
    # When an epoch was recorded is seen while nobody answers.
    found = [metric.timestamp for metric in client.get_metric_history(run.info.run_id, "train/loss")][1:3]
    assert all(abs(a - b) < 250 for a, b in zip(found, times, strict=True)), (found, times)


def test_what_the_user_has_set_for_mlflow_stays(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    manners.be_mild()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
