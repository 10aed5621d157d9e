"""Stages 2 to 4 of SLSR between its two trainings: clusters, GANs and their images, all on the pool."""

import logging
from functools import partial

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.distributed.backend import Backend
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.methods.encoder import EncoderSettings, build_model, finite
from raid.methods.pool_extraction import extract_on_pool
from raid.methods.slsr.clusters import Clustered, cluster_images
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.gan_job import GanJob
from raid.methods.slsr.gans import epoch_records, train_gans
from raid.methods.slsr.generation import generate_images
from raid.methods.slsr.inputs import SlsrInputs
from raid.methods.slsr.weights import read_baseline
from raid.models.backbone import Backbone
from raid.run_folder import RunFolder
from raid.spans import Spans

logger = logging.getLogger(__name__)


def make_images(
    config: SlsrConfig, inputs: SlsrInputs, folder: RunFolder, backend: Backend, spans: Spans
) -> None:
    """Make clusters.npz, gans/ and generated.*, each unless it is there, and record the GANs' epochs.

    Args:
        config: of the run.
        inputs: its images.
        folder: of the run, with baseline.pt.
        backend: whose pool does everything.
        spans: of the driver.

    Raises:
        InputError: a GAN has diverged, or there is nothing to train one on.
    """
    if not folder.generated_facts.exists():  # the last that is made: no pool is opened for nothing
        _make(config, inputs, folder, backend, spans)
    _record(config, Clustered.read(folder.clusters), folder, spans)


def _make(config: SlsrConfig, inputs: SlsrInputs, folder: RunFolder, backend: Backend, spans: Spans) -> None:
    train = inputs.inputs.train_images
    with backend.pool(config.clusters.num_clusters) as fanout:
        model, settings = _baseline(config, inputs, folder)
        clustered = _clustered(config, inputs, model, settings, folder, fanout, spans)
        job = GanJob(
            config.gan,
            config.seed,
            config.run.device,
            train,
            clustered.clusters,
            config.clusters.num_clusters,
            folder.gans,
            blur=config.run.blur,
        )
        with spans("gan"):
            train_gans(job, fanout)
        with spans("generate"):
            features_of = partial(_features, model, settings, fanout)
            generate_images(job, config.generated, fanout, folder.path, features_of)


def _baseline(config: SlsrConfig, inputs: SlsrInputs, folder: RunFolder) -> tuple[Backbone, EncoderSettings]:
    settings = config.as_baseline.encoder()
    weights = read_baseline(folder.baseline, config, inputs.inputs.train.fingerprint())
    model = build_model(settings, Group.solo()).to(dtype=settings.dtype)
    model.load_state_dict(weights.model)
    return model, settings


def _clustered(
    config: SlsrConfig,
    inputs: SlsrInputs,
    model: Backbone,
    settings: EncoderSettings,
    folder: RunFolder,
    fanout: FanOut,
    spans: Spans,
) -> Clustered:
    if folder.clusters.exists():
        return Clustered.read(folder.clusters)
    with spans("extract"):
        images = inputs.inputs.train_images
        found = extract_on_pool(model, settings, images, fanout, kind=config.clusters.features)
        features = finite(found.float(), "baseline.learning_rate").numpy()
    with spans("cluster"):
        shared = fanout.share(features)
        items = [(config.clusters, config.seed)]
        (clustered,) = fanout.map(cluster_images, items, shared, inputs.labels)
    clustered.write(folder.clusters)
    logger.info(
        "%d clusters of %s images, silhouette %.3f",
        config.clusters.num_clusters,
        ", ".join(map(str, np.bincount(clustered.clusters))),
        clustered.silhouette,
    )
    return clustered


def _features(
    model: Backbone, settings: EncoderSettings, fanout: FanOut, images: Images
) -> NDArray[np.float32]:
    return extract_on_pool(model, settings, images, fanout).numpy().astype(np.float32, copy=False)


def _record(config: SlsrConfig, clustered: Clustered, folder: RunFolder, spans: Spans) -> None:
    """Record the GANs' epochs, once: a run that is resumed in its fine-tuning has them."""
    first = config.baseline_epochs
    if any(line["epoch"] >= first + config.gan_epochs - 1 for line in folder.metrics()):
        return
    folder.forget_from(first)
    lines = epoch_records(folder.gans)
    for number, line in enumerate(lines):
        if number == 0:
            line |= clustered.figures() | spans.take()
        folder.record_epoch({"epoch": first + number, **line}, [])
