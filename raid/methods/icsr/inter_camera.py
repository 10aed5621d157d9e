"""ICSR stage 2: one encoder for all cameras, trained on refined global clusters (section 2.3)."""

import logging
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from raid.config import to_yaml
from raid.distributed import checkpoint
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.losses.cluster_nce import ClusterMemory
from raid.methods.divergence import LossCheck, check_weights
from raid.methods.encoder import device_of
from raid.methods.epoch_evaluation import evaluated
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.contrastive import ContrastiveEncoder
from raid.methods.icsr.epoch_labels import assign_labels
from raid.methods.inputs import Inputs
from raid.methods.pool_extraction import features_of
from raid.methods.profiling import profiled
from raid.methods.saving import Saving
from raid.methods.stalls import watched
from raid.run_folder import RunFolder
from raid.spans import pace

Ints = NDArray[np.int64]
Figures = dict[str, float]
INTER = 2  # first part of the key of this stage's random numbers
SPANS = (
    "prepare",
    "intra_camera",
    "startup",
    "extract",
    "cluster",
    "train",
    "data_wait",
    "collective",
    "evaluate",
    "checkpoint",
)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InterCameraJob:
    """What every worker of stage 2 gets."""

    config: IcsrConfig
    inputs: Inputs
    weights: dict[str, Tensor]
    local_labels: Ints | None
    folder: RunFolder
    before: Figures  # seconds of what came before, "time/NAME_s"
    started: float  # when the workers were asked for, in seconds since the epoch


@dataclass
class Progress:
    """How far the training is: what a checkpoint holds beside the encoder."""

    epoch: int = 0
    step: int = 0
    global_labels: Ints | None = None  # of the latest clustering, before refinement
    labels: Ints | None = None  # refined, 0..K-1 and -1; None until the epoch has clustered
    memory: ClusterMemory | None = None
    losses: list[Tensor] = field(default_factory=list)  # of the epoch's steps up to here
    figures: Figures = field(default_factory=dict)  # of the epoch's clustering


def inter_camera(group: Group, fanout: FanOut, job: InterCameraJob) -> None:
    """Train the encoder of all cameras; every worker of `group` calls this.

    Args:
        group: the workers.
        fanout: where blocks of rows run between epochs.
        job: the same on every worker.
    """
    config = job.config
    encoder = ContrastiveEncoder(config.training, job.weights, group, device_of(config.run.device))
    progress = _resumed(encoder, job)
    spans = encoder.spans
    spans.add("startup", time.time() - job.started)
    before = job.before
    while progress.epoch < config.inter.epochs:
        encoder.set_learning_rate(progress.epoch)
        if progress.labels is None:
            _cluster(encoder, fanout, job, progress)
        first_step = progress.step
        with encoder.training_time():
            _train(encoder, job, progress)
        figures = {**progress.figures, "train/loss": float(torch.stack(progress.losses).mean())}
        if job.inputs.retrieval is not None and config.evaluate.due(progress.epoch, config.inter.epochs):
            with spans("evaluate"):
                is_last = progress.epoch + 1 == config.inter.epochs
                figures |= evaluated(
                    encoder,
                    fanout,
                    job.inputs.retrieval,
                    job.folder,
                    config.evaluate,
                    config.extract,
                    record=is_last,
                )
        figures |= before | spans.take()
        before = {}
        figures |= pace(figures, progress.step - first_step, config.training.sampler.batch_size)
        if group.is_first:
            losses = torch.stack(progress.losses).tolist()
            job.folder.record_epoch({"epoch": progress.epoch, **figures}, losses)
            _log_epoch(config, progress.epoch, figures)
        group.report(progress.epoch, figures, {"run": job.folder.name, "method": config.method})
        progress = Progress(progress.epoch + 1, global_labels=progress.global_labels)
        with spans("checkpoint"):
            _save(encoder, job, progress)
    if group.is_first:
        content = {"model": encoder.model.state_dict(), "config": to_yaml(config)}
        checkpoint.write_tensors(job.folder.model, content)


def _cluster(encoder: ContrastiveEncoder, fanout: FanOut, job: InterCameraJob, progress: Progress) -> None:
    """Begin an epoch: extract, cluster, refine, and build the memory of the refined clusters."""
    with encoder.spans("extract"):
        features = features_of(encoder, job.inputs.train_images, fanout, job.config.extract.on)
    with encoder.spans("cluster"):
        made = encoder.group.once(
            lambda: assign_labels(
                features.numpy().astype(np.float32, copy=False),
                job.inputs.train,
                job.local_labels,
                job.config,
                progress.epoch,
                progress.global_labels,
                fanout.map,
            )
        )
    if encoder.group.is_first:
        for line in made.notes:
            logger.warning("epoch %d: %s", progress.epoch + 1, line)
    # Copies: what comes from an object store is read-only.
    progress.global_labels, progress.labels = made.global_labels.copy(), made.labels.copy()
    progress.figures = made.figures
    progress.memory = encoder.memory(features, progress.labels, job.config.inter.momentum)


def _train(encoder: ContrastiveEncoder, job: InterCameraJob, progress: Progress) -> None:
    """Train the steps of an epoch that are still to come."""
    assert progress.labels is not None
    assert progress.memory is not None
    config, train = job.config, job.inputs.train
    steps = encoder.train_steps(
        job.inputs.train_images,
        progress.labels,
        train.cameras if train.has_cameras else None,
        progress.memory,
        key=(INTER, progress.epoch),
        num_steps=config.inter.steps,
        first_step=progress.step,
    )
    bar = tqdm(
        steps,
        f"epoch {progress.epoch + 1}/{config.inter.epochs}",
        config.inter.steps,
        initial=progress.step,
        unit="step",
        leave=False,
        disable=None if encoder.group.is_first else True,  # None: shown on a terminal only
    )
    saving = Saving(encoder.group, config.run, job.folder)
    check = LossCheck(encoder, job.folder, encoder.rate_path)
    profiling = profiled(
        config.run,
        job.folder,
        encoder.group,
        encoder.device,
        num_steps=config.inter.steps - progress.step,
        images=config.training.sampler.batch_size // encoder.group.size,
    )
    name = f"worker_{encoder.group.rank}"
    with watched(job.folder.path, name, config.run.step_timeout_s) as beat, profiling as stepped:
        for step, loss in bar:
            check.see(loss, epoch=progress.epoch, step=step, rate=encoder.learning_rate)
            progress.losses.append(loss)
            progress.step = step + 1
            is_due = saving.due(progress.step)
            if is_due or progress.step == config.inter.steps:
                check.settle()
                weights = list(encoder.model.state_dict().values())
                check_weights(weights, epoch=progress.epoch, step=step, path=encoder.rate_path)
            if is_due:
                _save(encoder, job, progress)
                saving.done()
            beat()
            stepped()
    encoder.assert_lockstep(progress.memory.centroids)


def _save(encoder: ContrastiveEncoder, job: InterCameraJob, progress: Progress) -> None:
    """Write the full state; the workers are in lockstep, so the first one's is everybody's."""
    if not encoder.group.is_first:
        return
    state = {
        "model": encoder.model.state_dict(),
        "optimizer": encoder.optimizer.state_dict(),
        "random": checkpoint.random_state(),
        "global_labels": _tensor(progress.global_labels),
        "labels": _tensor(progress.labels),
        "centroids": None if progress.memory is None else progress.memory.centroids,
        "losses": progress.losses,
        "figures": progress.figures,
    }
    run = job.config.run
    checkpoint.save(
        job.folder.checkpoints, state, epoch=progress.epoch, step=progress.step, keep=run.keep_checkpoints
    )


def _resumed(encoder: ContrastiveEncoder, job: InterCameraJob) -> Progress:
    """Put the latest checkpoint into the encoder and return where it stands; from the start without."""
    path = checkpoint.latest(job.folder.checkpoints)
    encoder.group.barrier()  # all have looked before anybody writes a newer one
    if path is None:
        if encoder.group.is_first:
            job.folder.forget_from(0)
        return Progress()
    state = checkpoint.load(path)
    encoder.model.load_state_dict(state["model"])
    encoder.optimizer.load_state_dict(state["optimizer"])
    checkpoint.set_random_state(state["random"])
    if encoder.group.is_first:
        job.folder.forget_from(state["epoch"])
        logger.info("going on from epoch %d, step %d (%s)", state["epoch"] + 1, state["step"], path.name)
    memory = None
    if state["centroids"] is not None:
        centroids = state["centroids"].to(encoder.device)
        memory = ClusterMemory(centroids, momentum=job.config.inter.momentum)
    return Progress(
        epoch=state["epoch"],
        step=state["step"],
        global_labels=_array(state["global_labels"]),
        labels=_array(state["labels"]),
        memory=memory,
        losses=[loss.to(encoder.device) for loss in state["losses"]],
        figures=state["figures"],
    )


def _tensor(labels: Ints | None) -> Tensor | None:
    return None if labels is None else torch.from_numpy(labels)


def _array(labels: Tensor | None) -> Ints | None:
    return None if labels is None else labels.numpy()


def _log_epoch(config: IcsrConfig, epoch: int, figures: Figures) -> None:
    parts = [
        f"epoch {epoch + 1}/{config.inter.epochs}",
        f"loss {figures['train/loss']:.3f}",
        f"{figures['cluster/num']:.0f} clusters, coverage {figures['cluster/coverage']:.0%}",
    ]
    if config.refine.enabled:
        parts.append(f"discarded {figures['refine/discarded']:.1%}")
    if "neighbors/recall" in figures:
        parts.append(f"recall of the neighbours {figures['neighbors/recall']:.2f}")
    if "eval/mAP" in figures:
        parts.append(f"mAP {figures['eval/mAP']:.3f}, rank-1 {figures['eval/rank1']:.3f}")
    parts.append(
        ", ".join(
            f"{name} {figures[f'time/{name}_s']:.1f} s" for name in SPANS if f"time/{name}_s" in figures
        )
    )
    logger.info(" | ".join(parts))
