"""Kills at random, of whatever a run has: it ends with the labels and the losses of one that was left alone.

`make chaos` has 20 kills, RAID_KILLS of RAID_CHAOS_SEED; without, there are 5.
"""

import os
import random
import signal
from pathlib import Path

import pytest
import tiny
from ray_runs import Run, assert_equal

from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig

KILLS = int(os.environ.get("RAID_KILLS", "5"))
SEED = int(os.environ.get("RAID_CHAOS_SEED", "1"))
EPOCHS = 3
STEPS_BETWEEN = 6  # at most, from one kill to the next
STEPS = 4 + KILLS * STEPS_BETWEEN // EPOCHS  # of an epoch
VICTIMS = ("ray::RayTrainWorker", "ray::PoolProcess", "driver")


def configured(root: Path, folder: Path, **overrides: int) -> IcsrConfig:
    """A run of seconds; exact, for in so many steps the rounding of another sum would grow."""
    return tiny.config(
        root, folder, inter__epochs=EPOCHS, inter__steps=STEPS, run__checkpoint_steps=1,
        run__keep_checkpoints=3, numerics__reproducible="exact", intra__epochs=3, intra__steps=6, **overrides,
    )  # fmt: skip


@pytest.mark.timeout(120 + 120 * KILLS)
def test_kills_at_random(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    root = tiny.write_images(tmp_path / "images")
    whole = icsr.run(configured(root, tmp_path / "whole"))
    draw = random.Random(SEED)
    run = Run(configured(root, tmp_path / "run", run__workers=2), "icsr").start()
    try:
        for kill in range(KILLS):
            _kill_something(run, draw, kill)
        run.ends()
    finally:
        run.clean()
    assert_equal(run.folder, whole)
    assert run.folder.local_labels.read_bytes() == whole.local_labels.read_bytes()


def _kill_something(run: Run, draw: random.Random, kill: int) -> None:
    """Wait for some steps (the first kill: for a camera, of the pool), and kill."""
    victim = VICTIMS[1] if kill == 0 else draw.choice(VICTIMS)
    if kill == 0:
        run.until(lambda: run.folder.local.exists() and list(run.folder.local.glob("camera_*.parquet")))
    else:
        before, steps = run.steps_done(STEPS), draw.randint(1, STEPS_BETWEEN)
        run.until(lambda: run.steps_done(STEPS) >= before + steps)
    with run.recovers(f"kill {kill + 1} of {KILLS}: {victim}"):
        if victim == "driver":
            run.kill()
            run.start("--resume")
        else:
            os.kill(draw.choice(sorted(run.alive(victim))), signal.SIGKILL)
