"""The MLflow server of a sweep, whose trials are tracked by several processes at once.

sqlite takes one writer at a time and turns the others away, so a sweep goes through a server: the one that
MLFLOW_TRACKING_URI names, or one of its own over the database beside the runs. That one listens on this
machine alone, has artifacts where runs without a server have them, is started again when it dies, and ends
with the sweep, however that ends. The place that runs are tracked at stays the database: `place.reached_by`.
"""

import errno
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from raid.errors import InputError
from raid.tracking.given import check_given
from raid.tracking.manners import TrackingError, be_mild, reason
from raid.tracking.place import (
    LOOPBACK,
    artifact_location,
    database_of,
    own_uri,
    prepare_database,
    reached_by,
    server_file,
    tracking_uri,
)
from raid.tracking.record import Held, locked

# MLflow's command, which ends with all that it has started when its standard input does: of a process that
# is killed the system closes it.
_GUARDED = """
import os, signal, threading
def end():
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
from mlflow.cli import cli
cli()
"""
# Of a server of our own: it imports for ten seconds, and a busy machine takes its time.
START_WAIT_S = 180.0
POLL_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
logger = logging.getLogger(__name__)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Have MLflow take what several processes write at once, while the block runs; yield the tracking URI.

    A second sweep over the same database goes through the server of the first, and after that has its own.

    Args:
        folder: of the sweep.

    Raises:
        InputError: MLFLOW_TRACKING_URI names what cannot, or does not answer, or no server can be started.
    """
    uri = tracking_uri(folder)
    be_mild()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        check_given(uri, own_uri(folder))
        yield uri
        return
    try:
        prepare_database(uri)
    except Exception as error:
        raise InputError(f"{uri}: {reason(error)}; set MLFLOW_TRACKING_URI to a server") from error
    keeper = _Keeper(uri)
    try:
        keeper.wait()
        yield uri
    finally:
        keeper.end()


class _Keeper:
    """A thread that keeps a server up over the database `uri` until `end`.

    Keepers of one database, of several sweeps, agree by the lock of its server file: one serves, the others
    wait until they can.
    """

    def __init__(self, uri: str) -> None:
        database, file = database_of(uri), server_file(uri)
        assert database is not None
        assert file is not None
        self._uri, self._database, self._file = uri, database, file
        self._port = 0
        self._ended = threading.Event()
        self._failures: list[str] = []
        self._thread = threading.Thread(target=self._work, name="raid-server", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until a server answers, this one's or another sweep's.

        Raises:
            InputError: none does.
        """
        deadline = time.monotonic() + START_WAIT_S
        while not self._reached():
            # The first failure may be of a port that somebody else has taken.
            if len(self._failures) > 1 or not self._thread.is_alive() or time.monotonic() > deadline:
                why = self._failures[-1] if self._failures else "it does not answer"
                raise InputError(
                    f"{self._uri}: no MLflow server can be started over it: {why}; "
                    "set MLFLOW_TRACKING_URI to one that is up"
                )
            time.sleep(0.1)

    def end(self) -> None:
        """End the server, if it is this one's."""
        self._ended.set()
        self._thread.join()

    def _reached(self) -> bool:
        try:
            reached = reached_by(self._uri)
        except TrackingError as error:
            raise InputError(f"{self._uri}: {error}") from error
        return reached != self._uri and _answers(reached)

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                with _lock_of(self._file) as lock:
                    if lock is not None:
                        self._serve(lock)
                self._ended.wait(POLL_S)
        except Exception as error:
            self._failures.append(reason(error))
            logger.warning("tracking: no server over %s any more: %s", self._uri, self._failures[-1])

    def _serve(self, lock: int) -> None:
        """Have a server up until the end; one that dies is started again."""
        os.ftruncate(lock, 0)  # what a sweep that was killed has left
        pause = FIRST_PAUSE_S
        while not self._ended.is_set():
            self._port = _free_port(self._port)
            with tempfile.TemporaryFile() as log, _process(self._database, self._port, log) as process:
                if self._comes_up(process):
                    _announce(lock, self._port)
                    logger.info(
                        "tracking: MLflow server over %s at http://%s:%d", self._uri, LOOPBACK, self._port
                    )
                    pause = FIRST_PAUSE_S
                    while not self._ended.wait(POLL_S) and not _gone(process):
                        pass
                if self._ended.is_set():
                    return
                self._failures.append(_last_line(log) or "it was killed")
            logger.warning(
                "tracking: the MLflow server has ended: %s; it is started again", self._failures[-1]
            )
            self._ended.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _comes_up(self, process: "subprocess.Popen[bytes]") -> bool:
        while not self._ended.wait(0.1) and not _gone(process):
            if _answers(f"http://{LOOPBACK}:{self._port}"):
                return True
        return False


@contextmanager
def _lock_of(file: Path) -> Iterator[int | None]:
    """Hold the lock of a file, which is removed afterwards; None where somebody else has it."""
    lock = None
    with suppress(Held):
        lock = locked(file)
        if lock is None:
            raise OSError(errno.ENOLCK, "its disk has no file locks")
    try:
        # One that another keeper removed while this one opened it says nothing to anybody.
        if lock is None or not file.exists() or not os.path.samestat(os.fstat(lock), file.stat()):
            yield None
            return
        try:
            yield lock
        finally:
            file.unlink(missing_ok=True)
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _process(database: Path, port: int, log: IO[bytes]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a server, and end it with all that it has started."""
    # What the user has set for MLflow is for clients.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    quietly = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        _command(database, port), stdin=subprocess.PIPE, stdout=log, stderr=log,
        cwd=database.parent, env={**kept, **quietly, "PYTHONSAFEPATH": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _command(database: Path, port: int) -> list[str]:
    uri = f"sqlite:///{database}"
    return [
        sys.executable, "-c", _GUARDED, "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1",
        "--backend-store-uri", uri, "--no-serve-artifacts",
        "--default-artifact-root", str(artifact_location(uri)), "--uvicorn-opts", "--log-level error",
    ]  # fmt: skip


def _gone(process: "subprocess.Popen[bytes]") -> bool:
    """Tell whether a process has ended; it stays a zombie, so that its group's number stays its own."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _announce(lock: int, port: int) -> None:
    """Write where the server is into the locked file."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"host": socket.gethostname(), "port": port}).encode(), 0)


def _free_port(wanted: int) -> int:
    """Return `wanted`, or another where that is taken."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server((LOOPBACK, port)) as listener:
            return int(listener.getsockname()[1])
    raise OSError(f"no free port on {LOOPBACK}")


def _answers(uri: str) -> bool:
    """Tell whether a server of ours answers; whatever proxies there are, they are not asked."""
    parts = urlsplit(uri)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]
