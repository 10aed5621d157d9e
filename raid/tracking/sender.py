"""What a run has, sent to MLflow: the module that speaks to it, and imports it when it first does."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raid.errors import InputError
from raid.run_folder import RunFolder
from raid.tracking.content import (
    FILES,
    PICTURES,
    file_digest,
    files,
    metrics,
    new_tags,
    parameters,
    settings_batches,
)
from raid.tracking.manners import TrackingError, reason
from raid.tracking.origin import place_tags
from raid.tracking.place import artifact_location, prepare_database, shown, without_password
from raid.tracking.record import Closed, Record, now_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_KEY = "raid_key"  # of an MLflow run, known before it is made
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
        self._folder, self._record, self._uri, self._running = folder, record, uri, running
        self._sent = record.sent_to(shown(uri))
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._status = ""
        self._lines: dict[int, dict[str, Any]] = {}
        self._seen: tuple[int, int, int] | None = None  # of metrics.jsonl: inode, size, time
        self._new: Counter[str] = Counter()

    def send(self) -> None:
        """Send the epochs and the pictures that are new.

        Raises:
            TrackingError: MLflow did not take them all.
            Closed: the record has been closed.
        """
        self.look()
        with self._taken():
            client = self._opened()
            for number, line in sorted(self._lines.items()):
                self._send_epoch(client, number, line)
            # By their names alone: what was drawn again is seen at the end, and not looked for every second.
            for name in files(self._folder, PICTURES):
                if name not in self._sent.files:
                    self._send_file(client, name)

    def finish(self, status: str) -> str:
        """Send all that is missing and close the run; return what was done.

        Raises:
            TrackingError: MLflow did not take it all.
            Closed: the record has been closed.
        """
        self.look()
        with self._taken():
            client = self._opened()
            if status != "FINISHED":
                self._set_status(client, status)  # first: who kills a process does not leave it much time
        self.send()
        with self._taken():
            for name in files(self._folder, (*FILES, *PICTURES)):
                self._send_file(client, name)
            self._set_status(client, status)
        return self._summary()

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """Turn whatever MLflow raises, which may be anything, into a TrackingError."""
        try:
            yield
        except (Closed, InputError):
            raise
        except Exception as error:
            self._client = None  # next time see what is there: the run may be gone
            if isinstance(error, TrackingError):
                raise
            raise TrackingError(without_password(reason(error), self._uri)) from error

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

    def _opened(self) -> "MlflowClient":
        """Return a client; the run exists, with its parameters and tags."""
        if self._client is None:
            prepare_database(self._uri)
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=self._uri)
            run = self._existing_run(client) or self._new_run(client)
            self._run_id, self._status = run.info.run_id, run.info.status
            if self._running:
                self._set_status(client, "RUNNING")
            self._send_settings(client, run)
            self._client = client
        return self._client

    def _existing_run(self, client: "MlflowClient") -> "Run | None":
        """Return the run that an earlier part went to, unless it has been deleted since."""
        from mlflow.exceptions import MlflowException

        if self._sent.run_id is None:
            return None
        try:
            run = client.get_run(self._sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        with self._record.changing():
            self._sent.run_id = None
            self._sent.epochs, self._sent.files, self._sent.made_again = {}, {}, []
        return None

    def _new_run(self, client: "MlflowClient") -> "Run":
        """Make the MLflow run, or take the one that was made when the answer got lost."""
        experiment = experiment_id(client, self._record.experiment or "", self._uri)
        made = client.search_runs(
            [experiment], f"tags.{_KEY} = '{self._sent.key}'", order_by=["attributes.start_time ASC"]
        )
        for double in made[1:]:
            client.delete_run(double.info.run_id)
        place = place_tags(self._folder)
        run = made[0] if made else client.create_run(
            experiment,
            start_time=self._record.started_ms,
            tags={**place, _KEY: self._sent.key},
            run_name=self._folder.path.name,
        )  # fmt: skip
        with self._record.changing():
            self._sent.run_id = run.info.run_id
        self._close_dead(client, experiment, place)
        return run

    def _close_dead(self, client: "MlflowClient", experiment: str, place: Mapping[str, str]) -> None:
        """Close the runs that died in this folder and were started over: nobody else will."""
        if any("'" in value and '"' in value for value in place.values()):
            return  # MLflow's filters cannot say it
        same = " and ".join(f"tags.{name} = {_quoted(value)}" for name, value in place.items())
        for dead in client.search_runs([experiment], f"{same} and attributes.status = 'RUNNING'"):
            if dead.info.run_id != self._sent.run_id:
                client.set_terminated(dead.info.run_id, "KILLED")

    def _send_settings(self, client: "MlflowClient", run: "Run") -> None:
        """Send the parameters and tags that the MLflow run has not."""
        from mlflow.entities import Param, RunTag

        there, wanted = run.data.params, parameters(self._folder)
        recorded = self._folder.recorded()
        facts = {f"data.{name}": value for name, value in recorded["set"].items()}
        tags = {**fingerprint_tags(recorded["data"]), **facts, **self._record.tags}
        # A parameter never changes in MLflow; a resumed run may have other workers.
        changed = [f"{name}={value}" for name, value in wanted.items() if there.get(name, value) != value]
        if changed:
            tags["resumed_with"] = ", ".join(changed)
        params = [Param(name, value) for name, value in wanted.items() if name not in there]
        run_tags = [RunTag(name, value) for name, value in new_tags(tags, run.data.tags).items()]
        for batch in settings_batches(params):
            client.log_batch(self._run_id, params=batch)
        for tag_batch in settings_batches(run_tags):
            client.log_batch(self._run_id, tags=tag_batch)
        self._new["settings"] += bool(params or run_tags)

    def _send_epoch(self, client: "MlflowClient", number: int, line: Mapping[str, Any]) -> None:
        version, sent = self._record.epochs[str(number)], self._sent.epochs.get(str(number))
        if sent == version:
            return
        self._record.check_open()
        again = sent is not None and sent.figures != version.figures
        for batch in metrics(line, version, sent, step=number):
            client.log_batch(self._run_id, metrics=batch)
        if again:
            made_again = sorted({*self._sent.made_again, number})
            client.set_tag(self._run_id, "epochs_made_again", ", ".join(map(str, made_again)))
            logger.info(
                "tracking: epoch %d was made again and came to other figures; MLflow shows both, "
                "the later ones are valid",
                number + 1,
            )
        with self._record.changing():
            self._sent.epochs[str(number)] = version
            if again:
                self._sent.made_again = made_again
        self._new["epochs"] += 1

    def _send_file(self, client: "MlflowClient", name: str) -> None:
        """Send a file of the run folder, unless it is there as it is, to the same place in MLflow."""
        path = self._folder.path / name
        digest = file_digest(path)
        if self._sent.files.get(name) == digest:
            return
        self._record.check_open()
        client.log_artifact(self._run_id, str(path), os.path.dirname(name) or None)
        with self._record.changing():
            self._sent.files[name] = digest
        self._new["files"] += 1

    def _set_status(self, client: "MlflowClient", status: str) -> None:
        if status == self._status:
            return
        self._record.check_open()
        if status == "RUNNING":
            client.update_run(self._run_id, status)
        else:
            recorded = [version.recorded_ms for version in self._record.epochs.values()]
            last = max(recorded, default=self._record.started_ms or now_ms())
            client.set_terminated(self._run_id, status, self._record.ended_ms or last)
        self._status = status
        self._new["status"] += 1

    def _summary(self) -> str:
        new = self._new
        parts = [
            *(["settings"] if new["settings"] else []),
            *([f"{new['epochs']} epochs"] if new["epochs"] else []),
            *([f"{new['files']} files"] if new["files"] else []),
            *(["status"] if new["status"] else []),
        ]
        what = f"sent {', '.join(parts)}" if parts else "nothing new"
        return f"{what}; {self._status} as run {self._run_id} at {shown(self._uri)}"


def fingerprint_tags(data: str | Mapping[str, str]) -> dict[str, str]:
    """Return the tags of what a run was made of: of the set alone, or of several things by their fields."""
    if isinstance(data, str):
        return {"data_fingerprint": data}
    return {
        f"{path.removesuffix('.root').replace('.', '_')}_fingerprint": value for path, value in data.items()
    }


def experiment_id(client: "MlflowClient", name: str, uri: str) -> str:
    """Return the experiment's id; it is made when there is none.

    Raises:
        TrackingError: it has been deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location(uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # that another process has made in between
        assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name} has been deleted there; restore it, or name another")
    return str(experiment.experiment_id)


def _quoted(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"
