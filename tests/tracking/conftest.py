"""A tracking database for every test, and nobody else's settings."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient

from raid import tracking
from raid.run_folder import RunFolder
from raid.tracking import follower, manners


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in manners._MILD.items():
            patch.setenv(name, value)  # taken away again at the end
        patch.setattr(follower, "POLL_S", 0.05)
        patch.setattr(follower, "FIRST_PAUSE_S", 0.05)
        yield


@pytest.fixture(scope="session")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A database that a run made that found none, and what the user saw of that."""
    runs = tmp_path_factory.mktemp("first") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        running = tracked.process(runs / "run", "ends", 0)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    if "sends the rest" in err:  # it took longer than a run waits
        tracking.sync(RunFolder(runs / "run"), f"sqlite:///{runs / 'mlflow.db'}")
        err = ""
    return runs, err


@pytest.fixture(scope="session")
def template(first_use: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs: making one takes seconds."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    shutil.copy(first_use[0] / "mlflow.db", file)
    with sqlite3.connect(file) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table in ("runs", "metrics", "latest_metrics", "params", "tags"):
                database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM experiments WHERE name = 'raid'")
    database.close()
    return file


@pytest.fixture
def runs(template: Path, tmp_path: Path) -> Path:
    """A folder for runs, with its database."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(template, runs / "mlflow.db")
    return runs


@pytest.fixture
def client(runs: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")


@pytest.fixture
def folder(runs: Path) -> RunFolder:
    return tracked.opened(runs / "project" / "run")
