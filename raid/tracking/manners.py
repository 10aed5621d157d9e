"""Speaking to MLflow: how its failures are told, and how it is kept quiet and quick."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# MLflow's own defaults keep a call busy for minutes. The pauses are ours, so it tries twice and at once: the
# second time is for a connection that was closed while it was not used.
_MILD = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would report to its makers
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would pack the project that the command is called in into a model
}

_PATIENCE_S = "300"


class TrackingError(Exception):
    """MLflow, its database or its server did not take something: one line why."""


def be_mild() -> None:
    """Keep MLflow from waiting for minutes, chatting and phoning home, unless the user has said otherwise."""
    for name, value in _MILD.items():
        os.environ.setdefault(name, value)


def by_no_proxy(host: str) -> None:
    """Have the HTTP libraries speak to a host themselves, where others are reached by a proxy."""
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in exempt.split(","):
        os.environ["no_proxy"] = ",".join(filter(None, (exempt, host)))


@contextmanager
def patient() -> Iterator[None]:
    """Let a server that has been reached take its time with a large file, unless the user has set one.

    It answers when it has passed the whole file on, to a bucket say.
    """
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    if before == _MILD[name]:
        os.environ[name] = _PATIENCE_S
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries log of every attempt in this thread from the user, who is told once."""
    thread = threading.get_ident()

    def others(entry: logging.LogRecord) -> bool:
        return entry.thread != thread

    libraries = [logging.getLogger(name) for name in ("urllib3.connectionpool", "mlflow.store.db.utils")]
    for library in libraries:
        library.addFilter(others)
    try:
        yield
    finally:
        for library in libraries:
            library.removeFilter(others)


def reason(error: Exception) -> str:
    """Return what is at the bottom of an exception of the HTTP libraries, who wrap it four times."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, TimeoutError):
            return "no answer in time"
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
