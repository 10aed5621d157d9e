"""A sweep in MLflow: a run of its own, in which those of the trials are nested."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from raid.errors import InputError
from raid.methods.known import MethodConfig
from raid.methods.sweeps.trial import Base
from raid.sweep_folder import Trial
from raid.tracking import terminable
from raid.tracking.server import served
from raid.tracking.sweep import Parent, close_trials

# How long the end of a sweep may wait for a server that is away.
_END_WAIT_S = 60.0


@dataclass
class Tracked:
    """What MLflow is told of a sweep; nothing where `track.enabled` is false.

    Attributes:
        base: of the trials, whose runs are nested in the sweep's.
        parent: the sweep's run.
        uri: of MLflow.
        best: value of the best trial up to now.
        num_ended: trials that have ended.
    """

    base: Base
    parent: Parent | None = None
    uri: str = ""
    best: float | None = None
    num_ended: int = 0
    stopped: list[int] = field(default_factory=list)

    def ended(self, trial: Trial) -> None:
        """Tell of a trial that has ended."""
        objective = self.base.record.objective
        self.num_ended += 1
        value = trial.value if trial.state == "done" else None
        if value is not None and (self.best is None or objective.better(value, self.best)):
            self.best = value
        if trial.state == "stopped":
            self.stopped.append(trial.number)
        if self.parent is not None:
            figures = {"sweep/ended": float(self.num_ended)}
            if self.best is not None:
                figures[f"sweep/best_{objective.name}"] = self.best
            self.parent.log(figures, self.num_ended)

    def conclude(self) -> None:
        """Send what MLflow does not have of the trials yet, and close those that a scheduler has stopped."""
        if self.parent is None:
            return
        folder = self.base.folder
        runs = [folder.run(trial.number) for trial in folder.trials()]
        stopped = [folder.run(number) for number in self.stopped]
        others = [run for run in runs if run not in stopped]
        by = self.base.record.scheduler
        close_trials(stopped, self.uri, _END_WAIT_S, outcome="FINISHED", tags={"stopped_by": by})
        close_trials(others, self.uri, _END_WAIT_S)


@contextmanager
def tracked_sweep(base: Base, config: MethodConfig, nodes: int) -> Iterator[Tracked]:
    """Give what tells MLflow of the sweep, for as long as the block lasts.

    Several processes write at the same time, which takes a server: MLFLOW_TRACKING_URI's, or one that runs
    for as long as the sweep.

    Raises:
        InputError: MLFLOW_TRACKING_URI is a file, or its server does not answer, or the cluster has other
            nodes, which could not reach a server of this one.
    """
    if not config.track.enabled:
        with terminable():
            yield Tracked(base)
        return
    if nodes > 1 and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InputError(
            f"MLFLOW_TRACKING_URI: is not set, and trials run on {nodes} nodes; start an `mlflow server` "
            "that all of them reach and set it, or track.enabled=false"
        )
    record, folder = base.record, base.folder
    with served(folder.path) as uri, terminable():
        environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        parent = Parent.open(
            folder.path, uri, config.track.experiment, folder.path.name, _parameters(base), _tags(base)
        )
        settings = {**base.settings, "track.parent": parent.run_id}
        nested = replace(base, settings=settings, environment={**environment, "MLFLOW_TRACKING_URI": uri})
        tracked, outcome = Tracked(nested, parent, uri), "KILLED"
        try:
            yield tracked
            outcome = "FINISHED"
        except Exception:
            outcome = "FAILED"
            raise
        finally:
            files = [path for path in (folder.record, folder.best, folder.report) if path.exists()]
            waits = _END_WAIT_S if outcome == "FINISHED" else 2.0
            parent.end(outcome, files, {"method": record.method}, waits)


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
