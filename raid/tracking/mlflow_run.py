"""The MLflow run that a folder is sent to: what speaks to MLflow, and imports it when it first does."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raid.errors import InputError
from raid.tracking.content import file_digest, new_tags, settings_batches
from raid.tracking.manners import TrackingError, reason
from raid.tracking.origin import place_tags
from raid.tracking.place import artifact_location, prepare_database, reached_by, shown, without_password
from raid.tracking.record import Closed, Record, now_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_KEY = "raid_key"  # of an MLflow run, known before it is made
_KINDS = ("settings", "epochs", "figures", "files", "status")


class MlflowRun:
    """The run at one tracking URI that a folder is sent to; every call can be repeated.

    Args:
        path: of the folder.
        record: what was sent; held by the caller.
        uri: of MLflow; a server that a sweep has up over it is gone through.
        name: of the run.
        settings: returns its parameters, and its tags beside those of the record.
        running: it is shown as RUNNING.

    Attributes:
        path: of the folder.
        record: what was sent, where.
        sent: what was sent to `uri`.
        new: how much this has sent: settings, epochs, figures, files, status.
    """

    def __init__(
        self,
        path: Path,
        record: Record,
        uri: str,
        *,
        name: str,
        settings: Callable[[], tuple[Mapping[str, str], Mapping[str, str]]],
        running: bool,
    ) -> None:
        self.path, self.record, self.sent = path, record, record.sent_to(shown(uri))
        self.new: Counter[str] = Counter()
        self._uri, self._name, self._settings, self._running = uri, name, settings, running
        self._client: MlflowClient | None = None
        self._reached = uri
        self._run_id = ""
        self._status = ""

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Turn whatever MLflow raises, which may be anything, into a TrackingError."""
        try:
            yield
        except (Closed, InputError):
            raise
        except Exception as error:
            self.look_again()
            if isinstance(error, TrackingError):
                raise
            raise TrackingError(without_password(reason(error), self._uri)) from error

    def look_again(self) -> None:
        """Next time see what is there: the run may be gone, its settings may be others."""
        self._client = None

    def opened(self) -> "tuple[MlflowClient, str]":
        """Return a client and the run's id; the run exists, with its parameters and tags."""
        reached = reached_by(self._uri)
        if self._client is None or reached != self._reached:
            self._client, self._reached = None, reached
            prepare_database(self._uri)
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=reached)
            run = self._existing_run(client) or self._new_run(client)
            self._run_id, self._status = run.info.run_id, run.info.status
            if self._running:
                self._set_status(client, "RUNNING")
            self._send_settings(client, run)
            self._client = client
        return self._client, self._run_id

    def send_file(self, name: str) -> None:
        """Send a file of the folder, unless it is there as it is, to the same place in MLflow.

        Args:
            name: its path in the folder; one elsewhere, absolute, goes beside the others.
        """
        client, run_id = self.opened()
        path = self.path / name
        digest = file_digest(path)
        if self.sent.files.get(name) == digest:
            return
        self.record.check_open()
        client.log_artifact(run_id, str(path), (not os.path.isabs(name) and os.path.dirname(name)) or None)
        with self.record.changing():
            self.sent.files[name] = digest
        self.new["files"] += 1

    def finish(self, status: str, send: Callable[[], None], names: Callable[[], list[str]]) -> str:
        """Send all that is missing and close the run; return what was done.

        Args:
            status: FINISHED, FAILED or KILLED.
            send: sends the figures.
            names: returns the files, see `send_file`.

        Raises:
            TrackingError: MLflow did not take it all.
            Closed: the record has been closed.
        """
        with self.taken():
            client, _ = self.opened()
            if status != "FINISHED":
                self._set_status(client, status)  # first: who kills a process does not leave it much time
        send()
        with self.taken():
            for name in names():
                self.send_file(name)
            self._set_status(client, status)
        return self._summary()

    def _existing_run(self, client: "MlflowClient") -> "Run | None":
        """Return the run that an earlier part went to, unless it has been deleted since."""
        from mlflow.exceptions import MlflowException

        if self.sent.run_id is None:
            return None
        try:
            run = client.get_run(self.sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        with self.record.changing():
            self.sent.forget()
        return None

    def _new_run(self, client: "MlflowClient") -> "Run":
        """Make the MLflow run, or take the one that was made when the answer got lost."""
        experiment = experiment_id(client, self.record.experiment or "", self._uri)
        made = client.search_runs(
            [experiment], f"tags.{_KEY} = '{self.sent.key}'", order_by=["attributes.start_time ASC"]
        )
        for double in made[1:]:
            client.delete_run(double.info.run_id)
        place = place_tags(self.path)
        run = made[0] if made else client.create_run(
            experiment,
            start_time=self.record.started_ms,
            tags={**place, _KEY: self.sent.key},
            run_name=self._name,
        )  # fmt: skip
        with self.record.changing():
            self.sent.run_id = run.info.run_id
        self._close_dead(client, experiment, place)
        return run

    def _close_dead(self, client: "MlflowClient", experiment: str, place: Mapping[str, str]) -> None:
        """Close the runs that died in this folder and were started over: nobody else will."""
        if any("'" in value and '"' in value for value in place.values()):
            return  # MLflow's filters cannot say it
        same = " and ".join(f"tags.{name} = {_quoted(value)}" for name, value in place.items())
        for dead in client.search_runs([experiment], f"{same} and attributes.status = 'RUNNING'"):
            if dead.info.run_id != self.sent.run_id:
                client.set_terminated(dead.info.run_id, "KILLED")

    def _send_settings(self, client: "MlflowClient", run: "Run") -> None:
        """Send the parameters and tags that the MLflow run has not."""
        from mlflow.entities import Param, RunTag

        there = run.data.params
        wanted, own_tags = self._settings()
        tags = {**own_tags, **self.record.tags}
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
        self.new["settings"] += bool(params or run_tags)

    def _set_status(self, client: "MlflowClient", status: str) -> None:
        if status == self._status:
            return
        self.record.check_open()
        if status == "RUNNING":
            client.update_run(self._run_id, status)
        else:
            recorded = [version.recorded_ms for version in self.record.epochs.values()]
            last = max(recorded, default=self.record.started_ms or now_ms())
            client.set_terminated(self._run_id, status, self.record.ended_ms or last)
        self._status = status
        self.new["status"] += 1

    def _summary(self) -> str:
        counted = [kind for kind in _KINDS if self.new[kind]]
        parts = [kind if kind in ("settings", "status") else f"{self.new[kind]} {kind}" for kind in counted]
        what = f"sent {', '.join(parts)}" if parts else "nothing new"
        return f"{what}; {self._status} as run {self._run_id} at {shown(self._uri)}"


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
