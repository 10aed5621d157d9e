"""The epochs of a supervised or adapting stage: what the stages of MAR and of SLSR have in common."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from raid.data.sampler import shuffled_batches
from raid.data.streams import SAMPLING, stream
from raid.distributed import checkpoint
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.evaluate import RetrievalSet
from raid.methods.divergence import LossCheck
from raid.methods.epoch_evaluation import evaluated
from raid.methods.execution import Extract, Run
from raid.methods.networks import Networks
from raid.methods.profiling import profiled
from raid.methods.saving import Saving
from raid.methods.sections import Evaluate
from raid.methods.stalls import watched
from raid.run_folder import RunFolder
from raid.spans import pace

Ints = NDArray[np.int64]
Figures = dict[str, float]
SPANS = (
    "prepare",
    "statistics",
    "startup",
    "extract",
    "initialise",
    "train",
    "data_wait",
    "collective",
    "evaluate",
    "checkpoint",
)
logger = logging.getLogger(__name__)


class StagedConfig(Protocol):
    """The sections of a configuration that the epochs of a stage look at."""

    @property
    def method(self) -> str:
        """By its name."""

    @property
    def seed(self) -> int:
        """Of everything random."""

    @property
    def epochs(self) -> int:
        """Of all stages."""

    @property
    def run(self) -> Run:
        """Checkpoints."""

    @property
    def evaluate(self) -> Evaluate:
        """When and how a stage is evaluated."""

    @property
    def extract(self) -> Extract:
        """Where features are extracted."""


class Job(Protocol):
    """What every worker gets, as the epochs see it."""

    @property
    def config(self) -> StagedConfig:
        """Of the run."""

    @property
    def folder(self) -> RunFolder:
        """Of the run."""

    @property
    def retrieval(self) -> RetrievalSet | None:
        """What the stages are evaluated on."""


JobOfMethod = TypeVar("JobOfMethod", bound=Job, covariant=True)


@dataclass(frozen=True)
class Worker(Generic[JobOfMethod]):
    """One of the workers: who it is, and what it has."""

    group: Group
    fanout: FanOut
    job: JobOfMethod
    device: torch.device


@dataclass
class Progress:
    """How far the run is; epochs count over all stages."""

    epoch: int = 0
    step: int = 0
    parts: dict[str, list[Tensor]] = field(default_factory=dict)  # of the epoch's steps up to here
    before: Figures = field(default_factory=dict)  # seconds that the next record takes along


class Stage(Protocol):
    """A stage as its epochs see it: how a step is trained, and what is to be said of an epoch's."""

    @property
    def name(self) -> str:
        """Recorded in checkpoints."""

    @property
    def networks(self) -> Networks:
        """What it trains."""

    @property
    def epochs(self) -> range:
        """Numbers of its epochs over the whole run."""

    @property
    def num_steps(self) -> int:
        """Of an epoch."""

    @property
    def batch_size(self) -> int:
        """Images of a step, of all workers."""

    @property
    def is_last(self) -> bool:
        """Whether it is evaluated between its epochs too; the others are after their last alone."""

    @property
    def rate_path(self) -> str:
        """The field of its learning rate."""

    @property
    def shown(self) -> Mapping[str, Callable[[float], str]]:
        """What the log says of an epoch's figures, by their names, before what it says of the retrieval."""

    def rate(self, epoch: int, step: int) -> float:
        """Return the learning rate of a step."""

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Train on one global batch; return its `loss` and what else an epoch averages."""

    def end_epoch(self, epoch: int, means: Figures) -> tuple[Figures, dict[str, Any] | None]:
        """Return an epoch's figures, from the means over its steps, and its line of mining.jsonl, if any."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it beside the networks; every worker calls this."""


def train_stage(worker: Worker[Job], stage: Stage, progress: Progress) -> None:
    """Train the epochs of a stage that are still to come; every worker calls this."""
    config, spans = worker.job.config, stage.networks.encoder.spans
    while progress.epoch < stage.epochs.stop:
        epoch = progress.epoch
        first_step = progress.step
        with stage.networks.encoder.training_time():
            _train(worker, stage, progress)
        means = {name: float(torch.stack(values).mean()) for name, values in progress.parts.items()}
        figures, details = stage.end_epoch(epoch, means)
        figures["train/learning_rate"] = stage.rate(epoch, 0)
        figures |= _evaluation(worker, stage, epoch)
        figures |= progress.before | spans.take()
        figures |= pace(figures, progress.step - first_step, stage.batch_size)
        if worker.group.is_first:
            losses = torch.stack(progress.parts["loss"]).tolist()
            worker.job.folder.record_epoch({"epoch": epoch, **figures}, losses, details)
            _log_epoch(config, stage, epoch, figures)
        worker.group.report(epoch, figures, {"run": worker.job.folder.name, "method": config.method})
        progress.epoch, progress.step, progress.parts, progress.before = epoch + 1, 0, {}, {}
        with spans("checkpoint"):
            save(worker, stage, progress)


def batch(worker: Worker[Job], key: int, num_images: int, batch_size: int, number: int) -> Ints:
    """Return the rows of the global batch `number` of all that a stage draws from a set, (batch_size,).

    Args:
        worker: of the run.
        key: of the stage's random numbers for the set.
        num_images: N of the set.
        batch_size: B.
        number: 0 and on; the set is shuffled anew whenever it has been passed.
    """
    per_pass = num_images // batch_size
    first = number - number % per_pass
    rows: Ints = _pass(worker.job.config.seed, key, num_images, batch_size, first)[number - first]
    return rows


# Two sets, and the pass before: as long as one pass lasts, its shuffle is drawn once.
@functools.lru_cache(maxsize=4)
def _pass(seed: int, key: int, num_images: int, batch_size: int, first: int) -> Ints:
    return shuffled_batches(
        num_images,
        batch_size,
        first=first,
        num_batches=num_images // batch_size,
        stream_of=lambda number: stream(seed, SAMPLING, key, number),
    )


def save(worker: Worker[Job], stage: Stage, progress: Progress) -> None:
    """Write the full state; the workers are in lockstep, so the first one's is everybody's."""
    of_stage = stage.state()  # gathers what the workers hold parts of
    if not worker.group.is_first:
        return
    state = {
        "stage": stage.name,
        **stage.networks.state(),
        "random": checkpoint.random_state(),
        "parts": {name: torch.stack(values) for name, values in progress.parts.items()},
        "of_stage": of_stage,
    }
    folder = worker.job.folder.checkpoints
    keep = worker.job.config.run.keep_checkpoints
    checkpoint.save(folder, state, epoch=progress.epoch, step=progress.step, keep=keep)


def restore(networks: Networks, progress: Progress, state: dict[str, Any]) -> None:
    """Put a checkpoint into the networks, and where it stands into `progress`."""
    networks.restore(state)
    checkpoint.set_random_state(state["random"])
    device = networks.encoder.device
    progress.epoch, progress.step = state["epoch"], state["step"]
    progress.parts = {name: list(values.to(device).unbind()) for name, values in state["parts"].items()}


def _train(worker: Worker[Job], stage: Stage, progress: Progress) -> None:
    """Train the steps of an epoch that are still to come."""
    epoch, run = progress.epoch, worker.job.config.run
    saving = Saving(worker.group, run, worker.job.folder)
    bar = tqdm(
        range(progress.step, stage.num_steps),
        f"{stage.name} {epoch - stage.epochs.start + 1}/{len(stage.epochs)}",
        stage.num_steps,
        initial=progress.step,
        unit="step",
        leave=False,
        disable=None if worker.group.is_first else True,  # None: shown on a terminal only
    )
    check = LossCheck(stage.networks.encoder, worker.job.folder, stage.rate_path)
    steps, images = stage.num_steps - progress.step, stage.batch_size // worker.group.size
    profiling = profiled(run, worker.job.folder, worker.group, worker.device, num_steps=steps, images=images)
    name = f"worker_{worker.group.rank}"
    with watched(worker.job.folder.path, name, run.step_timeout_s) as beat, profiling as stepped:
        for step in bar:
            rate = stage.rate(epoch, step)
            stage.networks.set_learning_rate(rate)
            found = stage.step(epoch, step)
            check.see(found["loss"], epoch=epoch, step=step, rate=rate)
            for name, value in found.items():
                progress.parts.setdefault(name, []).append(value)
            progress.step = step + 1
            is_due = saving.due(progress.step)
            if is_due or progress.step == stage.num_steps:
                check.settle()
                stage.networks.check_weights(epoch, step, stage.rate_path)
            if is_due:
                save(worker, stage, progress)
                saving.done()
            beat()
            stepped()
    stage.networks.assert_lockstep()


def _evaluation(worker: Worker[Job], stage: Stage, epoch: int) -> Figures:
    """Return the retrieval figures, where there are any, after an epoch that is evaluated."""
    config, retrieval = worker.job.config, worker.job.retrieval
    within, number = epoch - stage.epochs.start, len(stage.epochs)
    is_due = within + 1 == number or (stage.is_last and config.evaluate.due(within, number))
    if retrieval is None or not is_due:
        return {}
    encoder = stage.networks.encoder
    with encoder.spans("evaluate"):
        return evaluated(
            encoder,
            worker.fanout,
            retrieval,
            worker.job.folder,
            config.evaluate,
            config.extract,
            record=epoch + 1 == config.epochs,
        )


_RETRIEVAL: Mapping[str, Callable[[float], str]] = {
    "eval/mAP": "mAP {:.3f}".format,
    "eval/rank1": "rank-1 {:.3f}".format,
}


def _log_epoch(config: StagedConfig, stage: Stage, epoch: int, figures: Figures) -> None:
    parts = [f"epoch {epoch + 1}/{config.epochs}"]
    shown = {**stage.shown, **_RETRIEVAL}
    parts += [text(figures[key]) for key, text in shown.items() if key in figures]
    spans = [f"{name} {figures[f'time/{name}_s']:.1f} s" for name in SPANS if f"time/{name}_s" in figures]
    logger.info(" | ".join([*parts, ", ".join(spans)]))
