"""Trials that train: runs as any other, and the stages that they share."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from raid.distributed.ray_tune import Need, Tell, run_trials
from raid.errors import InputError
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.sweeps.definition import SharedStage, widest
from raid.methods.sweeps.planning import Planned, every_point
from raid.methods.sweeps.trial import Base, RunTrial

# A lost worker or node is not the trial's fault: it goes on from its checkpoint.
_ATTEMPTS = 2
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """A sweep whose trials train.

    Attributes:
        stages: that trials share, in the order of the method.
    """

    stages: tuple[SharedStage, ...]

    trains: ClassVar = True

    def need(self, config: MethodConfig) -> Need:
        """Return what a trial takes of the cluster."""
        workers, threads = config.run.workers, config.numerics.threads
        return Need(workers, threads, config.run.device, config.pool.processes(workers))

    @contextmanager
    def trials(self, base: Base, planned: Planned, at_once: int) -> Iterator[RunTrial]:
        """Do what trials share, and give what does one.

        Raises:
            InputError: a stage that trials share failed.
        """
        yield TrainingRun(self.stages, shared_results(self.stages, base, planned, at_once))


@dataclass(frozen=True)
class TrainingRun:
    """Trains and evaluates as a plain command does.

    Attributes:
        stages: that trials share.
        shared: their results, by the stage's key.
    """

    stages: tuple[SharedStage, ...]
    shared: Mapping[str, Path]

    def __call__(self, base: Base, number: int, point: Mapping[str, Any], seed: int, tell: Tell) -> None:
        """Run the trial, or go on with it."""
        folder = base.folder.run(number)
        settings = shared_settings(base, self.stages, self.shared, point, seed)
        config = base.config(point, seed, {**settings, "run.folder": str(folder.path)})
        for left in reversed(range(_ATTEMPTS)):
            backend = base.backend(config)
            begun = (folder.path / "run.json").exists()
            try:
                known.run(config, backend, resume=begun, fresh=False)
                return
            except InputError:
                raise
            except Exception:
                if not left:
                    raise
                logger.warning("trial %03d failed, and is gone on with once more", number, exc_info=True)
            finally:
                backend.close()


def shared_results(
    stages: tuple[SharedStage, ...], base: Base, planned: Planned, at_once: int
) -> dict[str, Path]:
    """Do the stages that trials share, one stage after the other, and return their results by key.

    Raises:
        InputError: one failed.
    """
    found: dict[str, Path] = {}
    paths = {path for stage in stages for path in stage.of}
    for place, stage in enumerate(stages):
        wanted: dict[str, MethodConfig] = {}
        largest = widest(base.record.axes, stage.largest, [point for point, _ in planned.values()])
        for point, seed in every_point(base, planned, paths):
            before = shared_settings(base, stages[:place], found, point, seed)
            config = base.config(point, seed, before)
            if stage.applies(config) and stage.key(config) not in wanted:
                wanted[stage.key(config)] = base.config(point, seed, {**before, **largest})
        missing = [key for key in wanted if not base.folder.has_shared(key)]
        if missing:
            logger.info("what trials share: %s", ", ".join(missing))
        work = SharedWork(base, stage, tuple(wanted[key] for key in missing))
        run_trials(work, range(len(missing)), folder=base.folder.tune, at_once=at_once)
        found |= {key: base.folder.shared_result(key) for key in wanted}
    return found


def shared_settings(
    base: Base,
    stages: Iterable[SharedStage],
    shared: Mapping[str, Path],
    point: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Return the overrides by which a trial begins with the results of the stages that apply to it."""
    given: dict[str, Any] = {}
    for stage in stages:
        config = base.config(point, seed, given)
        if stage.applies(config):
            given[stage.setting] = str(shared[stage.key(config)])
    return given


@dataclass(frozen=True)
class SharedWork:
    """Does a stage that trials share; what Ray Tune calls.

    Attributes:
        base: of all trials.
        stage: which.
        configs: of the results that are wanted, by number.
    """

    base: Base
    stage: SharedStage
    configs: tuple[MethodConfig, ...]

    def __call__(self, number: int, point: Mapping[str, Any], tell: Tell) -> None:
        """Do the stage in a folder of its own below `shared`."""
        os.environ.update(self.base.environment)
        config = self.configs[number]
        key = self.stage.key(config)
        backend = self.base.backend(config)
        try:
            path = self.stage.prepare(config, backend, self.base.folder.shared / key)
            self.base.folder.write_shared(key, path, "")
        except Exception as error:
            self.base.folder.write_shared(key, None, str(error) or type(error).__name__)
            raise
        finally:
            backend.close()
