"""A sweep in MLflow: a run that its trials are nested in, and the end of those that could not say it.

Every trial is a run folder that its own process follows (`follow`, with `track.parent`); the sweep's driver
has a server up for all of them (`server.served`), logs what is known of the sweep (`Parent`), and closes what
is left open (`close_trials`).
"""

import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.follower import Follower
from raid.tracking.manners import TrackingError, be_mild, quiet
from raid.tracking.origin import joined_tags, origin_tags
from raid.tracking.parent import Journal, ParentSender, named_in
from raid.tracking.place import shown
from raid.tracking.record import SWEEP, Held, Record, Sweep
from raid.tracking.sender import send_rest

# Between attempts to close trials, doubled every time.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
logger = logging.getLogger(__name__)


class Parent:
    """The MLflow run of a sweep, from `open` to `end`; what MLflow has of it stands in tracking_parent.json.

    Attributes:
        run_id: in MLflow, for `track.parent` of the trials.
    """

    def __init__(self, folder: Path, record: Record, uri: str, sender: ParentSender) -> None:
        self.run_id = str(record.sent_to(shown(uri)).run_id)
        self._folder, self._record, self._journal = folder, record, Journal(folder)
        self._follower = Follower(folder, record, uri, lambda: sender)

    @staticmethod
    def open(
        folder: Path,
        uri: str,
        experiment: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> "Parent":
        """Make the run in MLflow, or go on with the one that the folder has there.

        Args:
            folder: of the sweep; made when there is none.
            uri: as `server.served` yields it.
            experiment: of MLflow; made when there is none of this name.
            name: of the run.
            params: of the run; what they were at first stays.
            tags: of the run, beside those that say where it comes from.

        Raises:
            InputError: another process has the sweep, the folder cannot be written, or MLflow does not take
                the run. The sweep has not begun.
        """
        be_mild()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record = Record.open(folder, SWEEP)
            try:
                record.begin(experiment)
                with record.changing():
                    record.sweep = Sweep(name, dict(params))
                    record.tags = joined_tags(record.tags, {**origin_tags(), **tags})
                sender = ParentSender(folder, record, uri, running=True)
                with quiet():
                    sender.send()
                return Parent(folder, record, uri, sender)
            except BaseException:
                record.close()
                raise
        except Held:
            raise InputError(f"{folder}: another process is running this sweep") from None
        except TrackingError as error:
            raise InputError(f"{shown(uri)}: {error}; the sweep has not begun") from error
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Note figures, which a thread sends; this neither waits for MLflow nor raises anything."""
        self._journal.note(figures, step)

    def end(self, outcome: str, files: Sequence[Path], tags: Mapping[str, str], wait_s: float) -> bool:
        """Close the run and tell whether all came through; if not, a warning says how the rest is sent.

        Args:
            outcome: FINISHED, FAILED or KILLED.
            files: artifacts; those in the sweep's folder keep their place in there.
            tags: of the run, beside those it has.
            wait_s: for how long it is tried.
        """
        self._journal.write()
        try:
            with self._record.changing():
                assert self._record.sweep is not None
                self._record.sweep.files = named_in(self._folder, list(files))
                self._record.tags |= tags
        except OSError as error:
            logger.warning("tracking: %s cannot be written: %s", self._folder, error.strerror or error)
        return self._follower.end(outcome, wait_s)


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep that has ended.

    Attributes:
        folder: of its run.
        outcome: FINISHED, FAILED or KILLED, where the trial could not say it (a scheduler stopped it); None:
            by what it left.
        tags: of its run, beside those it has.
        overrules: the outcome holds against what the run said: that it failed, as it was stopped.
    """

    folder: Path
    outcome: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    overrules: bool = False


def close_trials(trials: Sequence[Trial], uri: str, wait_s: float) -> list[Path]:
    """Send what MLflow does not have of trials, and close them; return the folders of those that failed.

    A warning says how the rest is sent. Where MLflow is away, or a trial's process is not quite gone, it is
    tried again.

    Args:
        trials: that have ended.
        uri: where to.
        wait_s: for how long it is tried.
    """
    be_mild()
    until, pause = time.monotonic() + wait_s, FIRST_PAUSE_S
    why: dict[Path, str] = {}
    left = list(trials)
    while left:
        left = _left(left, uri, until, why)
        wait = min(pause, until - time.monotonic())
        if not left or wait <= 0:
            break
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    failed = [trial.folder for trial in trials if trial.folder in why]
    if failed:
        logger.warning(
            "tracking: %s has not all of %d of the %d trials (%s); `%s` sends the rest",
            shown(uri),
            len(failed),
            len(trials),
            why[failed[0]],
            shlex.join(["raid", "track", "sync", *map(str, failed)]),
        )
    return failed


def _left(trials: Sequence[Trial], uri: str, until: float, why: dict[Path, str]) -> list[Trial]:
    """Close trials; return those to be tried again, and say in `why` what is wrong with any."""
    left: list[Trial] = []
    for trial in trials:
        if left and time.monotonic() > until:  # of a hundred trials each would wait for a server that hangs
            why.setdefault(trial.folder, "no time was left for it")
            left.append(trial)
        elif _to_be_tried_again(trial, uri, why):
            left.append(trial)
    return left


def _to_be_tried_again(trial: Trial, uri: str, why: dict[Path, str]) -> bool:
    try:
        send_rest(
            RunFolder(trial.folder),
            uri,
            outcome=trial.outcome,
            tags=trial.tags,
            overrules=trial.overrules,
        )
        why.pop(trial.folder, None)
    except Held:
        why[trial.folder] = f"{trial.folder} is running"
        return True
    except (TrackingError, OSError) as error:
        why[trial.folder] = str(error)
        return True
    except InputError as error:  # will be so the next time
        why[trial.folder] = str(error)
    except Exception as error:  # whatever it is, the sweep has been done
        logger.warning("tracking: %s: a fault of the tracking", trial.folder, exc_info=True)
        why[trial.folder] = type(error).__name__
    return False
