"""The container files, as far as that goes without building them; and what the image stops jobs with."""

import re
import shlex
from fnmatch import fnmatch
from importlib import util
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from deploying import DEPLOY, REPOSITORY, VALUES, ray_clusters, ray_pods

NAMES = ("image", "mlflow")


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a container file with what they say."""
    text = (DEPLOY / name / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def said(name: str, instruction: str) -> list[str]:
    return [rest for what, rest in instructions(name) if what == instruction]


def test_images_begin_with_the_versions_of_the_values():
    python = VALUES["python_version"]
    assert said("image", "FROM") == [f"rayproject/ray:{VALUES['ray_version']}-py{python.replace('.', '')}"]
    assert said("mlflow", "FROM") == [f"python:{python}-slim"]


@pytest.mark.parametrize("name", NAMES)
def test_images_are_of_no_root_and_fetch_nothing_but_pinned_packages(name):
    assert said(name, "USER")[-1] not in ("root", "0")
    assert instructions(name)[0][0] == "FROM"
    assert said(name, "ADD") == []
    (install,) = (each for each in said(name, "RUN") if "pip install" in each)
    assert "-c constraints.txt" in install
    assert not re.search(r"https?://|curl|wget|--index-url|--extra-index-url", str(instructions(name)))
    packages = [word for word in shlex.split(install.split("&&")[0])[3:] if "==" in word or "[" in word]
    assert all("==" in word or word.startswith(".") for word in packages)
    assert packages


def sources(name: str) -> list[str]:
    """What a container file copies."""
    return [
        word for rest in said(name, "COPY") for word in shlex.split(rest)[:-1] if not word.startswith("--")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_is_there_and_reaches_the_build(name):
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for source in sources(name):
        assert (REPOSITORY / source).exists()
        assert any(fnmatch(source, line.removeprefix("!")) for line in ignored if line.startswith("!")), (
            source
        )


def test_the_build_sees_nothing_that_is_not_copied():
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert kept == {source for name in NAMES for source in sources(name)}


def test_the_image_has_what_the_package_is_built_of():
    assert {"pyproject.toml", "README.md", "raid", "constraints.txt"} <= set(sources("image"))


def test_a_head_calls_the_file_that_the_image_has():
    (folder,) = said("image", "WORKDIR")
    assert "deploy/image/stop_jobs.py" in sources("image")
    for cluster in ray_clusters().values():
        head, *_ = ray_pods(cluster)
        hook = head["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["python", f"{folder}/stop_jobs.py"]
    assert folder in VALUES["command"]


@pytest.fixture
def stop_jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    spec = util.spec_from_file_location("stop_jobs", DEPLOY / "image" / "stop_jobs.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return module


class FakeClient:
    """Jobs that end two looks after they were told to."""

    def __init__(self, **jobs: Any) -> None:
        self.jobs, self.stopped, self.looks = jobs, [], 0

    def list_jobs(self) -> list[SimpleNamespace]:
        self.looks += 1
        if self.looks > 3:
            self.jobs = {name: "STOPPED" if name in self.stopped else at for name, at in self.jobs.items()}
        drivers = [SimpleNamespace(submission_id=None, status="RUNNING")]  # a shell's, that nobody submitted
        return drivers + [SimpleNamespace(submission_id=name, status=at) for name, at in self.jobs.items()]

    def stop_job(self, name: str) -> None:
        self.stopped.append(name)


def test_jobs_are_stopped_and_waited_for_before_the_head_ends(stop_jobs):
    client = FakeClient(done="SUCCEEDED", one="RUNNING", two="PENDING", failed="FAILED")
    stop_jobs.stop_all(client)
    assert client.stopped == ["one", "two"]
    assert client.jobs == {"done": "SUCCEEDED", "one": "STOPPED", "two": "STOPPED", "failed": "FAILED"}


def test_a_head_without_jobs_ends_at_once(stop_jobs):
    client = FakeClient(done="SUCCEEDED")
    stop_jobs.stop_all(client)
    assert client.stopped == []
    assert stop_jobs.ADDRESS.endswith(f":{VALUES['ports']['dashboard']}")
