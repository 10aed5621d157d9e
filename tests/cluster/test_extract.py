"""`raid extract --pool` as users start it: a Ray of its own, killed with all its processes, gone on with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray_runs
import tiny

from raid.config import to_yaml
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.methods.encoder import build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extract")
    root = tiny.write_images(folder / "images", num_identities=12)
    config = tiny.config(root, folder / "run", numerics__dtype="float32")
    weights = build_model(config.training.encoder, Group.solo()).state_dict()
    write_tensors(folder / "run" / "model.pt", {"model": weights, "config": to_yaml(config)})
    return folder


PROGRAM = """
import sys, time
from raid.cli import main
from raid.methods.answers import extraction
extraction.PART_ROWS = 4
write = extraction.Parts.write
extraction.Parts.write = lambda *arguments: (write(*arguments), time.sleep(0.05))
sys.exit(main(sys.argv[1:]))
"""


def command(folder: Path, out: str, *options: str) -> list[str]:
    arguments = ["extract", str(folder / "run"), str(folder / "images"), str(folder / out), "--batch=4"]
    return [sys.executable, "-c", PROGRAM, *arguments, f"data.pattern={tiny.PATTERN}", *options]


def finished(folder: Path, out: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, out, *options), capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """The file of one process that was left alone."""
    assert finished(folder, "whole.parquet").returncode == 0
    return (folder / "whole.parquet").read_bytes()


def test_killed_on_two_actors_and_gone_on_with_in_this_process_is_the_same_file(folder, whole):
    mark = {**os.environ, ray_runs.MARK: "extract"}
    process = subprocess.Popen(command(folder, "killed.parquet", "--pool=2"), env=mark)
    parts, deadline = folder / "killed.parquet.parts", time.monotonic() + 240
    while not (parts / "000001.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for pid in ray_runs.processes("extract"):
        os.kill(pid, signal.SIGKILL)
    num_parts = len(list(parts.glob("0*.npz")))
    done = finished(folder, "killed.parquet")
    assert f"{num_parts} of 27 parts are there" in done.stderr
    assert (folder / "killed.parquet").read_bytes() == whole


def test_two_actors_write_the_file_of_one_process(folder, whole):
    done = finished(folder, "pool.parquet", "--pool=2")
    assert done.returncode == 0, done.stderr
    assert (folder / "pool.parquet").read_bytes() == whole


def test_a_mistake_on_an_actor_is_one_line(folder):
    damaged = folder / "images" / "gallery" / "0001_c1_1.png"
    whole = damaged.read_bytes()
    try:
        damaged.write_bytes(whole[: len(whole) // 2])
        done = finished(folder, "damaged.parquet", "--pool=2")
    finally:
        damaged.write_bytes(whole)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("raid: ")]
    assert "gallery/0001_c1_1.png: " in line
