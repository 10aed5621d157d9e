"""The files of deploy/ are what its values and templates come to, and the values are those of the project."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploying import (
    DEPLOY,
    REPOSITORY,
    VALUES,
    environment,
    manifests,
    pods,
    ray_clusters,
    ray_pods,
    written,
)

from raid.config import load
from raid.methods.known import config_of

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SECTION = (REPOSITORY / "README.md").read_text().split("\n## On a cluster\n")[1].split("\n## ")[0]
README = (DEPLOY / "README.md").read_text() + SECTION


def write(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, folder / "write.py", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_files_are_current():
    done = write(DEPLOY, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_changed_value_a_changed_and_a_missing_file_are_known_and_written(tmp_path):
    deploy = shutil.copytree(DEPLOY, tmp_path / "deploy")
    changed, missing = deploy / "kuberay" / "redis.yaml", deploy / "monitoring" / "grafana.json"
    changed.write_text(changed.read_text().replace("6379", "6380"))
    missing.unlink()
    check = write(deploy, "--check")
    assert check.returncode == 1
    assert [line.split()[0] for line in check.stdout.splitlines()] == [str(changed), str(missing)]
    assert not missing.exists()
    assert write(deploy).returncode == 0
    for file in (changed, missing):
        assert file.read_text() == (DEPLOY / file.relative_to(deploy)).read_text()
    values = deploy / "values.yaml"
    values.write_text(values.read_text().replace("image: raid:0.1.0", "image: raid:0.1.1"))
    stale = {Path(line.split()[0]).name for line in write(deploy, "--check").stdout.splitlines()}
    assert {"Dockerfile", "cluster.yaml", "rayjob_cpu.yaml", "raycluster_gpu.yaml"} <= stale


def test_a_value_that_is_missing_is_said(tmp_path):
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({name: value for name, value in VALUES.items() if name != "image"}))
    done = write(DEPLOY, "--values", str(values), "--out", str(tmp_path))
    assert done.returncode != 0
    assert "'image' is undefined" in done.stderr


def test_versions_are_the_project_s():
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert VALUES["ray_version"] == pinned["ray"]
    assert VALUES["mlflow"]["version"] == pinned["mlflow"]
    version = PYPROJECT["project"]["version"]
    assert VALUES["image"] == f"raid:{version}"
    assert VALUES["mlflow"]["image"] == f"raid-mlflow:{version}"
    first = re.search(r">=(3\.\d+)", PYPROJECT["project"]["requires-python"])
    assert first
    assert VALUES["python_version"] == first[1]


def files(deploy: Path) -> dict[str, str]:
    """The text of every file for users, by its path."""
    found = [file for file in deploy.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    return {file.relative_to(deploy).as_posix(): file.read_text() for file in found}


def test_no_file_names_a_registry_a_machine_s_path_or_the_latest_of_anything():
    for name, text in files(DEPLOY).items():
        assert not re.search(r"\b[a-z0-9-]+\.(io|com|org)/[a-z0-9-]+/[a-z0-9-]+:", text), name
        assert ":latest" not in text, name
        assert not re.search(r"/(work|root|Users)/", text), name


def graces(deploy: Path) -> dict[str, set[int]]:
    """Every number of seconds between SIGTERM and SIGKILL, by where it stands."""
    found: dict[str, set[int]] = {}
    for name, cluster in ray_clusters(deploy).items():
        for pod in ray_pods(cluster):
            known = environment(pod["containers"][0])
            seconds = {pod["terminationGracePeriodSeconds"], int(known["RAID_GRACE_SECONDS"] or 0)}
            if "RAY_JOB_STOP_WAIT_TIME_S" in known:
                seconds.add(int(known["RAY_JOB_STOP_WAIT_TIME_S"] or 0))
            found.setdefault(name, set()).update(seconds)
        head = next(ray_pods(cluster))["containers"][0]
        assert "RAY_JOB_STOP_WAIT_TIME_S" in environment(head)
    for file, document in manifests(deploy):
        if document["kind"] == "RayJob":
            (pod,) = pods(document["spec"]["submitterPodTemplate"])
            found[f"{file.stem}, submitter"] = {pod["terminationGracePeriodSeconds"]}
    script = (deploy / "slurm" / "raid.sbatch").read_text()
    for pattern in (r"--signal=B:TERM@(\d+)", r"export RAID_GRACE_SECONDS=(\d+)"):
        found[pattern] = set(map(int, re.findall(pattern, script)))
    options = yaml.safe_load((deploy / "launcher" / "cluster.yaml").read_text())["docker"]["run_options"]
    for option in ("--stop-timeout", "--env=RAID_GRACE_SECONDS", "--env=RAY_JOB_STOP_WAIT_TIME_S"):
        found[option] = {int(each.removeprefix(f"{option}=")) for each in options if each.startswith(option)}
    return found


@pytest.mark.parametrize("seconds", [VALUES["grace_seconds"], 77])
def test_the_time_to_end_in_is_the_same_everywhere(tmp_path, seconds):
    deploy = DEPLOY if seconds == VALUES["grace_seconds"] else written(tmp_path, grace_seconds=seconds)
    found = graces(deploy)
    assert len(found) == 4 + 2 + 2 + 3
    assert found == {place: {seconds} for place in found}


def test_the_readmes_name_the_files_that_are_there():
    named = set(re.findall(r"deploy/(\S+?\.(?:yaml|json|sbatch)|\S+/Dockerfile)\b", README))
    assert named
    for name in named:
        assert (DEPLOY / name).exists(), name
    table = set(re.findall(r"`([a-z_/]+(?:\.(?:yaml|json|sbatch|py)|Dockerfile))`", README))
    for name in files(DEPLOY):
        if name not in ("README.md", "values.yaml") and not name.startswith("templates/"):
            assert any(name.endswith(each) for each in table), name


@pytest.mark.parametrize(
    "line", [line for line in README.splitlines() if line.startswith("docker build") or "kubectl -n" in line]
)
def test_the_readmes_commands_are_of_the_values(line):
    if line.startswith("docker"):
        assert shlex.split(line, comments=True)[5] in (VALUES["image"], VALUES["mlflow"]["image"])
    for namespace in re.findall(r"kubectl -n (\S+)", line):
        assert namespace in (VALUES["namespace"], VALUES["monitoring"]["namespace"])


def commands() -> list[str]:
    """What README, values and script give to raid."""
    script = (DEPLOY / "slurm" / "raid.sbatch").read_text().replace(" \\\n#", "")
    found = re.findall(r"(?:-m raid|raid\.sbatch) (\w+ jobs/.*)", README + script)
    assert len(found) == 5
    return [line.replace("PATH", "/shared/market") for line in found]


@pytest.mark.parametrize("command", commands())
def test_the_runs_that_are_shown_load(command):
    method, file, *overrides = (word for word in shlex.split(command) if word != "--resume")
    config: Any = load(config_of(method), REPOSITORY / file, overrides)
    assert config.run.folder.is_relative_to("/shared/runs")
