"""A run that is killed anywhere and resumed ends as one that was left alone (float64, CPU)."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import thin_resnet
import tiny
from comparing import assert_same_bits, timeless, weights
from dying import Killed, kill_at, lives

from raid.config import to_yaml
from raid.distributed import checkpoint
from raid.errors import InputError
from raid.methods.icsr import intra_camera
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.run_folder import RunFolder

EPOCHS, STEPS = 2, 3


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("resume") / "images")


def configured(root: Path, folder: Path, every: int = 1) -> IcsrConfig:
    return tiny.config(root, folder, inter__epochs=EPOCHS, inter__steps=STEPS, run__checkpoint_steps=every)


@pytest.fixture(scope="module")
def whole(root: Path) -> RunFolder:
    """The run that nobody disturbs."""
    return icsr.run(configured(root, root.parent / "whole"))


def trained(config: IcsrConfig, resume: bool) -> RunFolder:
    return icsr.run(config, resume=resume)


def assert_equal_runs(ours: RunFolder, whole: RunFolder) -> None:
    assert ours.steps() == whole.steps()
    assert timeless(ours) == timeless(whole)
    assert_same_bits(weights(ours.model), weights(whole.model))
    assert ours.local_labels.read_bytes() == whole.local_labels.read_bytes()


def test_killed_after_every_step_and_every_epoch(root, whole, tmp_path, monkeypatch):
    config = configured(root, tmp_path / "run")
    assert lives(partial(trained, config), monkeypatch, 1, after=True) == EPOCHS * (STEPS + 1) + 1
    assert_equal_runs(RunFolder(config.run.folder), whole)


def test_killed_before_every_checkpoint(root, whole, tmp_path, monkeypatch):
    # Each life writes one checkpoint and dies before the second: every step and every record is made twice.
    config = configured(root, tmp_path / "run")
    assert lives(partial(trained, config), monkeypatch, 2, after=False) == EPOCHS * (STEPS + 1)
    assert_equal_runs(RunFolder(config.run.folder), whole)


def test_killed_at_the_end_of_the_first_epoch_without_any_checkpoint(root, whole, tmp_path, monkeypatch):
    kill_at(monkeypatch, checkpoint, "save", 1, after=False)
    config = configured(root, tmp_path / "run", every=0)
    with pytest.raises(Killed):
        icsr.run(config)
    assert len(RunFolder(tmp_path / "run").metrics()) == 1
    monkeypatch.undo()
    assert_equal_runs(icsr.run(config, resume=True), whole)


@pytest.mark.parametrize(("after", "missing"), [(True, 2), (False, 3)])
def test_killed_between_cameras_trains_only_the_others(root, whole, tmp_path, monkeypatch, after, missing):
    config = configured(root, tmp_path / "run")
    kill_at(monkeypatch, intra_camera, "_write_table", 1, after=after)
    with pytest.raises(Killed):
        icsr.run(config)
    monkeypatch.undo()
    trained = []
    real = intra_camera.train_camera
    monkeypatch.setattr(
        intra_camera, "train_camera", lambda camera, job: trained.append(camera) or real(camera, job)
    )
    assert_equal_runs(icsr.run(config, resume=True), whole)
    assert len(trained) == missing
    lines = RunFolder(config.run.folder).cameras()
    assert sorted(line["camera"] for line in lines) == [0, 1, 2]
    assert len((config.run.folder / "cameras.jsonl").read_text().splitlines()) == 1 + missing


def test_finished_run_resumes_to_itself(root, whole, monkeypatch):
    before = whole.model.read_bytes(), whole.steps()
    again = icsr.run(configured(root, whole.path), resume=True)
    assert (again.model.read_bytes(), again.steps()) == before


def test_fresh_starts_over(root, whole, tmp_path, monkeypatch):
    config = configured(root, tmp_path / "run")
    kill_at(monkeypatch, checkpoint, "save", 2, after=True)
    with pytest.raises(Killed):
        icsr.run(config)
    monkeypatch.undo()
    assert_equal_runs(icsr.run(config, fresh=True), whole)


def test_another_configuration_is_refused(root, whole):
    config = tiny.config(root, whole.path, inter__epochs=EPOCHS, inter__steps=STEPS, temperature=0.1)
    with pytest.raises(InputError, match=r"temperature was 0\.05, is 0\.1"):
        icsr.run(config, resume=True)


def test_other_images_are_refused(root, whole, tmp_path):
    other = tiny.write_images(tmp_path / "images", num_identities=12)
    with pytest.raises(InputError, match=r"images differ"):
        icsr.run(configured(other, whole.path), resume=True)


def test_process_killed_by_a_signal(root, whole, tmp_path):
    config = configured(root, tmp_path / "run")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, thin_resnet.__file__, "icsr", str(file), "--backend", "local"]
    checkpoints = tmp_path / "run" / "checkpoints"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("epoch_*.pt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = subprocess.run([*command, "--resume"], check=True, capture_output=True, text=True)
    assert "going on from epoch" in resumed.stderr
    assert json.dumps(RunFolder(tmp_path / "run").steps()) == json.dumps(whole.steps())
    assert_equal_runs(RunFolder(tmp_path / "run"), whole)
