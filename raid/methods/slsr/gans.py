"""SLSR stage 3: one DCGAN a cluster, on the pool (methods.md 4.1 (3)).

The release trains them by hand, one after the other, from a parent that was trained on all images; here they
are trained at the same time, with the parent where `gan.parent` asks for it.
"""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from raid.distributed.fanout import FanOut
from raid.errors import InputError
from raid.methods.slsr.gan_job import PARENT, GanJob, GanResult, named, read_result
from raid.methods.slsr.gan_training import train_gan

_NAME = re.compile(r"parent|cluster_(\d+)")
logger = logging.getLogger(__name__)


def train_gans(job: GanJob, fanout: FanOut) -> list[GanResult]:
    """Train the GANs that are not there yet; return the results of all clusters that have one, in order.

    A GAN that is done is on disk and is not trained again by a resumed run, and one that was interrupted goes
    on at its latest epoch. A cluster of fewer than gan.min_images images is left out, with a warning.

    Args:
        job: the clusters, and where the GANs go.
        fanout: the pool; its processes see `job.folder`.

    Raises:
        InputError: every cluster is too small, or a training has diverged.
    """
    job = replace(job, folder=job.folder.absolute())  # processes of the pool may be in other folders
    _leave_out_small_clusters(job)
    sizes = job.sizes
    largest_first = sorted(job.with_gan, key=lambda cluster: -sizes[cluster])
    waiting = [cluster for cluster in largest_first if not job.is_done(cluster)]
    shared = fanout.share(job)
    if waiting and job.gan.parent == "all_images" and not job.is_done(PARENT):
        _train([PARENT], shared, fanout, "parent GAN")
    if waiting:
        _train(waiting, shared, fanout, "GANs")
    for cluster in (*job.with_gan, PARENT):  # of one that was killed just after it was done
        (job.place(cluster) / "checkpoint.pt").unlink(missing_ok=True)
    return [read_result(job.place(cluster)) for cluster in job.with_gan]


def epoch_records(folder: Path) -> list[dict[str, float]]:
    """Merge the epochs of all GANs in `folder` (gans/ of a run): a line an epoch, for metrics.jsonl.

    The keys are gan/cluster_0/real, .../fake, .../generator and .../variance_ratio, and gan/parent/... for a
    parent, whose epochs share the lines of the others'. A variance ratio that is not known has no key.
    """
    merged: list[dict[str, float]] = []
    for place in sorted(folder.iterdir(), key=lambda place: (len(place.name), place.name)):
        match = _NAME.fullmatch(place.name)
        if match is None or not (place / "epochs.jsonl").exists():
            continue
        name = "parent" if match[1] is None else f"cluster_{int(match[1])}"
        for text in (place / "epochs.jsonl").read_text().splitlines():
            line: dict[str, Any] = json.loads(text)
            epoch = line.pop("epoch")
            merged.extend({} for _ in range(epoch + 1 - len(merged)))
            merged[epoch] |= {f"gan/{name}/{key}": value for key, value in line.items() if value is not None}
    return merged


def _train(clusters: list[int], job: GanJob, fanout: FanOut, name: str) -> None:
    results = fanout.map(train_gan, clusters, job)
    for result in tqdm(results, name, len(clusters), disable=None):
        logger.info(
            "GAN of %s: %d images, %d steps in %.0f s",
            named(result.cluster),
            result.images,
            result.steps,
            result.ended - result.started,
        )
        for alarm in result.alarms:
            logger.warning(alarm)


def _leave_out_small_clusters(job: GanJob) -> None:
    for cluster in np.flatnonzero(job.sizes < job.gan.min_images):
        logger.warning(
            "cluster %d has %d images, fewer than gan.min_images=%d: it gets no GAN and no generated images",
            cluster,
            job.sizes[cluster],
            job.gan.min_images,
        )
    if not job.with_gan:
        raise InputError(
            f"gan.min_images: no cluster has {job.gan.min_images} images (the largest has "
            f"{job.sizes.max(initial=0)}); lower it, or clusters.num_clusters"
        )
