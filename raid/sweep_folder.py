"""The folder of one sweep: what was to be tried, and what came of it.

sweep.json            what determines the sweep: its name, method, run file, axes, search, objective, seeds
trials/NNN/           a trial: a run folder (`raid.run_folder`), and trial.json: what was tried, how it ended
shared/               stages that trials have in common, done once; features that all of them cluster
ray_tune/             Ray Tune's own state, for --resume
best.yaml             the best trial as a run file
report.html           the sweep as one page
tracking_parent.json  the MLflow run that those of the trials are nested in
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from raid.errors import InputError
from raid.files import atomic_path
from raid.run_folder import RunFolder

# Of a trial. A process that dies leaves `running`; that the trial is unfinished is known when the sweep ends.
State = Literal["running", "done", "stopped", "failed"]
ENDED = ("done", "stopped")  # a resumed sweep does not run these again


@dataclass(frozen=True)
class Objective:
    """What trials are compared by: a figure of metrics.jsonl.

    Attributes:
        name: as the user says it.
        key: of the figure.
        mode: which way is better.
        meaning: one line.
        on_test_set: it is known by ranking query and gallery: whoever selects by it has seen the test set.
    """

    name: str
    key: str
    mode: Literal["max", "min"]
    meaning: str
    on_test_set: bool = False

    def value(self, epochs: Iterable[Mapping[str, Any]]) -> float | None:
        """Return the figure as the last epoch that has it says; None where none has."""
        found = [epoch[self.key] for epoch in epochs if isinstance(epoch.get(self.key), (int, float))]
        return float(found[-1]) if found else None

    def better(self, one: float, other: float) -> bool:
        """Whether `one` is better than `other`."""
        return one > other if self.mode == "max" else one < other


@dataclass(frozen=True)
class Axis:
    """A setting that is searched over.

    Attributes:
        path: of the configuration, `a.b`.
        values: that are tried; of a grid all, of another search those where there is no range.
        low: end of a range that random and optuna draw from; None: they draw from `values`.
        high: other end.
        log: draw evenly on the logarithm.
        instead: what is set in place of `path` for a value that is not one of `path`'s own (by the value).
        only: by the paths of other axes, the values of theirs with which this one changes anything.
    """

    path: str
    values: tuple[Any, ...]
    low: float | None = None
    high: float | None = None
    log: bool = False
    instead: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    def overrides(self, value: Any) -> dict[str, Any]:
        """Return what is set for a value, by path."""
        own = self.instead.get(value) if isinstance(value, str) else None
        return {self.path: value} if own is None else dict(own)


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """What determines a sweep.

    Attributes:
        name: of the script, such as decay_schedule.
        method: icsr, mar, slsr.
        file: the run file.
        overrides: `a.b=c` texts.
        axes: what is searched.
        objective: what trials are compared by.
        search: how points are chosen.
        scheduler: what stops trials early.
        num_samples: points of random and optuna.
        seeds: of the training; every point is tried with each.
        seed: of the draws.
        num_trials: that there are to be; None: it is not known.
    """

    name: str
    method: str
    file: str
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    objective: Objective
    search: Literal["grid", "random", "optuna"]
    scheduler: Literal["none", "asha"]
    num_samples: int
    seeds: tuple[int, ...]
    seed: int
    num_trials: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial, as its trial.json has it.

    Attributes:
        number: of the trial; its folder's name.
        point: value of every axis, by path.
        seed: of the training.
        state: how it ended; `running` of one that goes on, or that died in silence.
        value: of the objective at the last epoch that has it; None: there is none yet.
        reason: of a failure, one line.
        started_s: seconds since 1970.
        ended_s: the same; None: it has not ended.
    """

    number: int
    point: Mapping[str, Any]
    seed: int
    state: State = "running"
    value: float | None = None
    reason: str = ""
    started_s: float
    ended_s: float | None = None


@dataclass(frozen=True)
class SweepFolder:
    """Paths and records of a sweep."""

    path: Path

    @property
    def record(self) -> Path:
        """What determines the sweep."""
        return self.path / "sweep.json"

    @property
    def shared(self) -> Path:
        """Folder of what trials have in common."""
        return self.path / "shared"

    @property
    def tune(self) -> Path:
        """Folder of Ray Tune's state."""
        return self.path / "ray_tune"

    @property
    def best(self) -> Path:
        """The best trial as a run file."""
        return self.path / "best.yaml"

    @property
    def report(self) -> Path:
        """The sweep as one page."""
        return self.path / "report.html"

    def run(self, number: int) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder(self.path / "trials" / f"{number:03d}")

    def write(self, record: SweepRecord) -> None:
        """Write sweep.json."""
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.record) as temporary:
            temporary.write_text(json.dumps(asdict(record), indent=1) + "\n")

    def read(self) -> SweepRecord:
        """Read sweep.json.

        Raises:
            InputError: there is none, or it is not what `write` wrote.
        """
        if not self.record.exists():
            raise InputError(f"{self.path}: not the folder of a sweep: it has no sweep.json")
        try:
            given = json.loads(self.record.read_text())
            axes = tuple(Axis(**{**axis, "values": tuple(axis["values"])}) for axis in given.pop("axes"))
            objective = Objective(**given.pop("objective"))
            overrides, seeds = tuple(given.pop("overrides")), tuple(given.pop("seeds"))
            return SweepRecord(**given, axes=axes, objective=objective, overrides=overrides, seeds=seeds)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.record}: is not a file that raid wrote: {error}") from error

    def write_trial(self, trial: Trial) -> None:
        """Write the trial.json of a trial."""
        with atomic_path(self._trial_file(trial.number)) as temporary:
            temporary.write_text(json.dumps(asdict(trial), indent=1) + "\n")

    def trial(self, number: int) -> Trial | None:
        """Read the trial.json of a trial; None where there is none.

        Raises:
            InputError: it is not what `write_trial` wrote.
        """
        path = self._trial_file(number)
        if not path.exists():
            return None
        try:
            return Trial(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: is not a file that raid wrote: {error}") from error

    def trials(self) -> list[Trial]:
        """Return the trials that have begun, by number."""
        names = sorted((self.path / "trials").glob("*/trial.json"))
        found = [self.trial(int(name.parent.name)) for name in names if name.parent.name.isdecimal()]
        return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)

    def write_shared(self, key: str, result: Path | None, failure: str) -> None:
        """Write down the result of a stage that trials share, or why there is none."""
        with atomic_path(self._shared_file(key)) as temporary:
            temporary.write_text(json.dumps({"result": str(result or ""), "failure": failure}) + "\n")

    def has_shared(self, key: str) -> bool:
        """Whether the result of a stage that trials share is there."""
        path = self._shared_file(key)
        return path.exists() and not json.loads(path.read_text())["failure"]

    def shared_result(self, key: str) -> Path:
        """Return the result of a stage that trials share.

        Raises:
            InputError: it failed, or was not done.
        """
        path = self._shared_file(key)
        if not path.exists():
            raise InputError(f"{key}: the process that does this stage for all trials died; see above")
        said = json.loads(path.read_text())
        if said["failure"]:
            raise InputError(f"{key}, which trials share: {said['failure']}")
        return Path(said["result"])

    def _shared_file(self, key: str) -> Path:
        return self.shared / f"{key}.json"

    def _trial_file(self, number: int) -> Path:
        return self.run(number).path / "trial.json"
