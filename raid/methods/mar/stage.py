"""The epochs of a stage of MAR: what pretraining and adaptation have in common."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from raid.config import to_yaml
from raid.data.sampler import shuffled_batches
from raid.data.streams import SAMPLING, stream
from raid.distributed import checkpoint
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.methods.epoch_evaluation import evaluated
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import BothStatistics, MarInputs
from raid.methods.mar.networks import Networks, check_loss
from raid.methods.mar.weights import Weights, as_content
from raid.run_folder import RunFolder

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
    "evaluate",
    "checkpoint",
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MarJob:
    """What every worker gets."""

    config: MarConfig
    inputs: MarInputs
    statistics: BothStatistics
    weights: Weights  # that the first stage of this run starts from
    folder: RunFolder
    before: Figures  # seconds of what came before, "time/NAME_s"
    started: float  # when the workers were asked for, in seconds since the epoch


@dataclass(frozen=True)
class Worker:
    """One of the workers: who it is, and what it has."""

    group: Group
    fanout: FanOut
    job: MarJob
    device: torch.device


@dataclass
class Progress:
    """How far the run is; epochs count over both stages."""

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
    def rate_path(self) -> str:
        """The field of its learning rate."""

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""

    def step(self, epoch: int, step: int) -> dict[str, Tensor]:
        """Train on one global batch; return its `loss` and what else an epoch averages."""

    def end_epoch(self, epoch: int, means: Figures) -> tuple[Figures, dict[str, Any] | None]:
        """Return an epoch's figures, from the means over its steps, and its line of mining.jsonl, if any."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it beside the networks; every worker calls this."""


def train_stage(worker: Worker, stage: Stage, progress: Progress) -> None:
    """Train the epochs of a stage that are still to come; every worker calls this."""
    config, spans = worker.job.config, stage.networks.encoder.spans
    while progress.epoch < stage.epochs.stop:
        epoch = progress.epoch
        stage.networks.set_learning_rate(stage.rate(epoch))
        first_step = progress.step
        with spans("train"):
            _train(worker, stage, progress)
        means = {name: float(torch.stack(values).mean()) for name, values in progress.parts.items()}
        figures, details = stage.end_epoch(epoch, means)
        figures["train/learning_rate"] = stage.rate(epoch)
        figures |= _evaluation(worker, stage, epoch)
        figures |= progress.before | spans.take()
        figures["time/step_s"] = figures["time/train_s"] / max(1, progress.step - first_step)
        if worker.group.is_first:
            losses = torch.stack(progress.parts["loss"]).tolist()
            worker.job.folder.record_epoch({"epoch": epoch, **figures}, losses, details)
            _log_epoch(config, epoch, figures)
        worker.group.report(figures)
        progress.epoch, progress.step, progress.parts, progress.before = epoch + 1, 0, {}, {}
        with spans("checkpoint"):
            save(worker, stage, progress)


def batches(
    worker: Worker, stage_key: int, num_images: int, batch_size: int, *, first: int, num_batches: int
) -> Ints:
    """Return the rows of the global batches number `first` and on, (num_batches, batch_size)."""
    seed = worker.job.config.seed
    return shuffled_batches(
        num_images,
        batch_size,
        first=first,
        num_batches=num_batches,
        stream_of=lambda number: stream(seed, SAMPLING, stage_key, number),
    )


def save(worker: Worker, stage: Stage, progress: Progress) -> None:
    """Write the full state; the workers are in lockstep, so the first one's is everybody's."""
    of_stage = stage.state()  # gathers what the workers hold parts of
    if not worker.group.is_first:
        return
    networks, run = stage.networks, worker.job.config.run
    state = {
        "stage": stage.name,
        "model": networks.encoder.model.state_dict(),
        "agents": networks.agents.detach(),
        "optimizer": networks.optimizer.state_dict(),
        "random": checkpoint.random_state(),
        "parts": {name: torch.stack(values) for name, values in progress.parts.items()},
        "of_stage": of_stage,
    }
    folder = worker.job.folder.checkpoints
    checkpoint.save(folder, state, epoch=progress.epoch, step=progress.step, keep=run.keep_checkpoints)


def restore(networks: Networks, progress: Progress, state: dict[str, Any]) -> None:
    """Put a checkpoint into the networks, and where it stands into `progress`."""
    networks.encoder.model.load_state_dict(state["model"])
    with torch.no_grad():
        networks.agents.copy_(state["agents"])
    networks.optimizer.load_state_dict(state["optimizer"])
    checkpoint.set_random_state(state["random"])
    device = networks.encoder.device
    progress.epoch, progress.step = state["epoch"], state["step"]
    progress.parts = {name: list(values.to(device).unbind()) for name, values in state["parts"].items()}


def write_model(worker: Worker, weights: Weights, path: str) -> None:
    """Write the networks, and all that their use needs, to a file of the run folder."""
    job = worker.job
    if worker.group.is_first:
        content = {
            "method": "mar",
            **as_content(weights, job.inputs.source),
            "mean": list(job.statistics.target.mean),
            "std": list(job.statistics.target.std),
            "config": to_yaml(job.config),
        }
        checkpoint.write_tensors(job.folder.path / path, content)


def _train(worker: Worker, stage: Stage, progress: Progress) -> None:
    """Train the steps of an epoch that are still to come."""
    epoch, run = progress.epoch, worker.job.config.run
    bar = tqdm(
        range(progress.step, stage.num_steps),
        f"{stage.name} {epoch - stage.epochs.start + 1}/{len(stage.epochs)}",
        stage.num_steps,
        initial=progress.step,
        unit="step",
        leave=False,
        disable=None if worker.group.is_first else True,  # None: shown on a terminal only
    )
    for step in bar:
        found = stage.step(epoch, step)
        check_loss(found["loss"], epoch, step, stage.rate_path)
        for name, value in found.items():
            progress.parts.setdefault(name, []).append(value)
        progress.step = step + 1
        is_due = run.checkpoint_steps > 0 and progress.step % run.checkpoint_steps == 0
        if is_due or progress.step == stage.num_steps:
            stage.networks.check_weights(epoch, step, stage.rate_path)
        if is_due:
            save(worker, stage, progress)
    stage.networks.assert_lockstep()


def _evaluation(worker: Worker, stage: Stage, epoch: int) -> Figures:
    """Return the retrieval figures, where there are any: of stage 1 after its last epoch alone."""
    config, retrieval = worker.job.config, worker.job.inputs.target.retrieval
    within, number = epoch - stage.epochs.start, len(stage.epochs)
    is_due = within + 1 == number or (stage.name != "pretraining" and config.evaluate.due(within, number))
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


_SHOWN: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("pretraining/loss", "loss {:.3f}".format),
    ("pretraining/accuracy", "accuracy {:.1%}".format),
    ("train/loss", "loss {:.3f}".format),
    ("source/accuracy", "source accuracy {:.1%}".format),
    ("mining/positives", "{:.1f} positive".format),
    ("mining/negatives", "{:.1f} hard negative pairs a step".format),
    ("mining/threshold", "T {:.3f}".format),
    ("eval/mAP", "mAP {:.3f}".format),
    ("eval/rank1", "rank-1 {:.3f}".format),
)


def _log_epoch(config: MarConfig, epoch: int, figures: Figures) -> None:
    parts = [f"epoch {epoch + 1}/{config.epochs}"]
    parts += [shown(figures[key]) for key, shown in _SHOWN if key in figures]
    spans = [f"{name} {figures[f'time/{name}_s']:.1f} s" for name in SPANS if f"time/{name}_s" in figures]
    logger.info(" | ".join([*parts, ", ".join(spans)]))
