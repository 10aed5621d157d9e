"""The server of a sweep, with one that is up at once for MLflow's; tests/cluster has the real one."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked

from raid.errors import InputError
from raid.tracking import place, server
from raid.tracking.manners import TrackingError
from raid.tracking.record import Held, Record, locked
from raid.tracking.sender import Sender

# A command that serves by another process, as MLflow's does; it tells both their numbers.
FAKE = """
import subprocess, sys
SERVE = '''
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getppid()} {os.getpid()}".encode())
    def log_message(self, *arguments): pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''
port = sys.argv[sys.argv.index("--port") + 1]
subprocess.run([sys.executable, "-c", SERVE, port])
"""
DRIVER = """
import sys, time
from pathlib import Path
from raid.tracking import server
server._GUARDED = sys.argv[2]
with server.served(Path(sys.argv[1])) as uri:
    print(uri, flush=True)
    time.sleep(120)
"""


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> str:
    guard, _, _ = server._GUARDED.partition("from mlflow.cli")
    monkeypatch.setattr(server, "_GUARDED", guard + FAKE)
    monkeypatch.setattr(server, "POLL_S", 0.05)
    monkeypatch.setattr(server, "FIRST_PAUSE_S", 0.05)
    return server._GUARDED


@pytest.fixture
def uri(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


def pids(uri: str) -> list[int]:
    """The processes of the server that `uri` is reached by; none if it is not up."""
    try:
        with urllib.request.urlopen(place.reached_by(uri), timeout=5) as answer:
            return [int(number) for number in answer.read().split()]
    except (OSError, ValueError):
        return []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pids: list[int]) -> None:
    """Processes that were killed take a moment."""
    tracked.until(lambda: not any(map(alive, pids)), 5)


def test_it_is_up_for_everybody_while_the_block_runs(runs, uri):
    program = f"from raid.tracking import place\nprint(place.reached_by({uri!r}))"
    with server.served(runs / "sweep") as served:
        assert served == uri
        reached, found = place.reached_by(uri), pids(uri)
        assert reached.startswith("http://127.0.0.1:")
        assert len(found) == 2
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == reached
    assert place.reached_by(uri) == uri
    gone(found)
    assert [path.name for path in runs.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_is_started_again_at_the_same_port(runs, uri, killed, caplog):
    with server.served(runs / "sweep"):
        reached, before = place.reached_by(uri), pids(uri)
        os.kill(before[killed], signal.SIGKILL)
        tracked.until(lambda: pids(uri) and not set(pids(uri)) & set(before))
        assert place.reached_by(uri) == reached
        gone(before)
    assert tracked.warnings(caplog) == [
        "tracking: the MLflow server has ended: it was killed; it is started again"
    ]


def test_of_a_driver_that_is_killed_nothing_is_left(runs, uri, guarded):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, runs / "sweep", guarded], stdout=subprocess.PIPE)
    assert driver.stdout is not None
    assert driver.stdout.readline().decode().strip() == uri
    found = pids(uri)
    assert all(map(alive, found))
    assert len(found) == 2
    driver.kill()
    driver.communicate()
    gone(found)
    assert place.server_file(uri).exists()  # and says nothing any more
    assert place.reached_by(uri) == uri
    with server.served(runs / "sweep"):  # nor is in the way
        assert len(pids(uri)) == 2


def test_a_second_sweep_joins_and_takes_over(runs, uri):
    with server.served(runs / "first"):
        found = pids(uri)
        joined, leave = threading.Event(), threading.Event()

        def sweep() -> None:
            with server.served(runs / "second"):
                joined.set()
                leave.wait(60)

        second = threading.Thread(target=sweep)
        second.start()
        assert joined.wait(10)
        assert pids(uri) == found
    gone(found)
    tracked.until(lambda: len(pids(uri)) == 2)
    later = pids(uri)
    leave.set()
    second.join(10)
    assert place.reached_by(uri) == uri
    gone(later)


def test_why_none_can_be_started_is_told(runs, uri, monkeypatch, tmp_path):
    monkeypatch.setattr(server, "_GUARDED", "raise SystemExit('no room')")
    with pytest.raises(InputError, match=r"no MLflow server can be started over it: no room; set MLFLOW_"):
        server.served(runs / "sweep").__enter__()
    assert place.reached_by(uri) == uri
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(InputError, match="file is not a database; set MLFLOW_TRACKING_URI"):
        server.served(tmp_path / "other" / "sweep").__enter__()


def test_what_a_killed_sweep_left_is_not_taken_for_the_one_that_starts(runs, uri, monkeypatch):
    monkeypatch.setattr(server, "_GUARDED", "import time\ntime.sleep(60)")
    monkeypatch.setattr(server, "START_WAIT_S", 1.0)
    file = place.server_file(uri)
    file.write_text(json.dumps({"host": socket.gethostname(), "port": 1234}))
    failed = []

    def sweep() -> None:
        with pytest.raises(InputError, match="it does not answer"):
            server.served(runs / "sweep").__enter__()
        failed.append(True)

    def starting() -> bool:
        try:
            os.close(locked(file))
        except Held:
            return True
        return False

    starts = threading.Thread(target=sweep)
    starts.start()
    tracked.until(starting, 5)
    tracked.until(lambda: place.reached_by(uri) == uri and starting(), 0.5)
    starts.join(10)
    assert failed
    assert not file.exists()


@pytest.fixture
def announced(uri: str) -> Iterator[Path]:
    """The file of a server that this process has up."""
    file = place.server_file(uri)
    assert file is not None
    file.write_text(json.dumps({"host": socket.gethostname(), "port": 1234}))
    with file.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield file


def test_who_holds_the_lock_serves(announced, uri):
    assert place.reached_by(uri) == "http://127.0.0.1:1234"
    announced.write_text("")  # not up yet
    assert place.reached_by(uri) == uri
    assert place.reached_by("http://there") == "http://there"


def test_a_file_that_nobody_holds_says_nothing(announced, uri):
    with announced.open() as opened:
        text = opened.read()
    announced.unlink()
    announced.write_text(text)
    assert place.reached_by(uri) == uri


def test_of_another_machine_it_is_told(announced, uri, runs, folder):
    announced.write_text(json.dumps({"host": "elsewhere", "port": 1234}))
    with pytest.raises(
        TrackingError, match="a sweep on elsewhere has a server over it that no other machine"
    ):
        place.reached_by(uri)
    record = Record.open(folder.path)
    with pytest.raises(TrackingError, match="a sweep on elsewhere"):
        Sender(folder, record, uri, running=True).send()
    record.close()
    with pytest.raises(InputError, match="a sweep on elsewhere"):
        server.served(runs / "sweep").__enter__()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1"),
        ({"no_proxy": "a,b"}, "a,b,127.0.0.1"),
        ({"NO_PROXY": "a"}, "a,127.0.0.1"),
        ({"no_proxy": "a,127.0.0.1"}, "a,127.0.0.1"),
    ],
)
def test_no_proxy_is_asked_for_it(announced, uri, monkeypatch, before, after):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # as it was at the end
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    place.reached_by(uri)
    place.reached_by(uri)
    assert os.environ.get("no_proxy") == after


def test_a_run_goes_through_it_while_it_is_up(client, runs, folder, uri, monkeypatch, tmp_path):
    """By another name of the same database in the place of a server."""
    (tmp_path / "link.db").symlink_to(runs / "mlflow.db")
    by, asked = {"uri": uri}, []

    def reached_by(uri: str) -> str:
        asked.append(by["uri"])
        return by["uri"]

    monkeypatch.setattr("raid.tracking.mlflow_run.reached_by", reached_by)
    record = Record.open(folder.path)
    record.begin("raid")
    sender = Sender(folder, record, uri, running=True)
    made = []
    for epoch, through in enumerate((uri, f"sqlite:///{tmp_path / 'link.db'}", uri)):
        by["uri"] = through
        tracked.record(folder, epoch)
        sender.send()
        made.append(sender._run._client.tracking_uri)
    assert made == [uri, f"sqlite:///{tmp_path / 'link.db'}", uri]
    tracked.end(folder)
    sender.finish("FINISHED")
    assert list(record.sent) == [uri]
    record.close()
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


@pytest.mark.parametrize("made_anew", [False, True])
def test_a_lock_of_a_file_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch, made_anew):
    file = tmp_path / "mlflow.db.server"

    def removed(path: Path) -> int | None:
        lock = locked(path)
        path.unlink()
        if made_anew:
            path.touch()
        return lock

    monkeypatch.setattr(server, "locked", removed)
    with server._lock_of(file) as lock:
        assert lock is None
    assert file.exists() == made_anew


def test_who_hangs_up_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        assert not server._answers(f"http://127.0.0.1:{port}")


def test_a_port_is_kept_unless_it_is_taken():
    port = server._free_port(0)
    assert server._free_port(port) == port
    with socket.create_server(("127.0.0.1", port)):
        assert server._free_port(port) not in (0, port)
