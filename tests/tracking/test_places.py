import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from raid.tracking import place


@pytest.mark.parametrize(
    ("run", "database"),
    [
        ("/a/runs/run", "/a/runs/mlflow.db"),
        ("/a/runs/demo/icsr_seed1", "/a/runs/mlflow.db"),
        ("/runs/a/runs/b/c", "/runs/a/runs/mlflow.db"),
        ("/a/runs", "/a/mlflow.db"),
        ("/a/b", "/a/mlflow.db"),
        ("/a/runs/../b/c", "/a/b/mlflow.db"),
    ],
)
def test_the_database_is_that_of_the_runs(run, database):
    assert place.tracking_uri(Path(run)) == f"sqlite:///{database}"


def test_it_is_absolute_and_links_are_not_followed(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path)
    assert place.tracking_uri(Path("runs/run")) == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_what_the_user_has_set_goes_before(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    assert place.tracking_uri(Path("/a/runs/run")) == "http://there"


@pytest.mark.parametrize(
    ("uri", "location"),
    [("sqlite:////a/b.db", "/a/mlruns"), ("http://there:5000", None), ("postgresql://a@b/c", None)],
)
def test_artifacts_are_beside_the_database(uri, location):
    assert place.artifact_location(uri) == location


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://there:5000", "http://there:5000"),
        ("http://me@there:5000/a:b@c", "http://me@there:5000/a:b@c"),
        ("postgresql://me:p@ss:w@there/runs", "postgresql://me:***@there/runs"),
        ("sqlite:////a/b:c@d.db", "sqlite:////a/b:c@d.db"),
        ("http://[", "http://["),
    ],
)
def test_passwords_are_not_shown(uri, shown):
    assert place.shown(uri) == shown


def test_a_database_is_there_whole_or_not_at_all(template, tmp_path, monkeypatch):
    def half(client: MlflowClient, **_: int) -> None:
        Path(client.tracking_uri.removeprefix("sqlite:///")).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "search_experiments", half)
    with pytest.raises(KeyboardInterrupt):
        place.make_database(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_database_that_another_process_made_meanwhile_stays(tmp_path, monkeypatch, links):
    database = tmp_path / "mlflow.db"

    def made(client: MlflowClient, **_: int) -> None:
        Path(client.tracking_uri.removeprefix("sqlite:///")).write_text("ours")
        if links:
            database.write_text("theirs")

    def link(*_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(MlflowClient, "search_experiments", made)
    if not links:
        monkeypatch.setattr(os, "link", link)
    place.make_database(database)
    assert database.read_text() == ("theirs" if links else "ours")
    assert list(tmp_path.iterdir()) == [database]


def test_the_first_use_is_quiet(first_use):
    runs, err = first_use
    if not err:
        pytest.skip("the machine was too busy for a run to wait for the database")
    assert err.splitlines() == [f"tracking: experiment raid at sqlite:///{runs}/mlflow.db"]
    assert sorted(path.name for path in runs.iterdir()) == ["mlflow.db", "mlruns", "run"]


def test_why_a_database_cannot_be_made_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "_MAKE", "raise ValueError('no room')")
    with pytest.raises(RuntimeError, match="ValueError: no room"):
        place.prepare_database(f"sqlite:///{tmp_path / 'mlflow.db'}")
