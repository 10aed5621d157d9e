"""A run from its first file to its end: status.json, MLflow, what SIGTERM does, and workers that die.

On SIGTERM a run is stopped so that it can be gone on with (`--resume`): status.json says so at once, MLflow
is told that it was KILLED, and the process ends with 143, all within two seconds; what was trained since the
last checkpoint is lost. Where there is time (RAID_GRACE_SECONDS: after so many the process is killed, see
deploy/), the workers are asked for a checkpoint first.
"""

import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from raid.distributed import checkpoint
from raid.distributed.backend import Backend
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.distributed.launch import Stopped, WorkersLost
from raid.errors import InputError
from raid.methods.launch import Launched, tracked
from raid.methods.stalls import stacks_since
from raid.run_folder import RunFolder
from raid.run_status import State, ask_to_stop, go_on, write_status

GRACE_VARIABLE = "RAID_GRACE_SECONDS"
# Of the grace, what is kept for telling everybody; and the least that a checkpoint is tried within.
_ENDING_S = 5.0
_LEAST_S = 10.0
_SIGTERM = "by SIGTERM"
EXIT_TERMINATED = 128 + signal.SIGTERM
logger = logging.getLogger(__name__)


@contextmanager
def under_way(config: Launched, folder: RunFolder, method: str) -> Iterator[None]:
    """Tell status.json and MLflow of the run for as long as the block lasts; see the module for SIGTERM.

    Args:
        config: of the run.
        folder: opened for it.
        method: icsr, mar, slsr.
    """
    go_on(folder.path)
    _tell(folder, "running")
    with tracked(config, folder, method), _ends_on_sigterm(folder):
        try:
            with full_disk_named(folder):
                yield
        except Stopped as stopped:
            logger.warning("%s; --resume goes on from there", stopped)
            _tell(folder, "stopped", "as asked, after a checkpoint")
            raise SystemExit(EXIT_TERMINATED) from None
        except Exception as error:
            with suppress(InputError):  # a full disk, say: the error itself is to be seen
                _tell(folder, "failed", next(iter(str(error).splitlines()), type(error).__name__))
            raise
        except SystemExit:  # Ray, where we wait for it, makes another of ours
            _tell(folder, "stopped", _SIGTERM)
            raise SystemExit(EXIT_TERMINATED) from None
        except BaseException:
            _tell(folder, "stopped", "interrupted")
            raise
    _tell(folder, "done")


def _tell(folder: RunFolder, state: State, reason: str = "") -> None:
    """Write how the run stands, unless another process knows that better by now."""
    if folder.is_ours():
        write_status(folder.path, state, reason)


def run_stage(
    backend: Backend, config: Launched, folder: RunFolder, function: Callable[..., None], job: Any
) -> None:
    """Run the workers of a stage; when some die, all are started again from the latest checkpoint.

    Args:
        backend: where they are.
        config: of the run.
        folder: of the run.
        function: what every worker does, as in `Backend.run_workers`; goes on from the latest checkpoint.
        job: of the stage; has `before` and `started`.

    Raises:
        InputError: a worker raised it; or they died `run.retries` times without getting to a checkpoint.
    """
    tries = 0
    while True:
        before, started = checkpoint.latest(folder.checkpoints), time.time()
        try:
            backend.run_workers(partial(_writing, function), job)
            return
        except WorkersLost as died:
            stacks = stacks_since(folder.path, started)
            lost = f"{died}; they stood still: see {', '.join(map(str, stacks))}" if stacks else str(died)
            reached = checkpoint.latest(folder.checkpoints)
            tries = tries + 1 if reached == before else 1
            if tries > config.run.retries:
                raise InputError(
                    f"run.retries: workers died {tries} times without reaching a checkpoint: {lost}; "
                    "--resume goes on, run.checkpoint_minutes makes checkpoints closer together"
                ) from died
            place = "the beginning" if reached is None else reached.name
            logger.warning("%s; all are started again, from %s", lost, place)
        job = replace(job, before={}, started=time.time())


def _writing(function: Callable[..., None], group: Group, fanout: FanOut, job: Any) -> None:
    """Do a worker's work, and say it plainly where its files find no room."""
    with full_disk_named(job.folder):
        function(group, fanout, job)


@contextmanager
def full_disk_named(folder: RunFolder) -> Iterator[None]:
    """Turn what goes wrong for want of room into an InputError.

    Raises:
        InputError: the disk is full, or the quota used up.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch makes the one of the other
        if not _is_full(error):
            raise
        raise InputError(
            f"run.folder: no space left for {folder.path}; the checkpoints before are kept: make room, and "
            "go on with --resume"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _ends_on_sigterm(folder: RunFolder) -> Iterator[None]:
    """Let SIGTERM end the block with SystemExit, after a last checkpoint where there is time for one.

    Enter this after Ray has started, which takes the signal for itself.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    grace = _grace()
    alarm = threading.Timer(grace - _ENDING_S, lambda: os.kill(os.getpid(), signal.SIGTERM))
    alarm.daemon = True

    def leave(number: int, frame: Any) -> None:
        _tell(folder, "stopped", _SIGTERM)
        if grace >= _LEAST_S and alarm.ident is None and folder.is_ours():
            ask_to_stop(folder.path)
            alarm.start()  # the second signal is its own, or somebody's who does not want to wait
            return
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        alarm.cancel()
        # None: the handler was not installed by Python, which cannot give it back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _grace() -> float:
    """Return how many seconds after SIGTERM this process is killed, as far as it knows; 0: at once.

    Raises:
        InputError: the variable is no number.
    """
    text = os.environ.get(GRACE_VARIABLE, "0")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{GRACE_VARIABLE}: {text!r} is not a number of seconds") from None
