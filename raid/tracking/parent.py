"""What a sweep's own MLflow run gets: figures that are noted in a journal first, and files.

Of a sweep that is killed, or whose MLflow is away when it ends, the rest is sent from the journal: by the
sweep when it goes on, or by `raid track sync SWEEP_FOLDER`.
"""

import json
import logging
import numbers
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from raid.errors import InputError
from raid.tracking import synced
from raid.tracking.content import as_parameters, journal_metrics
from raid.tracking.manners import be_mild, quiet
from raid.tracking.mlflow_run import MlflowRun
from raid.tracking.place import tracking_uri
from raid.tracking.record import SWEEP, Record, now_ms

# Lines that are sent, and noted as sent, at once.
_LINES = 100
logger = logging.getLogger(__name__)


def is_sweep(folder: Path) -> bool:
    """Tell a sweep's folder from a run's."""
    return (folder / SWEEP).exists()


def sync_sweep(folder: Path, uri: str | None = None) -> str:
    """Send what MLflow does not have of a sweep's own run, and close it; return what was done as one line.

    Its trials are run folders of their own.

    Args:
        folder: of a sweep that has ended, or died, or is running (then nothing is done).
        uri: where to; None: MLFLOW_TRACKING_URI, or the database beside the runs.

    Raises:
        InputError: the folder cannot be written, or MLflow does not take it. Nothing is lost.
    """
    uri = uri or tracking_uri(folder)
    return synced(folder, uri, lambda: _send_rest(folder, uri))


def _send_rest(folder: Path, uri: str) -> str:
    be_mild()
    with closing(Record.open(folder, SWEEP)) as record, quiet():
        return ParentSender(folder, record, uri, running=False).finish(record.outcome or "KILLED")


class Journal:
    """tracking_parent.jsonl: the figures of a sweep, a line each time they are logged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tracking_parent.jsonl"
        self._mutex = threading.Lock()
        # First the end of what is perhaps half a line, of a process that was killed.
        self._unwritten = ["\n"] if self._path.exists() else []
        self._told = False
        self._last_ms = 0

    def note(self, figures: Mapping[str, Any], step: int) -> None:
        """Write figures down, on a disk that does not take them later; what is no number is left out."""
        found = {name: float(value) for name, value in figures.items() if isinstance(value, numbers.Real)}
        with self._mutex:
            # Of two values at a step the later is MLflow's latest.
            self._last_ms = max(now_ms(), self._last_ms + 1)
            line = {"step": step, "recorded_ms": self._last_ms, "figures": found}
            self._unwritten.append(json.dumps(line) + "\n")
        self.write()

    def write(self) -> None:
        """Write down what has not been."""
        try:
            with self._mutex, self._path.open("a") as file:
                file.write("".join(self._unwritten))
                file.flush()
                self._unwritten = []
        except OSError as error:
            self._unwritten.insert(0, "\n")
            if not self._told:
                logger.warning("tracking: %s cannot be written: %s", self._path, error.strerror or error)
            self._told = True

    def after(self, offset: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
        """Yield the lines behind the first `offset` bytes, some at a time, and the offset behind them."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(offset if offset <= os.fstat(file.fileno()).st_size else 0)
            offset, found = file.tell(), file.read()
        lines = found[: found.rfind(b"\n") + 1].splitlines(keepends=True)
        for first in range(0, len(lines), _LINES):
            some = lines[first : first + _LINES]
            offset += sum(map(len, some))
            yield [json.loads(line) for line in some if line.endswith(b"}\n")], offset


class ParentSender:
    """Sends to one tracking URI what it does not have of a sweep's own run; every call can be repeated.

    Args:
        folder: of the sweep.
        record: what was sent, and what the sweep is called; held by the caller.
        uri: of MLflow.
        running: the sweep is going on: its run is shown as RUNNING.
    """

    def __init__(self, folder: Path, record: Record, uri: str, *, running: bool) -> None:
        if record.sweep is None:
            raise InputError(f"{folder / SWEEP}: not the file of a sweep; remove it")
        self._record, self._journal, self._sweep = record, Journal(folder), record.sweep
        parameters = as_parameters(record.sweep.params)
        self._run = MlflowRun(
            folder, record, uri, name=record.sweep.name, settings=lambda: (parameters, {}), running=running
        )

    def look(self) -> None:
        """Find nothing to take down: the journal has it all."""

    def send(self) -> None:
        """Send the figures that are new.

        Raises:
            TrackingError: MLflow did not take them all.
            Closed: the record has been closed.
        """
        with self._run.taken():
            client, run_id = self._run.opened()
            for lines, offset in self._journal.after(self._run.sent.journal):
                self._record.check_open()
                for batch in journal_metrics(lines):
                    client.log_batch(run_id, metrics=batch)
                with self._record.changing():
                    self._run.sent.journal = offset
                self._run.new["figures"] += len(lines)

    def finish(self, status: str) -> str:
        """Send all that is missing, tags and files too, and close the run; return what was done.

        Raises:
            TrackingError: MLflow did not take it all.
            Closed: the record has been closed.
        """
        self._run.look_again()  # for the tags of the end
        return self._run.finish(status, self.send, self._files)

    def _files(self) -> list[str]:
        return [name for name in self._sweep.files if (self._run.path / name).is_file()]


def named_in(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return the files by their paths in the folder, others by their absolute ones."""
    inside, paths = folder.absolute(), [file.absolute() for file in files]
    return [str(path.relative_to(inside) if path.is_relative_to(inside) else path) for path in paths]
