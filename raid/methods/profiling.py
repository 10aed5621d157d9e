"""`run.profile`: what the steps of the first worker are made of, as a trace and as one page."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from raid.distributed.group import Group
from raid.files import atomic_path
from raid.methods.execution import Run
from raid.methods.probe import peak
from raid.run_folder import RunFolder

_PASSED, _WATCHED = 5, 5  # steps: the first allocate and compile
_OPERATIONS = 25  # on the page


@contextmanager
def profiled(
    run: Run, folder: RunFolder, group: Group, device: torch.device, *, num_steps: int, images: int
) -> Iterator[Callable[[], None]]:
    """Watch a few steps of the first epoch that is trained, if the run is to.

    The folder's profile/ gets trace.json.gz, which Perfetto and chrome://tracing show, and summary.txt.

    Args:
        run: the configuration's section.
        folder: of the run; one that has a profile keeps it.
        group: the workers, of whom the first is watched.
        device: of the training.
        num_steps: that will be made.
        images: of a step, on this worker.

    Yields:
        What is called after every step.
    """
    if not run.profile or not group.is_first or folder.profile.exists() or num_steps < 1:
        yield lambda: None
        return
    watched = min(_WATCHED, max(1, num_steps // 2))
    passed = min(_PASSED, num_steps - watched)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    begun = 0.0

    def keep(profiler: Any) -> None:
        seconds = (time.perf_counter() - begun) / watched
        folder.profile.mkdir(exist_ok=True)
        with atomic_path(folder.profile / "trace.json.gz") as temporary:
            named = temporary.with_name(f"{temporary.name}.json.gz")  # by which it knows what to write
            profiler.export_chrome_trace(str(named))
            named.replace(temporary)
        with atomic_path(folder.profile / "summary.txt") as temporary:
            temporary.write_text(_page(profiler, device, watched, seconds, images))

    plan = schedule(wait=0, warmup=passed, active=watched, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=keep, with_flops=True) as profiler:
        steps = 0

        def stepped() -> None:
            nonlocal steps, begun
            steps += 1
            if steps in (passed, passed + watched) and device.type == "cuda":
                torch.cuda.synchronize(device)
            if steps == passed:
                begun = time.perf_counter()
            profiler.step()

        begun = time.perf_counter()
        yield stepped


def _page(profiler: Any, device: torch.device, num_steps: int, seconds: float, images: int) -> str:
    """Return what the profile comes to, for people."""
    operations = profiler.key_averages()
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    flops = sum(operation.flops for operation in operations) / num_steps
    lines = [
        f"training steps    {num_steps} of the first worker, watched by torch.profiler, which slows them",
        f"device            {name}, torch {torch.__version__}, {platform.machine()}",
        f"a step            {1000 * seconds:.1f} ms, {images} images: {images / seconds:.1f} images/s",
        f"operations        {flops / 1e9:.1f} GFLOP of matrix products and convolutions a step, "
        f"{flops / seconds / 1e12:.3f} TFLOP/s",
        f"peak of memory    {peak(device) / 2**30:.2f} GiB of the {'GPU' if on_gpu else 'process'}",
        "",
        operations.table(
            sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total",
            row_limit=_OPERATIONS,
            max_name_column_width=48,
        ),
    ]
    return "\n".join(lines) + "\n"
