"""ICSR stage 2: one encoder for all cameras, trained on refined global clusters (section 2.3)."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from raid import evaluate
from raid.config import to_yaml
from raid.data.sampler import singleton_share
from raid.data.samples import Samples, relabel
from raid.distributed import checkpoint
from raid.distributed.group import Group
from raid.evaluate import RetrievalSet
from raid.health import alarms, cluster_health, label_quality
from raid.losses.cluster_nce import ClusterMemory
from raid.methods.contrastive import Encoder, device_of, similarity_of
from raid.methods.icsr_config import IcsrConfig, Refine
from raid.methods.inputs import Inputs
from raid.ops.centrality import harmonic_centrality
from raid.ops.cluster import agglomerative
from raid.ops.modules import infomap_modules
from raid.ops.refine import refine_labels
from raid.ops.schedule import discard_probability
from raid.run_folder import RunFolder

Ints = NDArray[np.int64]
Figures = dict[str, float]
INTER = 2  # first part of the key of this stage's random numbers
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InterCameraJob:
    """What every worker of stage 2 gets."""

    config: IcsrConfig
    inputs: Inputs
    weights: dict[str, Tensor]
    local_labels: Ints | None
    folder: RunFolder


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


def inter_camera(group: Group, job: InterCameraJob) -> None:
    """Train the encoder of all cameras; every worker of `group` calls this."""
    config = job.config
    encoder = Encoder(config.training, job.weights, group, device_of(config.run.device))
    progress = _resumed(encoder, job)
    while progress.epoch < config.inter.epochs:
        encoder.set_learning_rate(progress.epoch)
        times: Figures = {}
        if progress.labels is None:
            with _timed(times, "time/cluster_s"):
                _cluster(encoder, job, progress)
        with _timed(times, "time/train_s"):
            _train(encoder, job, progress)
        figures = {**progress.figures, "train/loss": float(torch.stack(progress.losses).mean())}
        if job.inputs.retrieval is not None and config.evaluate.due(progress.epoch, config.inter.epochs):
            with _timed(times, "time/evaluate_s"):
                figures |= evaluated(encoder, job.inputs.retrieval, config.evaluate.ap)
        if group.is_first:
            job.folder.record_epoch(
                {"epoch": progress.epoch, **figures, **times}, torch.stack(progress.losses).tolist()
            )
            _log_epoch(config, progress.epoch, {**figures, **times})
        progress = Progress(progress.epoch + 1, global_labels=progress.global_labels)
        _save(encoder, job, progress)
    if group.is_first:
        content = {"model": encoder.model.state_dict(), "config": to_yaml(config)}
        checkpoint.write_tensors(job.folder.model, content)


def _cluster(encoder: Encoder, job: InterCameraJob, progress: Progress) -> None:
    """Begin an epoch: extract, cluster, refine, and build the memory of the refined clusters."""
    features = encoder.extract(job.inputs.train_images)
    made = encoder.group.once(
        lambda: assign_labels(
            features.numpy().astype(np.float32),
            job.inputs.train,
            job.local_labels,
            job.config,
            progress.epoch,
            progress.global_labels,
        )
    )
    if encoder.group.is_first:
        for line in made.notes:
            logger.warning("epoch %d: %s", progress.epoch + 1, line)
    progress.global_labels, progress.labels, progress.figures = made.global_labels, made.labels, made.figures
    progress.memory = encoder.memory(features, made.labels, job.config.inter.momentum)


def _train(encoder: Encoder, job: InterCameraJob, progress: Progress) -> None:
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
    for step, loss in bar:
        progress.losses.append(loss)
        progress.step = step + 1
        if config.run.checkpoint_steps and progress.step % config.run.checkpoint_steps == 0:
            _save(encoder, job, progress)
    encoder.assert_lockstep(progress.memory)


@dataclass(frozen=True)
class EpochLabels:
    """The clusters of an epoch: labels (N,), -1 = outlier or discarded, and what is to be said of them."""

    global_labels: Ints
    labels: Ints
    figures: Figures
    notes: list[str]


def assign_labels(
    features: NDArray[np.float32],
    train: Samples,
    local_labels: Ints | None,
    config: IcsrConfig,
    epoch: int,
    previous_labels: Ints | None,
) -> EpochLabels:
    """Cluster all images and refine the clusters with the local labels.

    Args:
        features: (N, D) float32 unit rows.
        train: the N training images.
        local_labels: (N,) of stage 1; None without refinement.
        config: of the run.
        epoch: 0-based.
        previous_labels: (N,) global labels of the epoch before, for the churn.
    """
    cameras = train.cameras if train.has_cameras else None
    similarity = similarity_of(features, config.neighbors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        global_labels = agglomerative(similarity, num_clusters=config.inter.num_clusters)
    notes = [str(warning.message) for warning in caught]
    refined = global_labels
    figures: Figures = {}
    if config.refine.enabled:
        assert cameras is not None
        assert local_labels is not None
        refined, figures = refined_labels(features, global_labels, local_labels, cameras, config, epoch)
    figures |= cluster_health(
        global_labels, refined, cameras=cameras, similarity=similarity, previous_labels=previous_labels
    )
    figures["sampler/singleton_share"] = singleton_share(refined)
    figures |= label_quality(train.identities, global_labels, refined, local_labels, cameras)
    notes += [f"ALARM: {line}" for line in alarms(figures, len(features))]
    return EpochLabels(global_labels, relabel(refined), figures, notes)


def refined_labels(
    features: NDArray[np.float32],
    global_labels: Ints,
    local_labels: Ints,
    cameras: Ints,
    config: IcsrConfig,
    epoch: int,
) -> tuple[Ints, Figures]:
    """Discard what the local labels contradict (equations 1 and 2); return labels (N,) and figures."""
    chosen: Refine = config.refine
    probability = discard_probability(
        chosen.decay, epoch, config.inter.epochs, horizon=chosen.horizon, start=chosen.start, end=chosen.end
    )
    scores = harmonic_centrality(
        features,
        num_neighbors=chosen.num_neighbors,
        cutoff=chosen.score_cutoff,
        include_self=chosen.include_self,
    )
    modules = None
    if chosen.referee == "infomap_last":
        modules = infomap_modules(features, num_neighbors=chosen.num_neighbors, seed=config.seed)
    labels = refine_labels(
        global_labels,
        local_labels,
        cameras,
        scores,
        discard_probability=probability,
        seed=config.seed,
        epoch=epoch,
        referee=chosen.referee,
        coin=chosen.coin,
        require_above_mean=chosen.require_above_mean,
        modules=modules,
    )
    return labels, {"refine/discard_probability": probability}


def evaluated(encoder: Encoder, retrieval: RetrievalSet, ap: str) -> Figures:
    """Return the retrieval figures of the encoder as it is; every worker calls this."""
    query = encoder.extract(retrieval.query_images).numpy().astype(np.float32)
    gallery = encoder.extract(retrieval.gallery_images).numpy().astype(np.float32)
    return encoder.group.once(lambda: evaluate.metrics(retrieval.rank(query, gallery, ap=ap)))


def _save(encoder: Encoder, job: InterCameraJob, progress: Progress) -> None:
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


def _resumed(encoder: Encoder, job: InterCameraJob) -> Progress:
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


@contextmanager
def _timed(times: Figures, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    times[name] = time.monotonic() - started


def _log_epoch(config: IcsrConfig, epoch: int, figures: Figures) -> None:
    parts = [
        f"epoch {epoch + 1}/{config.inter.epochs}",
        f"loss {figures['train/loss']:.3f}",
        f"{figures['cluster/num']:.0f} clusters, coverage {figures['cluster/coverage']:.0%}",
    ]
    if config.refine.enabled:
        parts.append(f"discarded {figures['refine/discarded']:.1%}")
    if "eval/mAP" in figures:
        parts.append(f"mAP {figures['eval/mAP']:.3f}, rank-1 {figures['eval/rank1']:.3f}")
    parts.append(f"{sum(value for key, value in figures.items() if key.startswith('time/')):.1f} s")
    logger.info(" | ".join(parts))
