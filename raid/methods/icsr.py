"""ICSR: pseudo-label refinement with intra-camera similarity, from images to a trained model.

Source: Li et al., "Pseudo labels refinement with intra-camera similarity for unsupervised person
re-identification". The recipe, in the paper's order:

1. Intra-camera training (section 2.2): one independent encoder a camera alternates between clustering the
   camera's images and training on the clusters. What stays are the local labels.
2. Inter-camera training (section 2.3): one encoder for all cameras. Every epoch clusters all images, lets
   information nodes (equation 1) discard the members of their cluster that the local labels contradict
   (equation 2), with a probability that decays, and trains on what is left (equations 3 and 4).

Supports any number of workers with the same result, resumption after any step, sets without a query and a
gallery (no evaluation), and `refine.enabled=false`: Cluster-Contrast with agglomerative clustering.

Raises InputError for what the user can mend: see `run`.
"""

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np

from raid.data.samples import Samples
from raid.distributed.backend import Backend, LocalBackend
from raid.errors import InputError
from raid.methods.contrastive import device_of, starting_weights
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import Inputs, camera_name, open_inputs
from raid.methods.inter_camera import InterCameraJob, inter_camera
from raid.methods.intra_camera import intra_camera
from raid.report import write_report
from raid.run_folder import RunFolder
from raid.spans import Spans
from raid.tracking import follow

logger = logging.getLogger(__name__)


def run(
    config: IcsrConfig, backend: Backend | None = None, *, resume: bool = False, fresh: bool = False
) -> RunFolder:
    """Train and evaluate as `config` says; return the folder with everything that came of it.

    Args:
        config: resolved and checked.
        backend: where the workers and the pool are; None: on this machine, without Ray.
        resume: go on with the run that `run.folder` holds.
        fresh: start the run in `run.folder` over.

    Raises:
        InputError: the images, the weights or the run folder do not fit the configuration. Nothing has
            been written then.
    """
    backend, spans = backend or local_backend(config), Spans()
    with spans("prepare"):
        inputs = open_inputs(config.data)
        check(config, inputs)
        weights = starting_weights(config.training)
        backend.prepare(config.run.folder)
    folder = RunFolder.open(config.run.folder, config, inputs.fingerprint, resume=resume, fresh=fresh)
    folder = RunFolder(folder.path.absolute())  # a worker may have another working directory
    with _tracked(config, folder):
        local_labels = None
        if config.refine.enabled:
            with spans("intra_camera"), backend.pool(len(np.unique(inputs.train.cameras))) as fanout:
                local_labels = intra_camera(config, inputs, weights, fanout, folder)
        job = InterCameraJob(config, inputs, weights, local_labels, folder, spans.take(), time.time())
        backend.run_workers(inter_camera, job)
        try:
            write_report(folder, inputs.retrieval)
        except InputError as error:  # a full disk, say: the training is done all the same
            logger.warning("no report: %s", error)
    return folder


def _tracked(config: IcsrConfig, folder: RunFolder) -> AbstractContextManager[None]:
    if not config.track.enabled:
        return nullcontext()
    return follow(folder, config.track.experiment, {"method": "icsr"})


def local_backend(config: IcsrConfig) -> LocalBackend:
    """Return this machine, without Ray."""
    on_gpu = device_of(config.run.device).type == "cuda"
    return LocalBackend(workers=config.run.workers, threads=config.numerics.threads, on_gpu=on_gpu)


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


def check(config: IcsrConfig, inputs: Inputs) -> None:
    """Compare the configuration with the images; warn of what is adjusted.

    Raises:
        InputError: a combination that cannot work.
    """
    if config.model.batch_norm == "local" and config.run.workers > 1:
        logger.warning("model.batch_norm=local: the result depends on run.workers=%d", config.run.workers)
    train = inputs.train
    if config.inter.num_clusters > len(train):
        raise InputError(
            f"inter.num_clusters: {config.inter.num_clusters} clusters of {len(train)} training images; "
            "ask for fewer"
        )
    if config.inter.num_clusters == len(train) and config.sampler.singletons == "skip":
        raise InputError(
            f"inter.num_clusters: {len(train)} clusters of as many images, and sampler.singletons=skip draws "
            "none of one image; ask for fewer"
        )
    _warn_of_clipping("neighbors.k1", config.neighbors.k1, len(train), "the training set")
    if config.refine.enabled:
        _check_refinement(config, train)


def _check_refinement(config: IcsrConfig, train: Samples) -> None:
    if config.refine.referee == "infomap_last" and find_spec("infomap") is None:
        raise InputError(
            "refine.referee: infomap_last needs the package infomap: pip install 'raid[infomap]', "
            "or choose another referee"
        )
    if not train.has_cameras:
        raise InputError(
            "data.root: some training images have no camera, and ICSR trains one encoder a camera; "
            "give the cameras, or train the baseline with refine.enabled=false"
        )
    for camera, count in zip(*np.unique(train.cameras, return_counts=True), strict=True):
        name, clusters = camera_name(train, camera), config.intra.clusters_of(count)
        if clusters > count:
            raise InputError(
                f"intra.num_clusters: {clusters} clusters of the {count} images of camera {name}; "
                "ask for fewer, or for a share such as n//5"
            )
        if count == 1:
            logger.warning("camera %s has one image: it is a local cluster by itself", name)
        elif clusters == count and config.sampler.singletons == "skip":
            raise InputError(
                f"intra.num_clusters: {clusters} clusters of as many images of camera {name}, and "
                "sampler.singletons=skip draws none of one image; ask for fewer"
            )
        else:
            _warn_of_clipping("neighbors.k1", config.neighbors.k1, count, f"camera {name}")


def _warn_of_clipping(field: str, value: int, count: int, what: str) -> None:
    if value > count:
        logger.warning("%s: %d is clipped to the %d images of %s", field, value, count, what)
