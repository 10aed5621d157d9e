"""Runs on Ray whose processes are killed, stopped and ended: they end as one that nobody disturbed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import tracked
from mlflow import MlflowClient
from ray_runs import Run, assert_equal

from raid.distributed import checkpoint
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.launch import local_backend
from raid.run_folder import RunFolder
from raid.run_status import read_status

METHODS = ("icsr", "mar", "slsr")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    tiny.write_images(folder / "images")
    tiny.write_source(folder / "source")
    return folder


def configured(sets: Path, method: str, name: str, **overrides: Any) -> MethodConfig:
    chosen = {"run__checkpoint_steps": 1, "run__keep_checkpoints": 3, **overrides}
    folder = sets / name
    match method:
        case "icsr":
            return tiny.config(sets / "images", folder, inter__epochs=3, inter__steps=6, **chosen)
        case "mar":
            return tiny.mar_config(
                sets / "source", sets / "images", folder, training__steps=8, pretraining__steps=6, **chosen
            )
        case _:
            return tiny.slsr_config(sets / "images", folder, finetuning__steps=8, baseline__steps=6, **chosen)


@pytest.fixture(scope="module")
def undisturbed(sets: Path) -> Callable[[str], RunFolder]:
    """Runs of one worker in this process."""
    made: dict[str, RunFolder] = {}

    def of(method: str) -> RunFolder:
        if method not in made:
            config = configured(sets, method, f"{method}_whole")
            made[method] = known.run(config, local_backend(config), resume=False, fresh=False)
        return made[method]

    return of


@pytest.fixture
def started(sets: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(method: str, name: str, *, environment: dict[str, str] | None = None, **overrides: Any) -> Run:
        config = configured(sets, method, name, run__workers=2, **overrides)
        runs.append(Run(config, method, environment=environment))
        return runs[-1].start()

    yield start
    for run in runs:
        run.clean()


@pytest.mark.parametrize("method", METHODS)
def test_a_training_worker_is_killed(started, undisturbed, method):
    run = started(method, f"{method}_killed")
    run.until(lambda: len(run.checkpoints()) > 1)
    victim = run.workers()[-1]
    reached = run.checkpoints()[-1].name
    with run.recovers(f"{method}: a training worker killed"):
        os.kill(victim, signal.SIGKILL)
    run.ends()
    assert "all are started again, from epoch_" in run.said
    assert reached <= run.said.partition("all are started again, from ")[2].split()[0]
    assert_equal(run.folder, undisturbed(method))
    status = read_status(run.folder.path)
    assert status is not None
    assert status.state == "done"


def test_a_training_worker_stands_still(started, undisturbed):
    run = started("icsr", "still", run__step_timeout_s=8.0)
    run.until(lambda: len(run.checkpoints()) > 1)
    with run.recovers("icsr: a training worker stopped, step_timeout_s 8"):
        os.kill(run.workers()[-1], signal.SIGSTOP)
    run.ends()
    assert "they stood still: see" in run.said
    assert_equal(run.folder, undisturbed("icsr"))


def test_sigterm_stops_at_once_and_another_number_of_workers_goes_on(started, undisturbed, sets):
    run = started("icsr", "stopped", track__enabled=True, run__checkpoint_steps=0)
    run.until(lambda: run.checkpoints())  # of the first epoch
    assert run.process is not None
    begun = time.time()
    os.kill(run.process.pid, signal.SIGTERM)
    run.ends(143, 60)
    took = time.time() - begun
    status = read_status(run.folder.path)
    assert status is not None
    assert (status.state, status.resumable) == ("stopped", True)
    print(
        f"SIGTERM | in status.json after {status.since_s - begun:.2f} s, ended after {took:.1f} s", flush=True
    )
    assert took < 30.0  # 2 s, both, on a machine that has nothing else to do
    client = MlflowClient(tracking_uri=f"sqlite:///{sets / 'mlflow.db'}")
    assert tracked.only_run(client, "raid").info.status == "KILLED"
    assert not run.folder.model.exists()
    again = configured(sets, "icsr", "stopped", track__enabled=True, run__checkpoint_steps=0)
    known.run(again, local_backend(again), resume=True, fresh=False)
    assert_equal(run.folder, undisturbed("icsr"))


def test_sigterm_with_grace_loses_nothing(started, undisturbed, sets):
    run = started("mar", "graceful", environment={"RAID_GRACE_SECONDS": "120"}, run__checkpoint_steps=0)
    run.until(lambda: run.checkpoints())
    latest = run.checkpoints()[-1]
    assert run.process is not None
    os.kill(run.process.pid, signal.SIGTERM)
    run.ends(143, 115)
    kept = checkpoint.latest(run.folder.checkpoints)
    assert kept is not None
    assert kept.name > latest.name
    assert "has saved its state; --resume goes on from there" in run.said
    with run.recovers("mar: SIGTERM with grace, and --resume"):
        run.start("--resume")
    run.ends()
    assert_equal(run.folder, undisturbed("mar"))


def test_the_driver_is_killed(started, undisturbed):
    run = started("slsr", "driver_killed")
    run.until(lambda: len(run.checkpoints()) > 1)
    with run.recovers("slsr: the driver killed, and --resume"):
        run.kill()
        run.start("--resume")
    run.ends()
    assert_equal(run.folder, undisturbed("slsr"))
