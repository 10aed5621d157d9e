"""One trial of a sweep, in the process that Ray Tune has for it: what is recorded of it, whatever it does."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from raid.config import loads
from raid.distributed.ray_tune import JoinedBackend, Tell
from raid.errors import InputError
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.sweeps.points import overrides_of
from raid.sweep_folder import SweepFolder, SweepRecord, Trial


@dataclass(frozen=True)
class Base:
    """What all trials of a sweep have in common.

    Attributes:
        folder: of the sweep, absolute.
        record: what determines the sweep.
        text: of the run file; a process on another node may not see it.
        settings: overrides of all trials, by path.
        shares: trials that may be on a machine at the same time.
        environment: variables of a trial's process, by which it finds MLflow; may hold a password.
    """

    folder: SweepFolder
    record: SweepRecord
    text: str
    settings: Mapping[str, Any]
    shares: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def config(
        self, point: Mapping[str, Any], seed: int, further: Mapping[str, Any] | None = None
    ) -> MethodConfig:
        """Return the configuration of a trial, with `further` overrides by path.

        Raises:
            InputError: the point is impossible.
        """
        record = self.record
        overrides = {**self.settings, **overrides_of(record.axes, point), "seed": seed, **(further or {})}
        return loads(known.config_of(record.method), self.text, record.file, overrides)

    def backend(self, config: MethodConfig) -> JoinedBackend:
        """Return the trial's part of the cluster."""
        return JoinedBackend(
            workers=config.run.workers,
            threads=config.numerics.threads,
            device=config.run.device,
            pool_size=config.pool.size,
            per_gpu=config.pool.per_gpu,
            objective=self.record.objective.key,
            shares=self.shares,
        )


class RunTrial(Protocol):
    """Does what a trial is about; picklable."""

    def __call__(self, base: Base, number: int, point: Mapping[str, Any], seed: int, tell: Tell, /) -> None:
        """Leave a run in `base.folder.run(number)`, whose metrics have the objective.

        Raises:
            InputError: it cannot be done, by what its configuration says.
        """


@dataclass(frozen=True)
class TrialWork:
    """What Ray Tune calls for a trial.

    Attributes:
        base: of all trials.
        planned: point and seed of the trials that are known before the search begins, by number.
        run: does it.
    """

    base: Base
    planned: Mapping[int, tuple[Mapping[str, Any], int]]
    run: RunTrial

    def __call__(self, number: int, point: Mapping[str, Any], tell: Tell) -> None:
        """Run a trial, and record how it ended.

        Raises:
            InputError: the trial failed by what its configuration says, or it knows nothing of the objective.
        """
        os.environ.update(self.base.environment)
        folder, objective = self.base.folder, self.base.record.objective
        point, seed = self.planned.get(number, (point, self.base.record.seeds[0]))
        trial = Trial(number=number, point=point, seed=seed, started_s=time.time())
        folder.write_trial(trial)
        try:
            self.run(self.base, number, point, seed, tell)
            value = objective.value(folder.run(number).metrics())
            if value is None:
                raise InputError(f"--objective {objective.name}: no epoch recorded {objective.key}")
        except Exception as error:
            text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            reason = next(iter(text.strip().splitlines()), "")
            folder.write_trial(replace(trial, state="failed", reason=reason, ended_s=time.time()))
            raise
        folder.write_trial(replace(trial, state="done", value=value, ended_s=time.time()))
