"""`raid scaling`: what more workers bring, from the times that runs have recorded.

A stage's runs are strong scaling where its batch is the same for any number of workers, weak scaling where
it is so many images a worker. Both are measured by the same figure, the seconds of an epoch for each image
that it trains on: with W workers it would be a W-th of that of one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.optimize import nnls

from raid.errors import InputError
from raid.files import write_json
from raid.methods.makespan import makespans
from raid.methods.scaled_runs import GROUPS, OF_TRAINING, ScaledRun, StageTimes, read_runs

FORMAT = 1
Mode = Literal["strong", "weak"]


@dataclass(frozen=True)
class Fit:
    """T(W) = a + b / W, in seconds.

    Attributes:
        a: what no number of workers makes shorter.
        b: what they share; negative where it grows with them, as collectives do.
        residual: root of the mean squared difference to what was measured.
        mean: of what was measured.
        numbers: of workers that were measured; two of them, and the line goes through both.
    """

    a: float
    b: float
    residual: float
    mean: float
    numbers: int

    def at(self, workers: int) -> float:
        """Return T(W); not negative for any W."""
        return self.a + self.b / workers


@dataclass(frozen=True)
class StageScaling:
    """A stage of all runs.

    Attributes:
        name: of the stage.
        mode: strong or weak; None of one number of workers.
        runs: with the stage, by rising numbers of workers.
        fits: by group, of its seconds: for each trained image of `OF_TRAINING`, each time of the others;
            none of one number of workers.
    """

    name: str
    mode: Mode | None
    runs: tuple[ScaledRun, ...]
    fits: dict[str, Fit]

    @property
    def times(self) -> list[StageTimes]:
        """Of the runs."""
        return [run.stages[self.name] for run in self.runs]

    @property
    def workers(self) -> list[int]:
        """Numbers of workers, rising, each once."""
        return sorted({run.workers for run in self.runs})

    @property
    def efficiencies(self) -> list[float | None]:
        """Of each run, how much of what its workers could do they did; 1 for the fewest, None where alone.

        With t(W) the seconds of an epoch for each image that it trains on: V t(V) / (W t(W)), V being the
        fewest workers, and t(V) the mean over their runs.
        """
        if self.mode is None:
            return [None] * len(self.runs)
        costs = [run.workers * of.total / of.images for run, of in zip(self.runs, self.times, strict=True)]
        fewest = self.runs[0].workers
        base = np.mean([cost for run, cost in zip(self.runs, costs, strict=True) if run.workers == fewest])
        return [float(base / cost) for cost in costs]

    def expected_batch(self, workers: int) -> int:
        """Return the images of a step that the runs would have had on so many workers."""
        batch, of_run = self.times[0].batch, self.runs[0].workers
        return batch * workers // of_run if self.mode == "weak" else batch

    @property
    def residual(self) -> float | None:
        """How far the runs' epochs are from the fits: root of the mean squared share; None where two meet."""
        if len(self.workers) < 3:
            return None
        pairs = zip(self.runs, self.times, strict=True)
        off = [self.epoch_seconds(run.workers, of) / of.total - 1.0 for run, of in pairs]
        return float(np.sqrt(np.mean(np.square(off))))

    def epoch_seconds(self, workers: int, like: StageTimes) -> float:
        """Return what an epoch of such steps takes on so many workers, by the fits."""
        rest = {group: seconds for group, seconds in like.seconds.items() if group not in OF_TRAINING}
        known = {group: self.fits[group].at(workers) if group in self.fits else rest[group] for group in rest}
        others = sum(seconds * like.times[group] for group, seconds in known.items())
        return like.images * self.training_seconds(workers) + others

    def training_seconds(self, workers: int) -> float:
        """Return what the steps take for each image, by the fits."""
        return sum(fit.at(workers) for group, fit in self.fits.items() if group in OF_TRAINING)


@dataclass(frozen=True)
class Scaling:
    """All stages, and ICSR's cameras.

    Attributes:
        runs: by rising numbers of workers.
        stages: that have been measured, in their order.
        of_cameras: the run of the fewest workers, whose processes are in nobody's way, that recorded what
            stage 1 took for each camera; None: none did.
    """

    runs: tuple[ScaledRun, ...]
    stages: tuple[StageScaling, ...]
    of_cameras: ScaledRun | None

    @property
    def camera_seconds(self) -> list[float]:
        """What stage 1 took for each camera, in the order in which they are handed out."""
        return [] if self.of_cameras is None else [line["seconds"] for line in self.of_cameras.cameras]

    def stage(self, name: str) -> StageScaling | None:
        """Return a stage by its name, if it was measured."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def as_record(self) -> dict[str, Any]:
        """Return what the JSON file holds: seconds, and shares of 1."""
        return {
            "format": FORMAT,
            "method": self.runs[0].method,
            "stages": [_stage_record(stage) for stage in self.stages],
            "cameras": None
            if self.of_cameras is None
            else {
                "run": str(self.of_cameras.path),
                "cameras": list(self.of_cameras.cameras),
                "makespans": [asdict(each) for each in makespans(self.camera_seconds)],
            },
        }

    def write(self, path: Path) -> None:
        """Write the record as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        write_json(path, self.as_record())


def scaling(paths: Sequence[Path]) -> Scaling:
    """Read runs on different numbers of workers and compare what their epochs took.

    Raises:
        InputError: a folder cannot be read, or the runs are not of one experiment: strong scaling, or weak.
    """
    runs = read_runs(paths)
    names = list(dict.fromkeys(name for run in runs for name in run.stages))
    stages = (_stage(name, [run for run in runs if name in run.stages]) for name in names)
    with_cameras = next((run for run in runs if run.cameras), None)
    return Scaling(tuple(runs), tuple(stages), with_cameras)


def fit(workers: Sequence[int], seconds: Sequence[float]) -> Fit:
    """Return the least squares fit of T(W) = a + b / W that is not negative for any W >= 1.

    With x = 1 / W it is u x + v (1 - x), of u = T(1) and v = the limit of many workers, neither negative.
    """
    x, y = 1.0 / np.asarray(workers, np.float64), np.asarray(seconds, np.float64)
    (one, many), norm = nnls(np.stack([x, 1.0 - x], axis=1), y)
    residual = float(norm) / len(y) ** 0.5
    return Fit(float(many), float(one - many), residual, float(y.mean()), len({*workers}))


def _stage(name: str, runs: list[ScaledRun]) -> StageScaling:
    mode = _mode(name, runs)
    fits = {}
    for group in GROUPS if mode is not None else ():
        measured = [(run.workers, _cost(run.stages[name], group)) for run in runs if _has(run, name, group)]
        if len({workers for workers, _ in measured}) > 1:
            fits[group] = fit(*zip(*measured, strict=True))
    return StageScaling(name, mode, tuple(runs), fits)


def _has(run: ScaledRun, name: str, group: str) -> bool:
    return group in run.stages[name].seconds


def _cost(times: StageTimes, group: str) -> float:
    """Return the seconds of a group that are fitted."""
    return times.seconds[group] / (times.images if group in OF_TRAINING else 1)


def _mode(name: str, runs: list[ScaledRun]) -> Mode | None:
    """Return which scaling the runs are of; None of one number of workers."""
    pairs = {(run.workers, run.stages[name].batch) for run in runs}
    if len({workers for workers, _ in pairs}) == len(pairs) == 1:
        return None
    if len({batch for _, batch in pairs}) == 1:
        return "strong"
    if len({batch / workers for workers, batch in pairs}) == 1:
        return "weak"
    found = ", ".join(f"{batch} images on {workers}" for workers, batch in sorted(pairs))
    raise InputError(
        f"run.workers: the runs' steps have {found} workers: neither strong scaling, one batch for all, nor "
        "weak scaling, so many images a worker (scale=weak); name the runs of one of both"
    )


def _stage_record(stage: StageScaling) -> dict[str, Any]:
    rows = []
    for run, of, efficiency in zip(stage.runs, stage.times, stage.efficiencies, strict=True):
        rows.append(
            {
                "run": str(run.path),
                "workers": run.workers,
                "images_per_worker_and_step": of.batch / run.workers,
                "images_per_epoch": of.images,
                "epochs": of.epochs,
                "seconds": of.total,
                "shares": {group: seconds / of.total for group, seconds in of.of_epoch.items()},
                "efficiency": efficiency,
            }
        )
    return {
        "stage": stage.name,
        "scaling": stage.mode,
        "runs": rows,
        "fits": {
            group: {**asdict(fit), "per": "image" if group in OF_TRAINING else "time"}
            for group, fit in stage.fits.items()
        },
    }
