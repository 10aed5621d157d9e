"""What the driver of a sweep does when a trial ends: record how, tell the user, tell MLflow."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raid.methods.sweeps.points import told
from raid.methods.sweeps.tracking import Tracked
from raid.methods.sweeps.trial import TrialWork
from raid.sweep_folder import Trial

logger = logging.getLogger(__name__)


class Watch:
    """Is called with every trial that has ended."""

    def __init__(self, work: TrialWork, tracked: Tracked, num_trials: int) -> None:
        """Watch so many trials, of which some may have ended before."""
        self._base, self._planned = work.base, work.planned
        self._tracked, self._num_trials = tracked, num_trials
        self._stopped: dict[int, Trial] = {}

    def __call__(self, number: int, point: Mapping[str, Any], failed: bool) -> None:
        """Complete trial.json where the process of the trial could not, and say what came of it."""
        trial = self._completed(number, point, failed)
        objective = self._base.record.objective
        figure = "nothing" if trial.value is None else f"{trial.value:.4g}"
        of_seed = f", seed {trial.seed}" if len(self._base.record.seeds) > 1 else ""
        logger.info(
            "trial %03d of %d %s: %s%s: %s %s%s",
            number, self._num_trials, trial.state, told(self._base.record.axes, trial.point), of_seed,
            objective.name, figure, f" ({trial.reason})" if trial.reason else "",
        )  # fmt: skip
        self._tracked.ended(trial)

    def _completed(self, number: int, point: Mapping[str, Any], failed: bool) -> Trial:
        folder, record = self._base.folder, self._base.record
        trial = folder.trial(number)
        # Of one that was stopped, the process may have taken that for a failure.
        if trial is not None and (trial.state == "done" or (failed and trial.state == "failed")):
            return trial
        if trial is None:  # its process died before it began
            point, seed = self._planned.get(number, (point, record.seeds[0]))
            trial = Trial(number=number, point=point, seed=seed, started_s=time.time())
        value = record.objective.value(folder.run(number).metrics())
        ended = replace(trial, value=value, ended_s=time.time())
        if failed:
            ended = replace(ended, state="failed", reason="its process died")
        else:
            self._stopped[number] = ended = replace(ended, state="stopped", reason="")
        folder.write_trial(ended)
        return ended

    def settle(self) -> None:
        """Write down again who was stopped: their processes, which are gone now, may have said otherwise."""
        for trial in self._stopped.values():
            self._base.folder.write_trial(trial)
