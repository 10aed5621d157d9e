"""How a run ends, and goes on: workers that die, SIGTERM, a disk that is full."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import thin_resnet
import tiny
from comparing import assert_same_bits, timeless, weights

from raid.distributed import checkpoint
from raid.distributed.backend import LocalBackend
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.distributed.launch import WorkersLost
from raid.errors import InputError
from raid.methods.icsr import recipe as icsr
from raid.methods.inputs import load_samples
from raid.methods.lifetime import GRACE_VARIABLE, run_stage, under_way
from raid.methods.saving import Saving
from raid.run_folder import RunFolder
from raid.run_status import RunStatus, asked_to_stop, read_status


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("lifetime") / "images")


@pytest.fixture(scope="module")
def whole(root: Path) -> Iterator[RunFolder]:
    """The run that nobody disturbs."""
    with thin_resnet.in_use():
        yield icsr.run(tiny.config(root, root.parent / "whole"))


@dataclass(frozen=True)
class Job:
    folder: RunFolder
    deaths: tuple[int, ...]  # checkpoints after which the second worker dies
    before: dict[str, float] = field(default_factory=dict)
    started: float = 0.0


def mortal(group: Group, fanout: FanOut, job: Job) -> None:
    """Write five checkpoints; the second worker dies once after some of them."""
    for number in range(5):
        if group.is_first and not (job.folder.checkpoints / f"epoch_{number:05d}_step_0000000.pt").exists():
            checkpoint.save(job.folder.checkpoints, {}, epoch=number, step=0, keep=10)
        group.barrier()
        mark = job.folder.path / f"died_{number}_{len(list(job.folder.path.glob(f'died_{number}_*')))}"
        if group.rank == 1 and job.deaths.count(number) > len(list(job.folder.path.glob(f"died_{number}_*"))):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        group.barrier()


def stage(folder: Path, deaths: tuple[int, ...], root: Path, retries: int) -> None:
    folder.mkdir()
    config = tiny.config(root, folder, run__retries=retries, run__workers=2)
    backend = LocalBackend(workers=2, threads=1, on_gpu=False)
    run_stage(backend, config, RunFolder(folder), mortal, Job(RunFolder(folder), deaths))


@pytest.mark.usefixtures("quick_starts")
def test_workers_that_die_are_started_again_as_long_as_they_get_on(root, tmp_path, caplog):
    stage(tmp_path / "run", (1, 3), root, retries=1)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 5
    told = [record.message for record in caplog.records if "started again" in record.message]
    assert [line.rpartition(" ")[2] for line in told] == [
        "epoch_00001_step_0000000.pt", "epoch_00003_step_0000000.pt",
    ]  # fmt: skip


@pytest.mark.usefixtures("quick_starts")
def test_workers_that_die_at_the_same_place_are_given_up(root, tmp_path):
    with pytest.raises(InputError, match=r"run\.retries: workers died 2 times without .* --resume goes on"):
        stage(tmp_path / "run", (2, 2, 2), root, retries=1)
    assert len(list((tmp_path / "run").glob("died_*"))) == 2


def test_one_that_does_not_come_to_a_checkpoint_is_not_started_for_ever(root, tmp_path):
    class Dying:
        calls = 0

        def run_workers(self, *arguments: Any) -> None:
            self.calls += 1
            raise WorkersLost("worker 0 died")

    backend = Dying()
    with pytest.raises(InputError, match="died 4 times"):
        run_stage(
            backend, tiny.config(root, tmp_path), RunFolder(tmp_path), mortal, Job(RunFolder(tmp_path), ())
        )
    assert backend.calls == 4


def status_of(folder: Path) -> tuple[str, str, bool]:
    status = read_status(folder)
    assert isinstance(status, RunStatus)
    return status.state, status.reason, status.resumable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("done", "", False)),
        (InputError("seed: wrong\nin two lines"), ("failed", "seed: wrong", True)),
        (ZeroDivisionError(), ("failed", "ZeroDivisionError", True)),
        (KeyboardInterrupt(), ("stopped", "interrupted", True)),
    ],
)
def test_how_a_run_stands(root, tmp_path, error, expected):
    def live() -> None:
        with under_way(tiny.config(root, tmp_path), RunFolder(tmp_path), "icsr"):
            assert status_of(tmp_path)[0] == "running"
            if error is not None:
                raise error

    if error is None:
        live()
    else:
        with pytest.raises(type(error)):
            live()
    assert status_of(tmp_path) == expected


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGTERM to this process after the first step of that number."""
    due = Saving.due
    sent = []

    def told(self: Saving, number: int) -> bool:
        if number == step and not sent:
            sent.append(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self, number)

    monkeypatch.setattr(Saving, "due", told)


def test_sigterm_without_grace_ends_the_run_at_once(root, whole, tmp_path, monkeypatch):
    killed_at(monkeypatch, 2)
    before = signal.getsignal(signal.SIGTERM)
    config = tiny.config(root, tmp_path / "run")
    with pytest.raises(SystemExit) as raised:
        icsr.run(config)
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert status_of(config.run.folder) == ("stopped", "by SIGTERM", True)
    assert checkpoint.latest(config.run.folder / "checkpoints") is None
    assert_equal(icsr.run(config, resume=True), whole)


def test_sigterm_with_grace_leaves_a_checkpoint(root, whole, tmp_path, monkeypatch):
    killed_at(monkeypatch, 2)
    monkeypatch.setenv(GRACE_VARIABLE, "60")
    config = tiny.config(root, tmp_path / "run")
    with pytest.raises(SystemExit) as raised:
        icsr.run(config)
    assert raised.value.code == 143
    latest = checkpoint.latest(config.run.folder / "checkpoints")
    assert latest is not None
    assert latest.name == "epoch_00000_step_0000002.pt"
    assert status_of(config.run.folder) == ("stopped", "as asked, after a checkpoint", True)
    resumed = icsr.run(config, resume=True)
    assert not asked_to_stop(resumed.path)
    assert_equal(resumed, whole)


def test_a_run_that_another_process_goes_on_with_is_left_to_it(root, whole, tmp_path, monkeypatch):
    """As where a node is cut off and its job submitted again: the first stops, and spoils nothing."""
    config = tiny.config(root, tmp_path / "run", run__checkpoint_steps=1)
    due = Saving.due
    other = []

    def opened_by_another(self: Saving, number: int) -> bool:
        if number == 3 and not other:
            other.append(None)
            other.append(icsr.run(config, resume=True))  # to its end, within the other's step
        return due(self, number)

    monkeypatch.setattr(Saving, "due", opened_by_another)
    with pytest.raises(InputError, match=r"another process has opened .* since"):
        icsr.run(config)
    assert status_of(config.run.folder) == ("done", "", False)
    assert_equal(other[1], whole)


def test_sigterm_to_the_process_before_stops_nobody_else(root, tmp_path, monkeypatch):
    monkeypatch.setenv(GRACE_VARIABLE, "60")

    def live() -> None:
        (tmp_path / "attempt").write_text("first")
        with under_way(tiny.config(root, tmp_path), RunFolder(tmp_path, "first"), "icsr"):
            (tmp_path / "attempt").write_text("second")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(SystemExit):
        live()
    assert not asked_to_stop(tmp_path)
    assert status_of(tmp_path)[0] == "running"


def test_a_grace_that_runs_out_ends_the_run_without(root, tmp_path, monkeypatch):
    monkeypatch.setenv(GRACE_VARIABLE, "10")
    monkeypatch.setattr("raid.methods.lifetime._ENDING_S", 9.5)
    begun = time.monotonic()

    def live() -> None:
        with under_way(tiny.config(root, tmp_path), RunFolder(tmp_path), "icsr"):
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked_to_stop(tmp_path)
            time.sleep(60)

    with pytest.raises(SystemExit):
        live()
    assert time.monotonic() - begun < 30
    assert status_of(tmp_path) == ("stopped", "by SIGTERM", True)


def test_a_grace_that_is_no_number_is_said(root, tmp_path, monkeypatch):
    monkeypatch.setenv(GRACE_VARIABLE, "2m")
    with (
        pytest.raises(InputError, match="RAID_GRACE_SECONDS: '2m' is not a number of seconds"),
        under_way(tiny.config(root, tmp_path), RunFolder(tmp_path), "icsr"),
    ):
        pass


def assert_equal(ours: RunFolder, whole: RunFolder) -> None:
    assert json.dumps(ours.steps()) == json.dumps(whole.steps())
    assert timeless(ours) == timeless(whole)
    assert_same_bits(weights(ours.model), weights(whole.model))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"a file system cannot be mounted: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(root, whole, small_disk):
    config = tiny.config(root, small_disk / "run")
    with pytest.raises(
        InputError, match=r"run\.folder: no space left for .*; the checkpoints before are kept"
    ):
        icsr.run(config)
    assert not list((small_disk / "run" / "checkpoints").glob("epoch_*"))  # nor half of one
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    assert_equal(icsr.run(config, resume=True), whole)


@pytest.mark.parametrize("limit_gib", [0.0, 64.0])
def test_storage_that_hangs_is_named(root, tmp_path, limit_gib):
    """An image is a pipe that nobody writes to; decoded as it is asked for, or into a cache."""
    images = tiny.write_images(tmp_path / "images", num_identities=6)
    manifest = tmp_path / "images.parquet"
    load_samples(tiny.config(images, tmp_path).data).write(manifest)
    (victim,) = images.glob("train/0002_c2_1.png")
    victim.unlink()
    os.mkfifo(victim)
    config = tiny.config(
        images, tmp_path / "run", data__layout="manifest", data__pattern=None, data__root=str(manifest),
        data__cache_limit_gib=limit_gib, data__cache_folder=str(tmp_path / "cache"), data__read_timeout_s=1.0,
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"0002_c2_1\.png: could not be read within 1 s .*: the storage hangs"
    ):
        icsr.run(config)
