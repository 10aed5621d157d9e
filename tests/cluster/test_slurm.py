"""Slurm's script with a real Ray: two nodes on this machine, with a stand-in for Slurm."""

import os
import subprocess
import sys
from pathlib import Path

import tiny

from raid.config import flatten
from raid.run_folder import RunFolder

REPOSITORY = Path(__file__).parents[2]
# Starts a step here, whichever nodes it is for.
SRUN = '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n'


def test_a_run_on_two_nodes_ends_and_leaves_nothing_but_the_run(tmp_path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    config = tiny.config(
        tiny.write_images(tmp_path / "images"),
        tmp_path / "runs" / "run",
        run__workers=2,
        pool__size=1,
        inter__epochs=1,
        numerics__dtype="float32",
    )
    changed = {
        key: value for key, value in flatten(config).items() if not isinstance(value, (list, type(None)))
    }
    job = str(os.getpid())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM"))},
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
        "SLURMD_NODENAME": "this",
    }
    command = ["bash", REPOSITORY / "deploy" / "slurm" / "raid.sbatch", "icsr"]
    overrides = [REPOSITORY / "jobs" / "icsr_demo.yaml", *(f"{k}={v}" for k, v in changed.items())]
    done = subprocess.run(
        [*command, *overrides, "--resume"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last epoch  1: mAP" in done.stdout
    assert RunFolder(tmp_path / "runs" / "run").model.exists()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]  # the token has gone
    assert subprocess.run(["pgrep", "-f", f"/tmp/raid_{job}"], capture_output=True, text=True).stdout == ""
    assert not Path(f"/tmp/raid_{job}").exists()
