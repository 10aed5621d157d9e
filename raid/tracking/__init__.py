"""MLflow shows what a run folder holds; the folder is the truth, and no run waits for MLflow.

`follow` has a daemon thread of the driver send what is new in the folder, an epoch at a time. Where it does
not come through (a server that is down, slow or unknown), it says so once, tries again with growing pauses,
and gives up when the run has ended; `sync`, the command `raid track sync`, sends the rest, later, from
anywhere. What was sent where stands in the folder's tracking.json, so that whoever goes on (the next epoch,
a resumed run, `sync`) goes on in the same MLflow run and sends nothing twice.

Parameters are the resolved configuration; metrics have the names of metrics.jsonl, the epoch as their step
and the time it was recorded at; artifacts are the files of `content.FILES`, such as metrics.jsonl and
report.html, when the run has ended, and the GANs' pictures (`content.PICTURES`) as they appear. MLflow keeps
every value that it was given. So if a resumed run makes an epoch again and comes to other figures, these are
added at the same step with a later time (which makes them the valid ones), the log says it, and the tag
epochs_made_again names the step; of equal figures only the times it took are added.

A run that ends is FINISHED, or FAILED by an exception, or KILLED by an interrupt or SIGTERM. Of a driver that
died without a word the run goes on (`--resume`), or is closed by the next run in the same folder, or by
`sync`: with a model FINISHED, without KILLED.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.follower import Follower
from raid.tracking.manners import TrackingError
from raid.tracking.origin import joined_tags, origin_tags
from raid.tracking.place import shown, tracking_uri
from raid.tracking.record import Held, Record
from raid.tracking.sender import DEFAULT_EXPERIMENT, PARENT_TAG, Sender, send_rest

__all__ = ["DEFAULT_EXPERIMENT", "PARENT_TAG", "follow", "sync"]

logger = logging.getLogger(__name__)


@contextmanager
def follow(folder: RunFolder, experiment: str, tags: Mapping[str, str]) -> Iterator[None]:
    """Send what the block's run writes into `folder` to MLflow; no error of that gets into the block.

    SIGTERM raises SystemExit in the block (of the main thread), for the run to be closed as KILLED. Enter
    this after Ray has started, which takes the signal for itself. The end of the block waits for what is
    still to be sent, but not longer than `follower.END_WAIT_S`.

    Args:
        folder: opened for this run.
        experiment: of MLflow; made when there is none of this name.
        tags: of the run, beside its own (see `origin.origin_tags`).
    """
    follower = _follower(folder, experiment, tags)
    if follower is None:
        yield
        return
    outcome = "KILLED"
    with terminable():
        try:
            yield
            outcome = "FINISHED"
        except Exception:
            outcome = "FAILED"
            raise
        finally:
            follower.end(outcome)


def sync(
    folder: RunFolder,
    uri: str | None = None,
    *,
    outcome: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Send what MLflow does not have of a run, and close the run there; return what was done as one line.

    Args:
        folder: of a run that has ended, or died, or is running (then nothing is done).
        uri: where to; None: MLFLOW_TRACKING_URI, or the database beside the runs.
        outcome: FINISHED, FAILED or KILLED, of a run that could not say how it ended.
        tags: of the run, beside those it has.

    Raises:
        InputError: the folder holds no run or cannot be written, or MLflow does not take it. Nothing is lost.
    """
    uri = uri or tracking_uri(folder.path)
    return synced(folder.path, uri, lambda: send_rest(folder, uri, outcome=outcome, tags=tags))


def synced(path: Path, uri: str, send: Callable[[], str]) -> str:
    """Return what `send` did of the folder at `path`, or say for people why it did nothing.

    Raises:
        InputError: `send` raised it, or what a disk or MLflow raises.
    """
    try:
        return f"{path}: {send()}"
    except Held:
        return f"{path}: is running, and sends by itself"
    except TrackingError as error:
        raise InputError(f"{shown(uri)}: {error}; nothing is lost: everything is in {path}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _follower(folder: RunFolder, experiment: str, tags: Mapping[str, str]) -> Follower | None:
    try:
        record = Record.open(folder.path)
        try:
            record.begin(experiment)
            uri = tracking_uri(folder.path)
            return Follower(folder.path, record, uri, lambda: _sender(folder, record, uri, tags))
        except BaseException:
            record.close()
            raise
    except (Held, OSError, InputError) as error:
        logger.warning("tracking: this run is not tracked: %s", error)
    except Exception:
        logger.warning("tracking: this run is not tracked, by a fault of the tracking", exc_info=True)
    return None


def _sender(folder: RunFolder, record: Record, uri: str, tags: Mapping[str, str]) -> Sender:
    with record.changing():
        record.tags = joined_tags(record.tags, {**origin_tags(), **tags})
    return Sender(folder, record, uri, running=True)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block with SystemExit: by default Python dies of it without another word."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        # None: the handler was not installed by Python, which cannot give it back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
