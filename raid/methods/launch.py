"""How a run of any method begins and ends: where it works, who follows it, what is said of it."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from raid.config import Schema
from raid.distributed.backend import LocalBackend
from raid.errors import InputError
from raid.evaluate import RetrievalSet
from raid.methods.encoder import device_of
from raid.methods.execution import Numerics, Pool, Run, Track
from raid.report import TrainingSets, write_report
from raid.run_folder import RunFolder
from raid.tracking import PARENT_TAG, follow

logger = logging.getLogger(__name__)
ConfigOfMethod = TypeVar("ConfigOfMethod", bound=Schema)


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


def opened(
    config: ConfigOfMethod,
    fingerprint: str | Mapping[str, str],
    *,
    method: str,
    facts: Mapping[str, str],
    origins: Mapping[str, Any],
    resume: bool,
    fresh: bool,
) -> tuple[RunFolder, ConfigOfMethod]:
    """Open the run folder; see `RunFolder.open`. Return it and the configuration with absolute paths.

    A worker may have another working directory.
    """
    sections: Any = config  # has run and data, as every method's
    folder = RunFolder.open(
        sections.run.folder,
        config,
        fingerprint,
        method=method,
        facts=facts,
        origins=origins,
        resume=resume,
        fresh=fresh,
    )
    data = replace(sections.data, cache_folder=sections.data.cache_folder.absolute())
    return replace(folder, path=folder.path.absolute()), replace(sections, data=data)


def reported(folder: RunFolder, retrieval: RetrievalSet | None, shown: TrainingSets | None = None) -> None:
    """Write the report of a run that has ended, or say why there is none."""
    try:
        write_report(folder, retrieval, shown)
    except InputError as error:  # a full disk, say: the training is done all the same
        logger.warning("no report: %s", error)


def tracked(config: Launched, folder: RunFolder, method: str) -> AbstractContextManager[None]:
    """Tell MLflow of the run for as long as the block lasts, unless the configuration says not to."""
    if not config.track.enabled:
        return nullcontext()
    nested = {} if config.track.parent is None else {PARENT_TAG: config.track.parent}
    return follow(folder, config.track.experiment, {"method": method, **nested})


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
