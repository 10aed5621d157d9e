"""The methods by their names: what a command is told, and what a run folder or a model says it is of."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from raid.distributed.backend import Backend
from raid.errors import InputError
from raid.methods.icsr import demo as icsr_demo
from raid.methods.icsr import plan as icsr_plan
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.mar import demo as mar_demo
from raid.methods.mar import plan as mar_plan
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig
from raid.methods.measured_plan import scaling_for
from raid.methods.plan import Given, counts_in
from raid.methods.slsr import demo as slsr_demo
from raid.methods.slsr import plan as slsr_plan
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.config import SlsrConfig
from raid.run_folder import RunFolder

MethodConfig: TypeAlias = IcsrConfig | MarConfig | SlsrConfig
METHODS = ("icsr", "mar", "slsr")


def config_of(method: str) -> type[IcsrConfig] | type[MarConfig] | type[SlsrConfig]:
    """Return the configuration's class.

    Raises:
        InputError: there is no such method.
    """
    match method:
        case "icsr":
            return IcsrConfig
        case "mar":
            return MarConfig
        case "slsr":
            return SlsrConfig
    raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def run(config: MethodConfig, backend: Backend, *, resume: bool, fresh: bool) -> RunFolder:
    """Train and evaluate as `config` says, by its method; see there."""
    if isinstance(config, IcsrConfig):
        return icsr.run(config, backend, resume=resume, fresh=fresh)
    if isinstance(config, MarConfig):
        return mar.run(config, backend, resume=resume, fresh=fresh)
    return slsr.run(config, backend, resume=resume, fresh=fresh)


def compare(config: MethodConfig, backend: Backend, *, num_seeds: int) -> str:
    """Return the demonstration of a method as text; see there."""
    if isinstance(config, IcsrConfig):
        return icsr_demo.compare(config, backend, num_seeds=num_seeds)
    if isinstance(config, MarConfig):
        return mar_demo.compare(config, backend, num_seeds=num_seeds)
    return slsr_demo.compare(config, backend, num_seeds=num_seeds)


def render_people(config: MethodConfig) -> None:
    """Render the people of a method's demonstration where `config` looks for them, unless they are there."""
    if isinstance(config, IcsrConfig):
        icsr_demo.render_people(config)
    elif isinstance(config, MarConfig):
        mar_demo.render_people(config)
    else:
        slsr_demo.render_people(config)


def plan(
    config: MethodConfig, given: Given, *, tflops: float | None, runs: Sequence[Path] = ()
) -> tuple[str, list[str]]:
    """Return what a run of `config` will take, and what of it does not fit; see its method's `plan_run`.

    Args:
        config: of the run.
        given: of its images.
        tflops: see there.
        runs: folders of runs on the same images, whose times are taken; none: those of a probe.

    Raises:
        InputError: see there; or the runs are not of this configuration and these images.
    """
    if runs:
        given = _with_runs(config, given, runs)
    if isinstance(config, IcsrConfig):
        return icsr_plan.plan_run(config, given, tflops=tflops)
    if isinstance(config, MarConfig):
        return mar_plan.plan_run(config, given, tflops=tflops)
    return slsr_plan.plan_run(config, given, tflops=tflops)


def _with_runs(config: MethodConfig, given: Given, runs: Sequence[Path]) -> Given:
    """Add the times of runs on the images of `config`, and their counts, which are known by then."""
    samples = load_samples(config.data)
    method = next(name for name in METHODS if isinstance(config, config_of(name)))
    scaling = scaling_for(runs, method, config, {"data.root": samples.fingerprint()})
    # SLSR leaves images out.
    target = None if isinstance(config, SlsrConfig) else counts_in(samples, config.data)
    return replace(given, target=target, scaling=scaling)


def epochs(config: MethodConfig) -> int:
    """Return how many epochs a run of `config` records."""
    return config.inter.epochs if isinstance(config, IcsrConfig) else config.epochs
