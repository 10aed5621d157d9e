"""What a run has, sent to its MLflow run."""

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from raid.config import read_flat
from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.content import FILES, PICTURES, files, metrics, parameters
from raid.tracking.manners import be_mild, quiet
from raid.tracking.mlflow_run import MlflowRun
from raid.tracking.record import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Of runs, too, whose configuration names none.
DEFAULT_EXPERIMENT = "raid"
# By which MLflow nests a run in another.
PARENT_TAG = "mlflow.parentRunId"
logger = logging.getLogger(__name__)


class Sender:
    """Sends to one tracking URI what it does not have of a run; every call can be repeated.

    Args:
        folder: of the run.
        record: what was sent; held by the caller.
        uri: of MLflow.
        running: the run is going on: its MLflow run is shown as RUNNING.
    """

    def __init__(self, folder: RunFolder, record: Record, uri: str, *, running: bool) -> None:
        self._folder, self._record = folder, record
        self._run = MlflowRun(
            folder.path, record, uri, name=folder.path.name, settings=self._settings, running=running
        )
        self._lines: dict[int, dict[str, Any]] = {}
        self._seen: tuple[int, int, int] | None = None  # of metrics.jsonl: inode, size, time

    def send(self) -> None:
        """Send the epochs and the pictures that are new.

        Raises:
            TrackingError: MLflow did not take them all.
            Closed: the record has been closed.
        """
        self.look()
        with self._run.taken():
            client, run_id = self._run.opened()
            for number, line in sorted(self._lines.items()):
                self._send_epoch(client, run_id, number, line)
            # By their names alone: what was drawn again is seen at the end, and not looked for every second.
            for name in files(self._folder, PICTURES):
                if name not in self._run.sent.files:
                    self._run.send_file(name)

    def finish(self, status: str) -> str:
        """Send all that is missing and close the run; return what was done.

        Raises:
            TrackingError: MLflow did not take it all.
            Closed: the record has been closed.
        """
        self.look()
        return self._run.finish(status, self.send, lambda: files(self._folder, (*FILES, *PICTURES)))

    def look(self) -> None:
        """Take down what is new in metrics.jsonl, and when that was; MLflow is not asked."""
        path = self._folder.path / "metrics.jsonl"
        if not path.exists():
            return
        found = path.stat()
        seen = found.st_ino, found.st_size, found.st_mtime_ns
        if seen != self._seen:
            try:
                lines = self._folder.metrics()
                self._record.note(lines, found.st_mtime_ns // 1_000_000)
                self._lines = {line["epoch"]: line for line in lines}
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: holds a line that raid did not write") from error
            self._seen = seen

    def _settings(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the parameters, and the tags that the folder tells."""
        recorded = self._folder.recorded()
        facts = {f"data.{name}": value for name, value in recorded["set"].items()}
        return parameters(self._folder), {**fingerprint_tags(recorded["data"]), **facts}

    def _send_epoch(self, client: "MlflowClient", run_id: str, number: int, line: Mapping[str, Any]) -> None:
        there = self._run.sent
        version, sent = self._record.epochs[str(number)], there.epochs.get(str(number))
        if sent == version:
            return
        self._record.check_open()
        again = sent is not None and sent.figures != version.figures
        for batch in metrics(line, version, sent, step=number):
            client.log_batch(run_id, metrics=batch)
        if again:
            made_again = sorted({*there.made_again, number})
            client.set_tag(run_id, "epochs_made_again", ", ".join(map(str, made_again)))
            logger.info(
                "tracking: epoch %d was made again and came to other figures; MLflow shows both, "
                "the later ones are valid",
                number + 1,
            )
        with self._record.changing():
            there.epochs[str(number)] = version
            if again:
                there.made_again = made_again
        self._run.new["epochs"] += 1


def send_rest(
    folder: RunFolder,
    uri: str,
    *,
    outcome: str | None = None,
    tags: Mapping[str, str] | None = None,
    overrules: bool = False,
) -> str:
    """Send what MLflow does not have of a run, and close the run there; return what was done.

    Args:
        folder: of a run that has ended, or died.
        uri: where to.
        outcome: of a run that could not say how it ended; None: FINISHED if it left a model, else KILLED.
        tags: of the run, beside those it has.
        overrules: `outcome` holds against what the run said: of one that was stopped, that it failed.

    Raises:
        Held: the run is running.
        TrackingError: MLflow does not take it. Nothing is lost: outcome and tags are kept for the next time.
        InputError: the folder holds no run, or files that raid did not write.
        OSError: it cannot be written.
    """
    folder.recorded()
    be_mild()
    with closing(Record.open(folder.path)) as record, quiet():
        if overrules and outcome is not None:
            with record.changing():
                record.outcome = outcome
        _complete(record, folder, outcome, tags or {})
        ended = record.outcome or ("FINISHED" if folder.model.exists() else "KILLED")
        return Sender(folder, record, uri, running=False).finish(ended)


def _complete(record: Record, folder: RunFolder, outcome: str | None, tags: Mapping[str, str]) -> None:
    """Say of a run that was never followed what its folder says, and of any what it could not say."""
    with record.changing():
        if record.experiment is None:
            configured = read_flat(folder.config)
            record.experiment = str(configured.get("track.experiment") or DEFAULT_EXPERIMENT)
            if configured.get("track.parent"):
                record.tags[PARENT_TAG] = str(configured["track.parent"])
        if record.started_ms is None:
            record.started_ms = int(folder.config.stat().st_mtime * 1000)
        record.outcome = record.outcome or outcome
        record.tags |= tags


def fingerprint_tags(data: str | Mapping[str, str]) -> dict[str, str]:
    """Return the tags of what a run was made of: of the set alone, or of several things by their fields."""
    if isinstance(data, str):
        return {"data_fingerprint": data}
    return {
        f"{path.removesuffix('.root').replace('.', '_')}_fingerprint": value for path, value in data.items()
    }
