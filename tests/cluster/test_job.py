"""`raid icsr`, `mar`, `slsr` and a sweep as submitted jobs on a real head here, with token authentication."""

import json
import os
import re
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
from ray_runs import assert_equal

from raid.config import flatten
from raid.distributed.ray_cluster import free_port
from raid.methods import known
from raid.methods.launch import local_backend
from raid.run_folder import RunFolder
from raid.run_status import read_status
from raid.sweep_folder import SweepFolder

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]
    folder: Path

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

    def metrics(self) -> str:
        """What Prometheus would scrape, from where Ray lists the nodes."""
        (listed,) = json.loads((self.folder / "prom_metrics_service_discovery.json").read_text())
        found = ""
        for target in listed["targets"]:
            with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
                found += answer.read().decode()
        return found

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
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # a head would wait 30 s for itself
    }
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    address = f"http://127.0.0.1:{(dashboard := free_port())}"
    command = [
        str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}",
        "--dashboard-agent-listen-port=0", "--disable-usage-stats",
    ]  # fmt: skip
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"{address}/api/version", process)
        yield Head(address, environment, folder)
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
    return ["icsr", str(REPOSITORY / "jobs" / "icsr_demo.yaml"), *overrides(config)]


def overrides(config: known.MethodConfig) -> list[str]:
    """What a command line says to have a configuration whatever the file's is."""
    return [f"{key}={json.dumps(value)}" for key, value in flatten(config).items()]


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


def test_job_shows_in_the_metrics_until_it_is_stopped_and_is_killed_in_mlflow(head, arguments, folder):
    run_folder = RunFolder(folder / "stopped")
    long = ["inter.epochs=500", f"run.folder={run_folder.path}", "track.experiment=stopped"]
    head.submit(*arguments, *long, options=["--submission-id", "stopped", "--no-wait"])
    tracked.until(lambda: run_folder.path.exists() and len(run_folder.metrics()) > 1, seconds=240)
    shown = r"^ray_raid_images_per_second\{.*method=\"icsr\".*run=\"stopped\".*\} (.*)$"
    tracked.until(lambda: re.findall(shown, head.metrics(), re.MULTILINE))
    assert float(re.findall(shown, head.metrics(), re.MULTILINE)[0]) > 0
    stopped = head.job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "Job 'stopped' was stopped" in head.job("status", "stopped").stdout
    assert tracked.only_run(client(folder), "stopped").info.status == "KILLED"
    assert not run_folder.model.exists()


DRIVER = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1] + "_told").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path(sys.argv[1]).touch()
time.sleep(100)
"""


def test_a_head_that_is_about_to_end_tells_its_drivers_and_waits_for_them(head, folder):
    program = folder / "driver.py"
    program.write_text(DRIVER)
    options = ["--submission-id", "told", "--no-wait"]
    submitted = head.submit(str(folder / "driver"), program=[str(program)], options=options)
    assert submitted.returncode == 0, submitted.stderr
    tracked.until((folder / "driver").exists)
    before_it_ends = [sys.executable, REPOSITORY / "deploy" / "image" / "stop_jobs.py"]
    environment = {**head.environment, "RAY_API_SERVER_ADDRESS": head.address}
    subprocess.run(before_it_ends, env=environment, check=True, timeout=60)
    assert (folder / "driver_told").exists()
    assert "Job 'told' was stopped" in head.job("status", "told").stdout


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


@pytest.mark.parametrize("method", ["icsr", "mar", "slsr"])
def test_every_method_s_demo_is_stopped_and_submitted_again(head, folder, method):
    """On another number of workers; the losses are those of a run that was left alone."""
    whole, run = (demo(folder, method, f"{method}_{name}") for name in ("whole", "again"))
    known.run(whole, local_backend(whole), resume=False, fresh=False)
    line = [method, str(REPOSITORY / "jobs" / f"{method}_demo.yaml"), *overrides(run)]
    head.submit(*line, "run.workers=2", options=["--submission-id", f"first_{method}", "--no-wait"])
    run_folder = RunFolder(run.run.folder)
    tracked.until(lambda: len(list(run_folder.checkpoints.glob("*.pt"))) > 1, seconds=240)
    head.job("stop", f"first_{method}")
    assert not run_folder.model.exists()
    status = read_status(run_folder.path)
    assert status is not None
    assert (status.state, status.resumable) == ("stopped", True)
    baseline = stamp(run_folder.baseline)
    done = head.submit(*line, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    if baseline is None:
        assert "going on from epoch" in done.stdout, done.stdout
    else:  # SLSR's first stage had ended before the job was told to stop
        assert stamp(run_folder.baseline) == baseline
    assert_equal(run_folder, RunFolder(whole.run.folder))


def stamp(file: Path) -> int | None:
    """When a file was written, if it is there."""
    return file.stat().st_mtime_ns if file.exists() else None


def demo(folder: Path, method: str, name: str) -> known.MethodConfig:
    """A configuration of seconds."""
    images, source, ours = folder / "of_demos" / "images", folder / "of_demos" / "source", folder / name
    if not images.exists():
        tiny.write_images(images)
        tiny.write_source(source)
    long = {"run__checkpoint_steps": 1, "run__keep_checkpoints": 2}  # one is of 100 MB
    match method:
        case "icsr":
            return tiny.config(images, ours, inter__epochs=2, inter__steps=12, **long)
        case "mar":
            return tiny.mar_config(source, images, ours, training__steps=12, **long)
        case _:
            return tiny.slsr_config(images, ours, baseline__steps=6, finetuning__steps=10, **long)


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
