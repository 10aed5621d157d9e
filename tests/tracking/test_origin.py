import json
import subprocess
from pathlib import Path

import pytest

import raid
from raid.tracking import origin


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    package = tmp_path / "checkout" / "raid"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(raid, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return package


def git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_working_tree(checkout):
    assert "git_commit" not in origin.origin_tags()  # no checkout
    git(checkout, "init")
    assert "git_commit" not in origin.origin_tags()  # no commit
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    git(checkout, "tag", "v1")
    commit = git(checkout, "rev-parse", "HEAD")
    assert origin.origin_tags()["git_commit"] == commit
    (checkout / "__init__.py").write_text("x = 1")
    assert origin.origin_tags()["git_commit"] == f"{commit}-dirty"


def test_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    assert "git_commit" not in origin.origin_tags()


def test_the_ray_job(monkeypatch):
    monkeypatch.delenv("RAY_JOB_ID", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert "ray_job" not in origin.origin_tags()
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    assert origin.origin_tags()["ray_job"] == "01000000"
    submitted = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_x"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    assert origin.origin_tags()["ray_job"] == "raysubmit_x"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{")
    assert origin.origin_tags()["ray_job"] == "01000000"
