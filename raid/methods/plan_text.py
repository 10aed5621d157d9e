"""A plan in words: what `raid plan` prints."""

import math
from collections.abc import Sequence

from raid import machine
from raid.methods.launch import Launched
from raid.methods.makespan import enough, makespans
from raid.methods.plan import Counts, Plan
from raid.methods.probe import EncoderSpeed
from raid.methods.sections import Data

_GIB = 2**30


def describe_counts(counts: Counts, encoder: EncoderSpeed) -> str:
    """Return what a set has, in words."""
    number = len(counts.cameras)
    cameras = "1 camera" if number == 1 else f"{number} cameras"
    return (
        f"{counts.train:,} training images of {cameras}, {counts.query:,} queries, "
        f"{counts.gallery:,} gallery images; {encoder.dimensions} dimensions"
    )


def describe_plan(
    plan: Plan,
    config: Launched,
    encoder: EncoderSpeed,
    *,
    head: str,
    speeds: str = "",
    remarks: Sequence[str],
    disk: str,
) -> str:
    """Return the plan as a table and what it comes to.

    Args:
        plan: of the run.
        config: of the run.
        encoder: its speed.
        head: what the sets are.
        speeds: what was measured beside the encoder.
        remarks: lines on memory.
        disk: what is written there.
    """
    lines = [
        head,
        f"{config.run.workers} workers of {config.numerics.threads} threads, encoder on {encoder.device}: "
        f"{1 / encoder.extract:.1f} images/s extracted, {1 / encoder.train:.1f} trained, a process{speeds}",
        "",
        f"{'':<20}{'one takes':>12}{'times':>8}{'together':>12}{'memory':>12}{'dense way':>14}",
    ]
    for step in plan.steps:
        name = step.name + "*" * step.measured
        lines.append(
            f"{name:<20}{time_text(step.seconds):>12}{step.times:>8}{time_text(step.elapsed):>12}"
            f"{size_text(step.memory):>12}{size_text(step.dense):>14}"
        )
    kind = "CPU" if encoder.device == "cpu" else "GPU"
    on_gpu = f", and {size_text(plan.gpu_memory)} on each GPU" if plan.gpu_memory else ""
    return "\n".join(
        [
            *lines,
            "",
            *remarks,
            f"the run        {time_text(plan.elapsed)}, {plan.device_hours:,.1f} {kind} hours",
            f"memory         {size_text(plan.memory)} in all processes together{_machines(plan)}{on_gpu}",
            f"disk           {disk}",
            *plan.times,
            "Memory is above that of the libraries, about 0.5 GiB a process.",
        ]
    )


def describe_makespans(seconds: Sequence[float], what: str) -> list[str]:
    """Return how long stage 1 takes on more and more processes, as a table.

    Args:
        seconds: of each camera, in the order in which they are handed out.
        what: the line above the table, about the seconds.
    """
    found = makespans(seconds)
    rows = {
        "processes": [str(each.processes) for each in found],
        "takes": [time_text(each.seconds) for each in found],
        "at least": [time_text(each.bound) for each in found],
    }
    lines = [f"  {name:<12}{''.join(f'{cell:>10}' for cell in cells)}" for name, cells in rows.items()]
    return [what, *lines, f"  {describe_enough(seconds)}"]


def describe_enough(seconds: Sequence[float]) -> str:
    """Return how many processes are as fast as any number, in words."""
    number, longest = enough(seconds), time_text(max(seconds))
    processes = "1 process is" if number == 1 else f"{number} processes are"
    return f"{processes} as fast as any number: one camera takes {longest}"


def describe_disk(sets: Sequence[float], data: Data) -> str:
    """Return what becomes of the decoded images.

    Args:
        sets: bytes of those that share a cache's limit, see `image_bytes`.
        data: the section with the limit.
    """
    kept = sum(size for size in sets if size <= data.cache_limit_gib * _GIB)
    rest = sum(sets) - kept
    limit = f"data.cache_limit_gib={data.cache_limit_gib:g}"
    if not rest:
        return f"{size_text(kept)} of decoded images on every node"
    if not kept:
        return f"no decoded images ({limit}, and they take {size_text(rest)})"
    return (
        f"{size_text(kept)} of decoded images on every node; {size_text(rest)} more is too much for {limit}"
    )


def _machines(plan: Plan) -> str:
    available = machine.memory_bytes()
    # More machines do not help where one process is too large: `misfits` says what does.
    if plan.memory <= available or any(step.memory > available for step in plan.steps):
        return ""
    number = math.ceil(plan.memory / available)
    return (
        f", more than this machine's {available / _GIB:.1f}: spread the processes over {number} such machines"
    )


def time_text(seconds: float) -> str:
    """Return a time in a unit that suits it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def size_text(number: float) -> str:
    """Return a number of bytes in GiB; nothing of none."""
    return "" if number == 0 else f"{number / _GIB:,.2f} GiB"
