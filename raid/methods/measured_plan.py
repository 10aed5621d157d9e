"""A plan whose epochs take what runs took: `raid plan --from-runs`."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from raid.config import Schema, flatten
from raid.errors import InputError
from raid.methods.makespan import makespan
from raid.methods.plan import PROBED, Plan, Step
from raid.methods.scaled_runs import STEPS, batches, check_alike
from raid.methods.scaling import Scaling, scaling


def scaling_for(paths: Sequence[Path], method: str, config: Schema, data: dict[str, str]) -> Scaling:
    """Return what runs say of the times of a run that is planned.

    Args:
        paths: of the runs.
        method: of the planned run.
        config: of it.
        data: fingerprints of its images by the field that says where they are.

    Raises:
        InputError: the runs cannot be compared with each other or with the planned one, or they are of one
            number of workers.
    """
    found, fields = scaling(paths), flatten(config)
    for run in found.runs:
        check_alike(run, "the plan", method, fields, data, may_differ=STEPS)
    planned, workers = batches(method, fields), fields["run.workers"]
    for stage in found.stages:
        if stage.mode is None:
            raise InputError(
                f"--from-runs: all runs have {stage.workers[0]} workers; what more would bring takes runs on "
                "two numbers of workers"
            )
        expected = stage.expected_batch(workers)
        if planned[stage.name] != expected:
            raise InputError(
                f"--from-runs: the plan's steps have {planned[stage.name]} images, and those of the runs, "
                f"{stage.mode} scaling, would have {expected} on {workers} workers"
            )
    return found


def measured(plan: Plan, found: Scaling | None, workers: int) -> Plan:
    """Return the plan with what the runs say in place of what was probed; the plan itself without runs.

    Args:
        plan: made of a probe.
        found: of the runs.
        workers: of the planned run.
    """
    if found is None:
        return plan
    steps = tuple(_measured(step, found, workers) for step in plan.steps)
    return replace(plan, steps=steps, times=(*_about(steps, found, workers), f"The others: {PROBED}"))


def _measured(step: Step, found: Scaling, workers: int) -> Step:
    if step.span == "cameras" and found.camera_seconds:
        seconds = found.camera_seconds
        return replace(
            step,
            seconds=sum(seconds) / len(seconds),
            times=len(seconds),
            elapsed=makespan(seconds, step.processes),
            measured=True,
        )
    stage = found.stage(_stage_of(step))
    if stage is None:
        return step
    group = step.span.rpartition("/")[2]
    if group == "train":
        seconds_of_one = step.images * stage.training_seconds(workers)
    elif group in stage.fits:
        seconds_of_one = stage.fits[group].at(workers)
    else:
        return step
    return replace(step, seconds=seconds_of_one, elapsed=seconds_of_one * step.times, measured=True)


def _stage_of(step: Step) -> str:
    return step.span.rpartition("/")[0]


def _about(steps: Sequence[Step], found: Scaling, workers: int) -> Iterator[str]:
    """Yield where the measured times come from, in words."""
    names = {_stage_of(step) for step in steps if step.measured}
    for stage in (stage for stage in found.stages if stage.name in names):
        numbers, off = ", ".join(map(str, stage.workers)), stage.residual
        good = "nothing tells how good a line through two is" if off is None else f"off by {off:.0%}"
        far = f"; {workers} workers are beyond them" if workers > stage.workers[-1] else ""
        yield (
            f"* {stage.name}: of {len(stage.runs)} runs on {numbers} workers, {stage.mode} scaling, by "
            f"T(W) = a + b/W ({good}){far}"
        )
    if found.of_cameras is not None and any(step.span == "cameras" for step in steps):
        yield f"* stage 1: what {found.of_cameras.path} took for each camera, handed out to the processes"
