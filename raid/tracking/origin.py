"""Where a run comes from: its tags in MLflow."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import raid

# A working tree on a network disk may take its time; nobody waits for this, but the process that asks.
_GIT_TIMEOUT_S = 20


def origin_tags() -> dict[str, str]:
    """Return the tags of a run that this process makes; what is unknown is left out."""
    tags = {
        "raid_version": raid.__version__,
        "git_commit": _git_commit(),
        "ray_job": _ray_job(),
    }
    return {name: value for name, value in tags.items() if value}


def place_tags(folder: Path) -> dict[str, str]:
    """Return the tags that say which folder of which machine a run is in."""
    return {"host": socket.gethostname(), "run_folder": os.path.abspath(folder)}


def joined_tags(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that was perhaps resumed elsewhere or with other code: then both values.

    Of MLflow's own, such as the run that it is nested in, the new value alone.
    """
    return {**before, **{name: _joined(before.get(name), name, value) for name, value in now.items()}}


def _joined(before: str | None, name: str, now: str) -> str:
    if before is None or name.startswith("mlflow."):
        return now
    return before if now in before.split(", ") else f"{before}, {now}"


def _git_commit() -> str | None:
    """Return the commit of the working tree that raid runs from, with "-dirty" if it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(raid.__file__).parent, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):  # no git
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _ray_job() -> str | None:
    """Return the submission id of the Ray job that this is the entrypoint of."""
    try:
        # A submitted job's metadata, as its supervisor hands it to the driver.
        metadata = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata", {})
        submitted = metadata.get("job_submission_id")
    except (ValueError, AttributeError):
        submitted = None
    return submitted or os.environ.get("RAY_JOB_ID")
