"""How a run of any method begins and ends: where it works, who follows it, what is said of it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from raid.distributed.backend import LocalBackend
from raid.methods.encoder import device_of
from raid.methods.sections import Numerics, Pool, Run, Track
from raid.run_folder import RunFolder
from raid.tracking import follow


class Launched(Protocol):
    """The sections that every method has."""

    @property
    def numerics(self) -> Numerics:
        """Threads of a worker."""

    @property
    def pool(self) -> Pool:
        """Processes beside the workers."""

    @property
    def run(self) -> Run:
        """Workers, device and folder."""

    @property
    def track(self) -> Track:
        """MLflow."""


def local_backend(config: Launched) -> LocalBackend:
    """Return this machine, without Ray."""
    on_gpu = device_of(config.run.device).type == "cuda"
    return LocalBackend(workers=config.run.workers, threads=config.numerics.threads, on_gpu=on_gpu)


def tracked(config: Launched, folder: RunFolder, method: str) -> AbstractContextManager[None]:
    """Tell MLflow of the run for as long as the block lasts, unless the configuration says not to."""
    if not config.track.enabled:
        return nullcontext()
    return follow(folder, config.track.experiment, {"method": method})


def summary(folder: RunFolder) -> str:
    """Return what came of a run: its figures, and where its model is."""
    epochs = folder.metrics()
    lines = [f"model       {folder.model}", f"report      {folder.report}"]
    evaluated = [epoch for epoch in epochs if "eval/mAP" in epoch]
    if evaluated:
        best = max(evaluated, key=lambda epoch: float(epoch["eval/mAP"]))
        lines += [
            f"last epoch  {_figures(evaluated[-1])}",
            f"best epoch  {_figures(best)} (known by looking at the test set: not the result)",
        ]
    return "\n".join(lines)


def _figures(epoch: dict[str, Any]) -> str:
    shares = {name: epoch[f"eval/{name}"] for name in ("mAP", "rank1", "rank5", "rank10", "mINP")}
    return f"{epoch['epoch'] + 1}: " + ", ".join(
        f"{name} {100 * share:.1f}" for name, share in shares.items()
    )
