"""`raid icsr`, and a sweep, as submitted jobs on a real head of this machine, with token authentication."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import tracked
from mlflow import MlflowClient

from raid.config import flatten
from raid.distributed.ray_backend import free_port
from raid.run_folder import RunFolder
from raid.sweep_folder import SweepFolder

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]

    def submit(
        self,
        *entrypoint: str,
        program: Sequence[str] = ("-m", "raid"),
        token: bool = True,
        options: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        return self.job(
            "submit", "--working-dir", str(REPOSITORY),
            "--runtime-env", str(REPOSITORY / "jobs" / "runtime_env.yaml"), *options,
            "--", "python", *program, *entrypoint,
            environment={} if token else {"RAY_AUTH_TOKEN_PATH": "/dev/null"},
        )  # fmt: skip

    def job(
        self, verb: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), "job", verb, "--address", self.address, *arguments]
        variables = {**self.environment, **(environment or {})}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="raid", dir="/tmp"))  # short: the path of a socket goes below it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # a job runs the head's python
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    address = f"http://127.0.0.1:{(dashboard := free_port())}"
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"{address}/api/version", process)
        yield Head(address, environment)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it answers, and wants a token
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the head does not start")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def arguments(folder: Path) -> list[str]:
    config = tiny.config(
        tiny.write_images(folder / "images"),
        folder / "run",
        run__workers=2,
        numerics__dtype="float32",
        track__enabled=True,
    )
    changed = {
        key: value for key, value in flatten(config).items() if not isinstance(value, (list, type(None)))
    }
    return ["icsr", str(REPOSITORY / "jobs" / "icsr_demo.yaml"), *(f"{k}={v}" for k, v in changed.items())]


def client(folder: Path) -> MlflowClient:
    """Of the database beside the runs, where the job's driver has put it."""
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def test_job_is_followed_to_its_end_and_is_complete_in_mlflow(head, arguments, folder):
    done = head.submit(*arguments, options=["--submission-id", "followed"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "last epoch  2: mAP" in done.stdout
    run_folder = RunFolder(folder / "run")
    assert len(run_folder.metrics()) == 2
    assert run_folder.model.exists()
    run = tracked.assert_complete(client(folder), run_folder, folder / "downloads", "FINISHED")
    assert run.data.tags["ray_job"] == "followed"
    assert run.data.params["run.workers"] == "2"


def test_job_that_is_stopped_is_killed_in_mlflow(head, arguments, folder):
    run_folder = RunFolder(folder / "stopped")
    long = ["inter.epochs=500", f"run.folder={run_folder.path}", "track.experiment=stopped"]
    head.submit(*arguments, *long, options=["--submission-id", "stopped", "--no-wait"])
    tracked.until(lambda: run_folder.path.exists() and len(run_folder.metrics()) > 1, seconds=240)
    stopped = head.job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "Job 'stopped' was stopped" in head.job("status", "stopped").stdout
    assert tracked.only_run(client(folder), "stopped").info.status == "KILLED"
    assert not run_folder.model.exists()


def test_status_of_a_job_that_fails_is_seen(head, arguments):
    done = head.submit(*arguments, "inter.num_clusters=1000", "run.folder=/nowhere/run")
    assert done.returncode != 0
    assert "raid: inter.num_clusters: 1000 clusters of 45 training images" in done.stdout


def test_relative_run_folder_would_go_with_the_job(head, arguments):
    done = head.submit(*arguments, "run.folder=runs/x")
    assert done.returncode != 0
    assert "run.folder: runs/x is relative" in done.stdout


def test_job_without_the_token_is_refused(head, arguments):
    done = head.submit(*arguments, token=False)
    assert done.returncode != 0
    assert "succeeded" not in done.stdout
    assert "token" in (done.stdout + done.stderr).lower()


def test_a_sweep_is_a_job_as_a_run_is(head, arguments, folder):
    sweep = SweepFolder(folder / "sweep")
    ours = ["run.workers=1", "pool.size=0", f"run.folder={sweep.path}", "track.experiment=sweep"]
    how = ["--objective", "churn", "--search", "grid", "--axes", "decay", "--values", "decay=[off, cosine]"]
    given = [argument for argument in arguments[1:] if not argument.startswith("refine.")]
    done = head.submit(*given, *ours, *how, program=["tune/decay_schedule.py"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 at a time: one needs 1 CPU" in done.stdout
    assert [trial.state for trial in sweep.trials()] == ["done", "done"], done.stdout
    assert sweep.report.exists()
    of_experiment = client(folder).get_experiment_by_name("sweep").experiment_id
    runs = client(folder).search_runs([of_experiment])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert sum("mlflow.parentRunId" in run.data.tags for run in runs) == 2


@pytest.mark.parametrize("program", ["-m raid icsr", "tune/decay_schedule.py"])
def test_readme_shows_the_commands_that_are_tested(program):
    shown = f"ray job submit --working-dir . --runtime-env jobs/runtime_env.yaml -- python {program} jobs/"
    assert shown in (REPOSITORY / "README.md").read_text()
