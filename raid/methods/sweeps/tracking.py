"""A sweep in MLflow: a run of its own, in which those of the trials are nested."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from raid.errors import InputError
from raid.methods.known import MethodConfig
from raid.methods.sweeps.trial import Base
from raid.sweep_folder import ENDED, Trial
from raid.tracking import terminable
from raid.tracking.server import served
from raid.tracking.sweep import Parent, close_trials
from raid.tracking.sweep import Trial as Left

# How long the end of a sweep may wait for a server that is away; and how long what a trial left is sent while
# others run: what does not come through is sent at the end.
_END_WAIT_S, _TRIAL_WAIT_S = 60.0, 5.0
_OUTCOMES = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class Tracked:
    """What MLflow is told of a sweep; nothing where `track.enabled` is false.

    Attributes:
        base: of the trials, whose runs are nested in the sweep's.
    """

    def __init__(self, base: Base, parent: Parent | None = None, uri: str = "") -> None:
        """Tell `parent`, the sweep's run at `uri`."""
        self.base, self._parent, self._uri = base, parent, uri
        self._best: float | None = None
        self._num_ended = 0
        for trial in base.folder.trials():  # of before, in a sweep that goes on
            if trial.state in ENDED:
                self._count(trial)
        self._closer = ThreadPoolExecutor(1, "raid-closing")

    def ended(self, trial: Trial) -> None:
        """Tell of a trial that has ended; nobody waits for it."""
        self._count(trial)
        if self._parent is None:
            return
        figures = {"sweep/ended": float(self._num_ended)}
        if self._best is not None:
            figures[f"sweep/best_{self.base.record.objective.name}"] = self._best
        self._parent.log(figures, self._num_ended)
        self._closer.submit(close_trials, [self._left(trial)], self._uri, _TRIAL_WAIT_S)

    def _count(self, trial: Trial) -> None:
        objective = self.base.record.objective
        self._num_ended += 1
        value = trial.value if trial.state == "done" else None
        if value is not None and (self._best is None or objective.better(value, self._best)):
            self._best = value

    def conclude(self) -> None:
        """Send what MLflow does not have of the trials yet."""
        self._closer.shutdown()
        if self._parent is not None:
            trials = [self._left(trial) for trial in self.base.folder.trials()]
            close_trials(trials, self._uri, _END_WAIT_S)

    def _left(self, trial: Trial) -> Left:
        """Return what MLflow is told where a trial could not say it: it was stopped, or does not train."""
        assert self._parent is not None
        tags = {"mlflow.parentRunId": self._parent.run_id, "trial": trial.state}
        if trial.state == "stopped":
            tags["stopped_by"] = self.base.record.scheduler
        path, stopped = self.base.folder.run(trial.number).path, trial.state == "stopped"
        return Left(path, _OUTCOMES.get(trial.state), tags, overrules=stopped)


@contextmanager
def server_for(base: Base, config: MethodConfig, nodes: int) -> Iterator[str | None]:
    """Give the MLflow that trials can write to at the same time; None where nobody is to be told.

    That takes a server: MLFLOW_TRACKING_URI's, or one that runs for as long as the block.

    Raises:
        InputError: MLFLOW_TRACKING_URI is a file, or its server does not answer, or the cluster has other
            nodes, which could not reach a server of this one. Nothing has been written then.
    """
    if not config.track.enabled:
        yield None
        return
    if nodes > 1 and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            f"MLFLOW_TRACKING_URI: is not set, and trials run on {nodes} nodes; start an `mlflow server` "
            "that all of them reach and set it, or track.enabled=false"
        )
    with served(base.folder.path) as uri:
        yield uri


@contextmanager
def tracked_sweep(base: Base, config: MethodConfig, uri: str | None) -> Iterator[Tracked]:
    """Give what tells MLflow of the sweep, for as long as the block lasts.

    Raises:
        InputError: MLflow does not take the sweep's run.
    """
    if uri is None:
        with terminable():
            yield Tracked(base)
        return
    record, folder = base.record, base.folder
    parent = Parent.open(
        folder.path, uri, config.track.experiment, folder.path.name, _parameters(base), _tags(base)
    )
    environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    nested = replace(
        base,
        settings={**base.settings, "track.parent": parent.run_id},
        environment={**environment, "MLFLOW_TRACKING_URI": uri},
    )
    outcome = "KILLED"
    with terminable():
        try:
            yield Tracked(nested, parent, uri)
            outcome = "FINISHED"
        except Exception:
            outcome = "FAILED"
            raise
        finally:
            files = [path for path in (folder.record, folder.best, folder.report) if path.exists()]
            wait_s = _END_WAIT_S if outcome == "FINISHED" else _TRIAL_WAIT_S
            parent.end(outcome, files, {"method": record.method}, wait_s)


def _parameters(base: Base) -> dict[str, str]:
    record = base.record
    values = {axis.path: _range(axis.values, axis.low, axis.high) for axis in record.axes}
    return {
        "file": record.file,
        "overrides": " ".join(record.overrides),
        "objective": f"{record.objective.mode} {record.objective.key}",
        "objective_on_test_set": str(record.objective.on_test_set),
        "search": record.search,
        "scheduler": record.scheduler,
        "num_samples": str(record.num_samples),
        "seeds": ", ".join(map(str, record.seeds)),
        **{f"searched/{path}": text for path, text in values.items()},
    }


def _range(values: tuple[object, ...], low: float | None, high: float | None) -> str:
    return ", ".join(map(str, values)) if low is None else f"{low:g} to {high:g}"


def _tags(base: Base) -> dict[str, str]:
    return {"method": base.record.method, "sweep": base.record.name}
