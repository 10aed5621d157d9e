"""A sweep from its beginning to its end: what a script in tune/ does when it is run."""

import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from raid.distributed.ray_tune import Draws, Halving, Need, Room, room, run_trials
from raid.errors import InputError
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.sweeps import outcome
from raid.methods.sweeps.definition import Sweep
from raid.methods.sweeps.planning import Options, Planned, planned
from raid.methods.sweeps.points import space_of
from raid.methods.sweeps.tracking import Tracked, server_for, tracked_sweep
from raid.methods.sweeps.trial import Base, RunTrial, TrialWork
from raid.methods.sweeps.watch import Watch
from raid.sweep_folder import ENDED, SweepFolder, SweepRecord

# ASHA: one trial in so many goes on from a rung, and the first rung is at an epoch in its square.
_FACTOR = 3


class Kind(Protocol):
    """What the trials of a sweep do: train, or cluster stored features.

    Attributes:
        trains: whether a trial starts a trainer; one that does not is over in seconds, cannot be stopped in
            the middle, and is done by the process of the trial before.
    """

    trains: ClassVar[bool]

    def need(self, config: MethodConfig) -> Need:
        """Return what a trial takes of the cluster."""

    def trials(self, base: Base, planned: Planned, at_once: int) -> AbstractContextManager[RunTrial]:
        """Give what does a trial, for as long as the block lasts."""


def run_sweep(sweep: Sweep, options: Options, kind: Kind) -> str:
    """Run every trial, and return what came of it as text; everything is in the sweep's folder, `run.folder`.

    Args:
        sweep: what is searched.
        options: what the user says.
        kind: what a trial does.

    Raises:
        InputError: a trial cannot be run as it is said, the cluster has no room for one, MLflow does not
            answer, a stage that trials share failed, or no trial came to an end. Trials that fail alone do
            not stop the others.
    """
    base, config, trials = planned(sweep, options)
    grace = _grace(config, options)
    there = room(kind.need(config), config.run.folder, trains=kind.trains)
    at_once = _at_once(there, options.max_concurrent)
    base = replace(base, shares=min(at_once, there.on_a_node))
    with server_for(base, config, there.nodes) as uri:
        _open(base.folder, base.record, options.how)
        print(_plan(sweep, base, trials, there, at_once), flush=True)
        if options.demo:
            known.render_people(config)
        with tracked_sweep(base, config, uri) as tracked:
            base = tracked.base
            with kind.trials(base, trials, at_once) as run:
                halving = _halving(base, config, grace)
                _search(TrialWork(base, trials, run), halving, at_once, tracked, reuse=not kind.trains)
            tracked.conclude()
            return outcome.concluded(base)


def _at_once(there: Room, wanted: int | None) -> int:
    if not there.trials:
        raise InputError(
            f"run.workers: a trial needs {there.need}, and the cluster has {there.have}; "
            "ask for fewer workers a trial, or for a larger cluster"
        )
    if wanted is not None and wanted > there.trials:
        raise InputError(
            f"--max-concurrent: {wanted} trials of {there.need} each at the same time, and the cluster has "
            f"{there.have}; ask for at most {there.trials}, fewer workers a trial, or a larger cluster"
        )
    return wanted or there.trials


def _open(folder: SweepFolder, record: SweepRecord, how: str) -> None:
    """Make the folder of a new sweep, or see that it is the one that is gone on with."""
    if (folder.path / "run.json").exists():
        raise InputError(f"run.folder: {folder.path} holds a run, not a sweep; choose another")
    if how == "fresh" and folder.record.exists():
        for path in (folder.path / "trials", folder.shared, folder.tune):
            shutil.rmtree(path, ignore_errors=True)
        for path in (folder.best, folder.report, *folder.path.glob("tracking_parent.*"), folder.record):
            path.unlink(missing_ok=True)
    if not folder.record.exists():
        if how == "resume":
            raise InputError(f"--resume: {folder.path} holds no sweep to go on with")
        try:
            folder.write(record)
        except OSError as error:
            raise InputError(f"run.folder: {folder.path} cannot be written: {error.strerror}") from error
        return
    before = folder.read()
    if how != "resume":
        raise InputError(
            f"run.folder: {folder.path} holds a sweep; --resume goes on with it, --fresh starts it over"
        )
    changed = [name for name in vars(record) if getattr(record, name) != getattr(before, name)]
    if changed:
        shown = "; ".join(f"{name} was {getattr(before, name)!r}" for name in changed[:3])
        raise InputError(
            f"--resume: {folder.path} holds another sweep: {shown}; say the same as then, choose another "
            "run.folder, or start over with --fresh"
        )


def _plan(sweep: Sweep, base: Base, trials: Planned, there: Room, at_once: int) -> str:
    record = base.record
    number = len(trials) or record.num_samples
    objective = record.objective
    aim = "highest" if objective.mode == "max" else "lowest"
    lines = [
        f"sweep       {sweep.title}; in {base.folder.path}",
        f"searched    {', '.join(axis.path for axis in record.axes)} ({record.search})",
        f"trials      {number}, {at_once} at a time: one needs {there.need}, the cluster has {there.have}",
        f"objective   {objective.name}, the {aim}: {objective.meaning} ({objective.key})",
    ]
    if len(record.seeds) > 1:
        lines.append(f"seeds       {record.seeds[0]} to {record.seeds[-1]}, each of every point")
    if objective.on_test_set:
        lines.append(
            "            the best trial is chosen by looking at the test set: its figure is no result"
        )
    return "\n".join(lines)


def _search(work: TrialWork, halving: Halving | None, at_once: int, tracked: Tracked, *, reuse: bool) -> None:
    """Run the trials that have not come to an end."""
    base = work.base
    record = base.record
    there = {trial.number: trial for trial in base.folder.trials()}
    if record.search == "optuna":  # its points are those of the trials that it has begun
        work = replace(work, planned={number: (trial.point, trial.seed) for number, trial in there.items()})
    left = [number for number in work.planned if number not in there or there[number].state not in ENDED]
    watch = Watch(work, tracked, len(work.planned) if record.search != "optuna" else record.num_samples)
    how: dict[str, Any] = {
        "folder": base.folder.tune,
        "at_once": at_once,
        "mode": record.objective.mode,
        "halving": halving,
        "reuse": reuse,
        "ended": watch,
    }
    run_trials(work, left, **how)
    if record.search == "optuna":
        ended = [trial for trial in base.folder.trials() if trial.value is not None]
        known = [(trial.point, trial.value) for trial in ended if trial.value is not None]
        first = max(there, default=-1) + 1
        draws = Draws(space_of(record.axes), known, first, record.num_samples - len(there), record.seed)
        run_trials(work, draws, **how)
    watch.settle()


def _grace(config: MethodConfig, options: Options) -> int:
    """Return the epochs of a trial before it may be stopped."""
    epochs = known.epochs(config)
    grace = options.grace or max(1, epochs // _FACTOR**2)
    if options.scheduler == "asha" and grace >= epochs:
        raise InputError(f"--grace: {grace} epochs before a trial may be stopped, of {epochs}; choose fewer")
    return grace


def _halving(base: Base, config: MethodConfig, grace: int) -> Halving | None:
    """Return ASHA, which knows what trials of before have reported."""
    if base.record.scheduler == "none":
        return None
    reports = {}
    for trial in base.folder.trials():
        if trial.state in ENDED:
            lines = base.folder.run(trial.number).metrics()
            values = [(int(line["epoch"]) + 1, line.get(base.record.objective.key)) for line in lines]
            reports[trial.number] = [(epoch, float(value)) for epoch, value in values if value is not None]
    return Halving(grace, known.epochs(config), _FACTOR, reports)
