"""Whether a sweep can be tracked at MLFLOW_TRACKING_URI, and what to do where it cannot."""

import re
import shlex
import threading

from raid.errors import InputError
from raid.tracking.manners import quiet, reason
from raid.tracking.place import LOOPBACK, shown, without_password

# Of a server that is there or not; a slow one would slow the sweep's own run alone.
CHECK_WAIT_S = 15.0


def check_given(uri: str, own: str) -> None:
    """Refuse a tracking URI that several processes cannot write to at once, or that does not answer.

    Args:
        uri: MLFLOW_TRACKING_URI.
        own: of the database that a server is started over where that is not set.

    Raises:
        InputError: it is such a one; the message says what to do.
    """
    unset = f"unset it, and the sweep starts a server over {own} by itself"
    why = None
    if uri.startswith("sqlite"):
        why, database = "sqlite takes one writer at a time and turns the others away", uri
    elif not re.match(r"databricks|(?!file:)[\w+-]+:", uri):
        why, database = "MLflow no longer writes runs to folders", own
    if why is not None:
        command = ["mlflow", "server", "--backend-store-uri", database, "--host", LOOPBACK, "--port", "5000"]
        raise InputError(
            f"MLFLOW_TRACKING_URI is {shown(uri)}, and the trials of a sweep write at the same time: {why}; "
            f"{unset}, or start one with `{shlex.join(command)}` and "
            f"`export MLFLOW_TRACKING_URI=http://{LOOPBACK}:5000`"
        )
    failure = _failure(uri)
    if failure is not None:
        raise InputError(
            f"MLFLOW_TRACKING_URI is {shown(uri)}: {failure}; start that server, name another, or {unset}"
        )


def _failure(uri: str) -> str | None:
    """Return why MLflow at `uri` cannot be used, None if it can; in seconds, whatever it does."""
    import mlflow.store.db.utils  # noqa: F401  here: it takes its time

    found: list[str | None] = []

    def ask() -> None:
        try:
            with quiet():
                _ask(uri)
            found.append(None)
        except Exception as error:
            found.append(without_password(reason(error), uri))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CHECK_WAIT_S)
    return found[0] if found else "no answer in time"


def _ask(uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.store.db.utils import create_sqlalchemy_engine

    if re.match("https?:|databricks", uri):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    else:  # a database, which MlflowClient would try ten times, and fill when it is new
        create_sqlalchemy_engine(uri).connect().close()  # type: ignore[no-untyped-call]
