"""What a sweep says of a MLFLOW_TRACKING_URI that it cannot use."""

import socket
import time

import pytest

from raid.errors import InputError
from raid.tracking import given, place
from raid.tracking.given import check_given
from raid.tracking.server import served

OWN = "sqlite:////a/runs/mlflow.db"
BY_ITSELF = f"unset it, and the sweep starts a server over {OWN} by itself"
START = (
    "or start one with `mlflow server --backend-store-uri {} --host 127.0.0.1 --port 5000` and "
    "`export MLFLOW_TRACKING_URI=http://127.0.0.1:5000`"
)


def refused(uri: str) -> str:
    with pytest.raises(InputError) as raised:
        check_given(uri, OWN)
    return str(raised.value)


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite:////a/b.db", "sqlite+pysqlite:///x.db"])
def test_sqlite_is_refused_with_the_way_out(uri):
    assert refused(uri) == (
        f"MLFLOW_TRACKING_URI is {uri}, and the trials of a sweep write at the same time: sqlite takes one "
        f"writer at a time and turns the others away; {BY_ITSELF}, {START.format(uri)}"
    )


@pytest.mark.parametrize("uri", ["mlruns", "/a/mlruns", "./mlruns", "file:///a/mlruns", "file:mlruns"])
def test_so_are_folders(uri):
    message = refused(uri)
    assert "MLflow no longer writes runs to folders" in message
    assert message.endswith(f"{BY_ITSELF}, {START.format(OWN)}")


def test_what_is_in_the_command_is_quoted():
    assert "--backend-store-uri 'sqlite:///a b.db' --host" in refused("sqlite:///a b.db")


def test_a_server_that_is_down_is_told_without_its_password():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = refused(f"http://me:secret@127.0.0.1:{port}")
    assert message == (
        f"MLFLOW_TRACKING_URI is http://me:***@127.0.0.1:{port}: Connection refused; start that server, name "
        f"another, or {BY_ITSELF}"
    )


def test_one_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(given, "CHECK_WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begun = time.monotonic()
        assert ": no answer in time; start" in refused(f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert time.monotonic() - begun < 5


def test_a_database_is_asked_once(monkeypatch):
    begun = time.monotonic()
    message = refused("postgresql://me:secret@127.0.0.1:9/runs")
    assert time.monotonic() - begun < 10
    assert "secret" not in message
    assert "MLFLOW_TRACKING_URI is postgresql://me:***@127.0.0.1:9/runs: " in message


def test_what_answers_is_taken(runs, monkeypatch):
    asked = []
    monkeypatch.setattr(given, "_ask", asked.append)
    for uri in ("http://there", "https://me:secret@there", "mysql+pymysql://there/x", "databricks://profile"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with served(runs / "sweep") as taken:
            assert taken == uri
        assert asked.pop() == uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    with pytest.raises(InputError, match="starts a server over"):
        served(runs / "sweep").__enter__()
    assert asked == []
    assert place.own_uri(runs / "sweep") == f"sqlite:///{runs / 'mlflow.db'}"
