"""tracking.json: what a run's tracking is about and what MLflow has of it; one process at a time holds it.

A sweep has the same of its own run, the trials' parent, in tracking_parent.json.
"""

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from raid.errors import InputError
from raid.files import atomic_path

RUN, SWEEP = "tracking.json", "tracking_parent.json"
_TIMES = "time/"


class Held(Exception):
    """Another process holds the record: the run is running."""


class Closed(Exception):
    """The record has been closed; whoever still works on it stops."""


@dataclass(frozen=True)
class Version:
    """An epoch's figures as they were found in metrics.jsonl, by their digests."""

    figures: str
    times: str
    recorded_ms: int


@dataclass
class Sweep:
    """What the folder of a sweep does not say of its MLflow run."""

    name: str
    params: dict[str, str]
    files: list[str] = field(default_factory=list)


@dataclass
class Sent:
    """What the MLflow of one tracking URI has of the run."""

    key: str  # tag of the MLflow run; known before it is made, so that a lost answer makes no second one
    run_id: str | None = None
    epochs: dict[str, Version] = field(default_factory=dict)
    made_again: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # digest by name
    journal: int = 0  # bytes of a sweep's journal

    def forget(self) -> None:
        """Have nothing sent."""
        self.run_id, self.epochs, self.made_again, self.files, self.journal = None, {}, [], {}, 0


class Record:
    """What tracking.json says. Changed by two threads, hence only within `changing`.

    Attributes:
        experiment: of MLflow.
        tags: of the run, as they were when it ran.
        started_ms: when tracking began.
        ended_ms: when the run ended, if it said so.
        outcome: how the run ended: FINISHED, FAILED, KILLED; None while it runs, or if it died in silence.
        epochs: the latest version of every epoch that was found.
        sent: by tracking URI, without its password.
        sweep: what a sweep is called and is to send, None of a run, whose folder says it.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self._path, self._lock, self._closed = path, lock, False
        self._mutex = threading.RLock()
        self.experiment: str | None = None
        self.tags: dict[str, str] = {}
        self.started_ms: int | None = None
        self.ended_ms: int | None = None
        self.outcome: str | None = None
        self.epochs: dict[str, Version] = {}
        self.sent: dict[str, Sent] = {}
        self.sweep: Sweep | None = None

    @staticmethod
    def open(folder: Path, name: str = RUN) -> "Record":
        """Read the record of the run in `folder` and hold it until it is closed, or the process ends.

        Args:
            folder: of the run.
            name: of the file; SWEEP for that of a sweep.

        Raises:
            Held: another process (or another record of this one) holds it.
            InputError: tracking.json is not what this wrote.
            OSError: the folder cannot be written.
        """
        path = folder / name
        record = Record(path, locked(path.with_suffix(".lock")))
        try:
            record._read()
        except BaseException:
            record.close()
            raise
        return record

    @staticmethod
    def seen(folder: Path) -> "Record":
        """Read the record of the run in `folder` to look at, whoever holds it; it cannot be changed.

        Raises:
            InputError: tracking.json is not what this wrote.
        """
        record = Record(folder / RUN, None)
        record._read()
        record.close()
        return record

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Write what the block changes.

        Raises:
            Closed: the record has been closed.
        """
        with self._mutex:
            self.check_open()
            yield
            with atomic_path(self._path) as temporary:
                temporary.write_text(json.dumps(self._content(), indent=1))

    def begin(self, experiment: str) -> None:
        """Say that the run goes on."""
        with self.changing():
            self.experiment, self.outcome, self.ended_ms = experiment, None, None
            self.started_ms = self.started_ms or now_ms()

    def check_open(self) -> None:
        """Raise Closed if the record has been closed."""
        if self._closed:
            raise Closed

    def close(self) -> None:
        """Let others have the record."""
        with self._mutex:
            self._closed = True
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def sent_to(self, uri: str) -> Sent:
        """Return what was sent to `uri`; nothing yet at first."""
        if uri not in self.sent:
            with self.changing():
                self.sent[uri] = Sent(key=uuid.uuid4().hex)
        return self.sent[uri]

    def note(self, lines: Iterable[Mapping[str, Any]], recorded_ms: int) -> None:
        """Take down the versions of the epochs in metrics.jsonl.

        Args:
            lines: of the file, with the epoch's number under `epoch`.
            recorded_ms: when the latest of them was written.
        """
        found = {}
        for line in lines:
            epoch, before = str(line["epoch"]), self.epochs.get(str(line["epoch"]))
            figures, times = _digests(line)
            if before is None or (before.figures, before.times) != (figures, times):
                # Of two values at a step the later is MLflow's latest.
                after = recorded_ms if before is None else max(recorded_ms, before.recorded_ms + 1)
                found[epoch] = Version(figures, times, after)
        if found:
            with self.changing():
                self.epochs |= found

    def _content(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "tags": self.tags,
            "started_ms": self.started_ms,
            "ended_ms": self.ended_ms,
            "outcome": self.outcome,
            "epochs": {epoch: asdict(version) for epoch, version in self.epochs.items()},
            "sent": {uri: asdict(sent) for uri, sent in self.sent.items()},
            "sweep": self.sweep and asdict(self.sweep),
        }

    def _read(self) -> None:
        if not self._path.exists():
            return
        try:
            content = json.loads(self._path.read_text())
            self.experiment, self.tags = content["experiment"], dict(content["tags"])
            self.started_ms, self.ended_ms = content["started_ms"], content["ended_ms"]
            self.outcome = content["outcome"]
            self.epochs = _versions(content["epochs"])
            for uri, sent in content["sent"].items():
                given = {name.name: sent[name.name] for name in fields(Sent) if name.name in sent}
                self.sent[uri] = Sent(**{**given, "epochs": _versions(given["epochs"])})
            if content.get("sweep") is not None:
                self.sweep = Sweep(**content["sweep"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self._path}: not a file that raid wrote; remove it, and the run is sent anew"
            ) from error


def now_ms() -> int:
    """Return the time in MLflow's unit."""
    return int(time.time() * 1000)


def is_time(name: str) -> bool:
    """Tell how long something took, which differs between equal runs, from what came of it."""
    return name.startswith(_TIMES)


def _digests(line: Mapping[str, Any]) -> tuple[str, str]:
    return (
        _digest({name: value for name, value in line.items() if not is_time(name)}),
        _digest({name: value for name, value in line.items() if is_time(name)}),
    )


def _digest(figures: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(figures, sort_keys=True).encode(), digest_size=8).hexdigest()


def _versions(content: Mapping[str, Any]) -> dict[str, Version]:
    return {epoch: Version(**version) for epoch, version in content.items()}


def locked(path: Path) -> int | None:
    """Open and lock a file; the system unlocks it when the process ends, however it ends.

    None where the file system has no locks: a run is then taken for ended by whoever looks.

    Raises:
        Held: another process (or this one) has it locked.
        OSError: it cannot be opened.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Held(f"another process tracks {path.parent}") from error
    except OSError:
        os.close(lock)
        return None
    return lock
