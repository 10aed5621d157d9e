"""Where runs are tracked: the tracking URI, and the database that is made when there is none.

The URI is the place's name: what was sent is noted under it. While a sweep runs, a server is up over its
database (`server`), and a file beside that says so: whoever makes a client goes through it (`reached_by`).
"""

import fcntl
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from raid.tracking.manners import TrackingError, by_no_proxy
from raid.tracking.record import SWEEP

LOOPBACK = "127.0.0.1"
_SQLITE = "sqlite:///"
# A polite process of its own, which does not die of the interrupt that ends the run.
_MAKE = """
import os, signal, sys
from pathlib import Path
from raid.tracking.place import make_database
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.nice(10)
make_database(Path(sys.argv[1]))
"""
_PASSWORD = re.compile(r"//[^/:@]*(:[^/]*@)")


def tracking_uri(folder: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or the database of the runs that `folder` is one of."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_uri(folder)


def own_uri(folder: Path) -> str:
    """Return the database of the runs that `folder` is one of.

    It lies in the nearest folder above that is called `runs`, so that all of a project's runs are together
    wherever they are below it; without one, beside the run, or the sweep that it is in.
    """
    path = Path(os.path.abspath(folder))  # not resolved: `runs` may be a link to a larger disk
    sweep = next((parent for parent in path.parents if (parent / SWEEP).exists()), path)
    runs = next((parent for parent in path.parents if parent.name == "runs"), sweep.parent)
    return f"{_SQLITE}{runs / 'mlflow.db'}"


def reached_by(uri: str) -> str:
    """Return what a client is made for: the server that a sweep has up over the database `uri`, else `uri`.

    Raises:
        TrackingError: the server is up on another machine, for that alone.
    """
    file = server_file(uri)
    if file is None:
        return uri
    try:
        with file.open() as opened:
            with suppress(BlockingIOError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return uri  # nobody holds it: its sweep died
            serving = json.load(opened)
            host, port = serving["host"], serving["port"]
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is not up yet
        return uri
    if host != socket.gethostname():
        raise TrackingError(
            f"a sweep on {host} has a server over it that no other machine reaches; "
            "where a sweep runs on several, set MLFLOW_TRACKING_URI to a server that all reach"
        )
    by_no_proxy(LOOPBACK)
    return f"http://{LOOPBACK}:{port}"


def server_file(uri: str) -> Path | None:
    """Return the file that says where the server over a database is; who holds its lock has it up."""
    database = database_of(uri)
    return None if database is None else database.with_name(f"{database.name}.server")


def artifact_location(uri: str) -> str | None:
    """Return where artifacts go, or None where a server knows.

    Without a server MLflow would put them below the working directory of whoever makes the experiment.
    """
    database = database_of(uri)
    return None if database is None else str(database.parent / "mlruns")


def shown(uri: str) -> str:
    """Return `uri` without its password, for people and files."""
    return without_password(uri, uri)


def without_password(text: str, uri: str) -> str:
    """Return `text` without the password that `uri` holds."""
    secret = _PASSWORD.search(uri)
    return text.replace(secret[1], ":***@") if secret else text


def prepare_database(uri: str) -> None:
    """Make the database of a sqlite URI where there is none; it is there whole or not at all.

    MLflow makes it in place, in seconds and some sixty steps; two processes at once fail, and a process
    that ends within (a run with a wrong file, an interrupt) leaves one that no process can open again.
    Here another process makes it: its seconds are not taken from the interpreter that trains.

    Raises:
        OSError: the database cannot be made.
        sqlite3.Error: it is there and cannot be opened.
        RuntimeError: MLflow cannot make it.
    """
    path = database_of(uri)
    if path is None:
        return
    if path.exists():
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")  # MLflow would try to open it for minutes
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _MAKE, str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1])


def make_database(path: Path) -> None:
    """Make an empty MLflow database, unless somebody else has made it first."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        from mlflow import MlflowClient

        made, new = Path(folder) / "made", Path(folder) / "new"
        MlflowClient(tracking_uri=f"{_SQLITE}{made}").search_experiments(max_results=1)
        with made.open("rb") as source, new.open("wb") as target:  # MLflow keeps `made` open
            shutil.copyfileobj(source, target)
            os.fsync(target.fileno())
        try:
            os.link(new, path)  # unlike a renaming never over the one that another process has made by now
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            new.rename(path)


def database_of(uri: str) -> Path | None:
    """Return the file of a sqlite URI."""
    name = uri.removeprefix(_SQLITE)
    return None if name == uri or not name or "?" in name or name == ":memory:" else Path(name).absolute()
