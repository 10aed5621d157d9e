"""The thread that follows a run folder."""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.manners import TrackingError, be_mild, quiet
from raid.tracking.origin import joined, origin_tags
from raid.tracking.place import shown
from raid.tracking.record import Closed, Record, now_ms
from raid.tracking.sender import Sender

# How long the end of a run may take for MLflow's sake: a cold start (import, new database) takes 2 to 12
# seconds, and sending an epoch and the files less than one; a server that needs longer may need for ever.
END_WAIT_S = 10.0
# Between looks at the folder, which cost a stat: nobody watches an epoch's figures more closely.
POLL_S = 1.0
# Between attempts while MLflow does not take anything, doubled every time.
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 120.0
logger = logging.getLogger(__name__)


class Follower:
    """Sends what is new in a run folder, from construction to `end`, which alone waits for it."""

    def __init__(
        self, folder: RunFolder, record: Record, uri: str, experiment: str, tags: Mapping[str, str]
    ) -> None:
        with record.changing():
            record.experiment, record.outcome, record.ended_ms = experiment, None, None
            record.started_ms = record.started_ms or now_ms()
        be_mild()
        self._folder, self._record, self._uri, self._tags = folder, record, uri, dict(tags)
        self._ending = threading.Event()
        self._outage = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="raid-tracking", daemon=True)
        self._thread.start()
        logger.info("tracking: experiment %s at %s", experiment, shown(uri))

    def end(self, outcome: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED; wait for that, but not long."""
        try:
            with self._record.changing():
                self._record.outcome, self._record.ended_ms = outcome, now_ms()
            self._ending.set()
            self._thread.join(END_WAIT_S)
            if not self._complete:
                logger.warning(
                    "tracking: %s has not all of this run; `raid track sync %s` sends the rest",
                    shown(self._uri),
                    self._folder.path,
                )
        except Exception as error:  # a disk that is full, say
            logger.warning("tracking: %s: %s", type(error).__name__, error)
        finally:
            self._ending.set()
            self._record.close()

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
        with self._record.changing():
            for name, value in {**origin_tags(), **self._tags}.items():
                self._record.tags[name] = joined(self._record.tags.get(name), value)
        sender = Sender(self._folder, self._record, self._uri, running=True)
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
                return
            self._wait(sender, wait)

    def _wait(self, sender: Sender, seconds: float) -> None:
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
                self._folder.path,
            )
        self._outage = True
