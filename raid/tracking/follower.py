"""The thread that follows a folder, of a run or a sweep."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from raid.errors import InputError
from raid.tracking.manners import TrackingError, be_mild, quiet
from raid.tracking.place import shown
from raid.tracking.record import Closed, Record, now_ms

# How long the end of a run may take for MLflow's sake: a cold start (import, new database) takes 2 to 12
# seconds, and sending an epoch and the files less than one; a server that needs longer may need for ever.
END_WAIT_S = 10.0
# Of a run that is killed: whoever sent SIGTERM expects it to be gone in a moment.
KILLED_WAIT_S = 1.3
# Between looks at the folder, which cost a stat: nobody watches an epoch's figures more closely.
POLL_S = 1.0
# Between attempts while MLflow does not take anything, doubled every time; at the end somebody waits for it.
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 120.0
LONGEST_PAUSE_AT_END_S = 10.0
logger = logging.getLogger(__name__)


class Sends(Protocol):
    """What sends a folder: `sender.Sender`, `parent.ParentSender`."""

    def look(self) -> None:
        """Take down what is new; MLflow is not asked."""

    def send(self) -> None:
        """Send what is new."""

    def finish(self, status: str) -> str:
        """Send all that is missing and close the run."""


class Follower:
    """Sends what is new in a folder, from construction to `end`, which alone waits for it.

    Args:
        path: of the folder.
        record: of the folder, begun; closed at the end.
        uri: of MLflow.
        sender: returns what sends; called in the thread.
    """

    def __init__(self, path: Path, record: Record, uri: str, sender: Callable[[], Sends]) -> None:
        be_mild()
        self._path, self._record, self._uri, self._sender = path, record, uri, sender
        self._ending = threading.Event()
        self._give_up_at = 0.0
        self._outage = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="raid-tracking", daemon=True)
        self._thread.start()
        logger.info("tracking: experiment %s at %s", record.experiment, shown(uri))

    def end(self, outcome: str, wait_s: float | None = None) -> bool:
        """Close the run as FINISHED, FAILED or KILLED; wait for that, and tell whether all came through.

        Args:
            outcome: of the run.
            wait_s: for how long it is tried again; None: it is tried once, and waited for END_WAIT_S, or
                KILLED_WAIT_S.
        """
        once_s = KILLED_WAIT_S if outcome == "KILLED" else END_WAIT_S
        try:
            with self._record.changing():
                self._record.outcome, self._record.ended_ms = outcome, now_ms()
            self._give_up_at = time.monotonic() + (wait_s or 0.0)
            self._ending.set()
            self._thread.join(once_s if wait_s is None else wait_s)
            if not self._complete:
                logger.warning(
                    "tracking: %s has not all of this run; `raid track sync %s` sends the rest",
                    shown(self._uri),
                    self._path,
                )
        except Exception as error:  # a disk that is full, say
            logger.warning("tracking: %s: %s", type(error).__name__, error)
        finally:
            self._ending.set()
            self._record.close()
        return self._complete

    def _work(self) -> None:
        try:
            with quiet():
                self._follow()
        except Closed:
            pass
        except InputError as error:
            logger.warning("tracking: %s", error)
        except Exception:  # whatever it is, the run goes on
            logger.warning("tracking: stopped by a fault of its own", exc_info=True)

    def _follow(self) -> None:
        sender = self._sender()
        pause = FIRST_PAUSE_S
        while True:
            ending = self._ending.is_set()
            try:
                if ending:
                    assert self._record.outcome is not None
                    sender.finish(self._record.outcome)
                else:
                    sender.send()
                self._came_through()
                self._complete = ending
                wait, pause = POLL_S, FIRST_PAUSE_S
            except (TrackingError, OSError) as error:
                self._failed(error)
                wait, pause = pause, min(2 * pause, LONGEST_PAUSE_S)
            if ending:
                left = self._give_up_at - time.monotonic()
                if self._complete or left <= 0:
                    return
                time.sleep(min(wait, LONGEST_PAUSE_AT_END_S, left))
            else:
                self._wait(sender, wait)

    def _wait(self, sender: Sends, seconds: float) -> None:
        """Wait for the end of the run, but not longer; when epochs are recorded is seen meanwhile."""
        until = time.monotonic() + seconds
        while not self._ending.wait(min(POLL_S, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                return
            with suppress(OSError):  # sending will tell
                sender.look()

    def _came_through(self) -> None:
        if self._outage:
            logger.info("tracking: %s answers again", shown(self._uri))
        self._outage = False

    def _failed(self, error: Exception) -> None:
        if not self._outage:
            logger.warning(
                "tracking: %s: %s; the run goes on, and what is missing is sent when it answers again, "
                "or by `raid track sync %s`",
                shown(self._uri),
                error,
                self._path,
            )
        self._outage = True
