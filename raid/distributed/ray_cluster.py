"""The Ray cluster: how a process gets to it, and what may be asked of it."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import ray

from raid.errors import InputError

Device = Literal["auto", "cpu", "cuda"]

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job
_TRAIN_SETTINGS = {
    # A report waits for the controller's next look at the workers (2 s by default).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers that have not started by then never will: their resources were checked before.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    # What workers print is printed once, not twice; nor is the watcher's harmless error line.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Paths mean on a worker what they mean here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def connect(num_cpus: int | None = None, *, dashboard: bool = True) -> None:
    """Connect this process to the cluster that is there, or start one of this machine's own.

    Args:
        num_cpus: of the one that is started; None: those of the machine.
        dashboard: of the one that is started; it takes seconds. Without, the resources of a trainer that is
            stopped or killed are never free again: Ray Train asks it who is alive.
    """
    for name, value in _TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, logging_level=logging.WARNING)
        return
    # What frees the resources of a trainer that was killed asks the cluster by its address, which its process
    # has to know where there are two clusters on a machine; it takes on what the cluster is started with.
    port = str(free_port())
    with _environment(RAY_GCS_SERVER_PORT=port, RAY_ADDRESS=f"{ray.util.get_node_ip_address()}:{port}"):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=dashboard,
            logging_level=logging.WARNING,
        )


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def free_port() -> int:
    """Return a port that nobody listens on, outside the range of Ray's workers."""
    while True:
        with socket.socket() as listener:
            listener.bind(("", 0))
            port = int(listener.getsockname()[1])
        if port >= 20000:
            return port


def check_outlives_job(folder: Path) -> None:
    """Refuse a run folder that goes with the submitted job that this process is of."""
    if _IN_JOB in os.environ and not folder.is_absolute():
        raise InputError(
            f"run.folder: {folder} is relative, and a submitted job runs in a copy of its working "
            "directory that goes with it; give an absolute path on storage that all nodes share"
        )


def wants_gpus(device: Device, have: Mapping[str, float]) -> bool:
    """Whether the workers have a GPU each, on a cluster with these resources."""
    return device == "cuda" or (device == "auto" and have.get("GPU", 0.0) > 0.0)
