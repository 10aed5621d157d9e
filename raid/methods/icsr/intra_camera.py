"""ICSR stage 1: one independent encoder a camera, for the local labels (section 2.2).

Each encoder starts from the same weights and alternates between clustering its camera's images and
training on the clusters. Nothing is carried to stage 2 but the labels.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from raid.data.images import Images
from raid.data.samples import camera_name
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.files import atomic_path
from raid.methods.divergence import diverged
from raid.methods.encoder import device_of
from raid.methods.icsr.clustering import cluster
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.contrastive import ContrastiveEncoder
from raid.methods.icsr.local_labels import write_local_labels
from raid.methods.inputs import Inputs
from raid.methods.stalls import watched
from raid.run_folder import RunFolder

Ints = NDArray[np.int64]
INTRA = 1  # first part of the key of this stage's random numbers
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraJob:
    """What the encoder of any camera needs."""

    config: IcsrConfig
    images: Images
    cameras: Ints
    names: dict[int, str]
    weights: dict[str, Tensor]
    folder: Path  # of the run


def intra_camera(
    config: IcsrConfig, inputs: Inputs, weights: dict[str, Tensor], fanout: FanOut, folder: RunFolder
) -> Ints:
    """Return the local labels (N,) of the training images, numbered within each camera.

    A camera that is done is on disk and is not trained again by a resumed run.
    """
    cameras = inputs.train.cameras
    numbers, sizes = np.unique(cameras, return_counts=True)
    largest_first = [int(camera) for camera in numbers[np.argsort(-sizes, kind="stable")]]
    waiting = [camera for camera in largest_first if not _camera_file(folder, camera).exists()]
    names = {camera: camera_name(inputs.train.camera_names, camera) for camera in largest_first}
    job = CameraJob(config, inputs.train_images, cameras, names, weights, folder.path)
    results = fanout.map(timed_camera, waiting, job)
    bar = tqdm(results, "cameras", len(waiting), disable=None)
    for camera, (result, seconds) in zip(waiting, bar, strict=True):
        _record(folder, config, camera, names[camera], result, seconds)
        table = pa.table({"local_label": result.labels})
        _write_table(table, _camera_file(folder, camera))  # after the record: it says that the camera is done
    labels = np.full(len(cameras), -1, dtype=np.int64)
    for camera in largest_first:
        labels[cameras == camera] = pq.read_table(_camera_file(folder, camera))["local_label"].to_numpy()
    write_local_labels(inputs.train, labels, folder.local_labels)
    return labels


@dataclass(frozen=True)
class CameraResult:
    """The local labels of a camera, -1 = outlier, from its `epoch` (0-based) with this `silhouette`."""

    labels: Ints
    silhouette: float
    epoch: int


def timed_camera(camera: int, job: CameraJob) -> tuple[CameraResult, float]:
    """Return what `train_camera` does, and the seconds it took."""
    started = time.perf_counter()
    result = train_camera(camera, job)
    return result, time.perf_counter() - started


def train_camera(camera: int, job: CameraJob) -> CameraResult:
    """Alternate between clustering and training on one camera; return the clusters that are kept."""
    config = job.config
    images = job.images.take(np.flatnonzero(job.cameras == camera))
    num_clusters = config.intra.clusters_of(len(images))
    best = CameraResult(np.zeros(len(images), dtype=np.int64), -1.0, 0)
    if len(images) == 1:
        return best
    encoder = ContrastiveEncoder(
        config.camera_training, job.weights, Group.solo(), device_of(config.run.device)
    )
    for epoch in range(config.intra.epochs):
        features = encoder.extract(images)
        made = cluster(
            features.numpy().astype(np.float32, copy=False),
            config.intra,
            num_clusters,
            config.neighbors,
            seed=config.seed,
            scratch=config.data.cache_folder,
        )
        labels, silhouette = made.labels, made.silhouette
        for line in made.notes:
            logger.warning("camera %s, epoch %d: %s", job.names[camera], epoch + 1, line)
        if not (labels >= 0).any():
            logger.warning(
                "camera %s, epoch %d: DBSCAN found no cluster (intra.eps, intra.min_samples); training ends",
                job.names[camera],
                epoch + 1,
            )
            return CameraResult(labels, silhouette, epoch) if epoch == 0 else best
        if config.intra.select == "last" or silhouette > best.silhouette:
            best = CameraResult(labels, silhouette, epoch)
        if epoch + 1 == config.intra.epochs:
            break  # the labels of an epoch come before its training: the last training has no use
        encoder.set_learning_rate(epoch)
        memory = encoder.memory(features, labels, config.intra.momentum)
        steps = encoder.train_steps(
            images, labels, None, memory, key=(INTRA, camera, epoch), num_steps=config.intra.steps
        )
        losses = torch.stack(_losses(steps, job.folder, camera, config.run.step_timeout_s))
        if not bool(torch.isfinite(losses).all()):
            step = int(torch.isfinite(losses).logical_not().nonzero()[0])
            raise diverged(
                encoder.rate_path,
                f"camera {job.names[camera]}: the loss of epoch {epoch + 1}, step {step + 1} is "
                f"{float(losses[step])} at the learning rate {encoder.learning_rate:g}",
            )
        logger.info(
            "camera %s, epoch %d/%d | loss %.3f | silhouette %.3f",
            job.names[camera],
            epoch + 1,
            config.intra.epochs,
            losses.mean(),
            silhouette,
        )
    return best


def _losses(steps: Iterator[tuple[int, Tensor]], folder: Path, camera: int, timeout_s: float) -> list[Tensor]:
    """Train the steps of an epoch and return their losses."""
    losses = []
    with watched(folder, f"camera_{camera:04d}", timeout_s) as beat:
        for _, loss in steps:
            losses.append(loss)
            beat()
    return losses


def _record(
    folder: RunFolder, config: IcsrConfig, camera: int, name: str, result: CameraResult, seconds: float
) -> None:
    images, clusters = len(result.labels), int(result.labels.max()) + 1
    line = {"camera": camera, "name": name, "images": images, "seconds": seconds, "clusters": clusters}
    folder.record_camera({**line, "silhouette": float(result.silhouette), "epoch": result.epoch})
    logger.info(
        "camera %s: %d images, %d local clusters, silhouette %.3f (epoch %d of %d), %.1f s",
        name,
        images,
        clusters,
        result.silhouette,
        result.epoch + 1,
        config.intra.epochs,
        seconds,
    )


def _camera_file(folder: RunFolder, camera: int) -> Path:
    return folder.local / f"camera_{camera:04d}.parquet"


def _write_table(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
