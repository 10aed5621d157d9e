"""SLSR stage 4: images of every cluster from its GAN, and what they are worth (methods.md 4.1 (4))."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.streams import GENERATED, stream
from raid.distributed.fanout import FanOut
from raid.errors import InputError
from raid.files import atomic_path
from raid.methods.encoder import device_of
from raid.methods.slsr.config import Generated
from raid.methods.slsr.dcgan_state import generate, load_generator
from raid.methods.slsr.gan_job import GanJob
from raid.methods.slsr.gan_quality import ClusterQuality, measured
from raid.methods.slsr.images import GeneratedImages

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Features = Callable[[Images], NDArray[Any]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneratedRecord:
    """What generated.json holds.

    Attributes:
        counts: images of each cluster, in whose order they are.
        height: of the images in pixels.
        width: of the images in pixels.
        quality: of the clusters that have images.
        own_cluster: share of the samples that a classifier of colours puts into their own cluster; None with
            one cluster.
        own_cluster_real: of real images, likewise: what there is to be reached.
    """

    counts: tuple[int, ...]
    height: int
    width: int
    quality: tuple[ClusterQuality, ...]
    own_cluster: float | None
    own_cluster_real: float | None

    @property
    def clusters(self) -> Ints:
        """Cluster of each generated image (n,)."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)


def generate_images(
    job: GanJob,
    generated: Generated,
    fanout: FanOut,
    folder: Path,
    features_of: Features | None = None,
) -> GeneratedRecord:
    """Write `folder`/generated.npy and, last, generated.json; where this is there, only read it.

    Every cluster is an item of the pool: its images come back whole, n * 3 * height * width bytes of a
    cluster (0.2 GB for 4,000 at 128 x 128), and are written in the order of the clusters.

    Args:
        job: of the GANs, which are trained.
        generated: how many images, and how they are split.
        fanout: the pool; its processes see both folders.
        folder: of the run, generated.npy is written to.
        features_of: makes features (n, D) of images at the size of the training images, for the Frechet
            distance; None: it is not measured.

    Raises:
        InputError: the images take more space than there is, or a GAN is missing.
    """
    record_file = folder / "generated.json"
    if record_file.exists():
        return read_record(folder)
    job, file = replace(job, folder=job.folder.absolute()), folder.absolute() / "generated.npy"
    counts = cluster_counts(generated.count, generated.split, job.sizes, job.with_gan)
    _write_images(job, counts, fanout, file)
    quality, own = measured(job, counts, fanout, file, features_of)
    record = GeneratedRecord(
        tuple(counts.tolist()), job.gan.height, job.gan.width, quality, own.generated, own.real
    )
    with atomic_path(record_file) as temporary:
        temporary.write_text(json.dumps(asdict(record), indent=1) + "\n")
    _tell(record)
    return record


def cluster_counts(
    total: int, split: Literal["equal", "proportional"], sizes: Ints, with_gan: list[int]
) -> Ints:
    """Split `total` over the clusters; what is left over goes to the largest remainders, lower numbers first.

    Args:
        total: images, the sum of the result.
        split: `equal`: the same for all; `proportional`: to the real images.
        sizes: (k,) real images of each cluster.
        with_gan: the clusters that get any, at least one.

    Returns:
        (k,) int64.
    """
    weights = np.zeros(len(sizes), dtype=np.int64)
    weights[with_gan] = sizes[with_gan] if split == "proportional" else 1
    counts, remainders = np.divmod(total * weights, weights.sum())  # in integers: a tie is a tie
    missing = total - int(counts.sum())
    counts[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return counts


def generate_cluster(item: tuple[int, int], job: GanJob) -> Bytes:
    """Return (n, 3, H, W) images of `item`, cluster and n, the first n of its stream of noise."""
    cluster, count = item
    if count == 0:
        return np.empty((0, 3, job.gan.height, job.gan.width), dtype=np.uint8)
    device = device_of(job.device)
    generator, num_latent = load_generator(job.place(cluster) / "generator.pt", device)
    noise = stream(job.seed, GENERATED, cluster).uniform(-1, 1, (count, num_latent))
    return generate(generator, torch.from_numpy(noise.astype(np.float32)), device)


def read_record(folder: Path) -> GeneratedRecord:
    """Read generated.json of a run's folder.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        values = json.loads((folder / "generated.json").read_text())
        quality = tuple(ClusterQuality(**row) for row in values["quality"])
        return GeneratedRecord(**values | {"counts": tuple(values["counts"]), "quality": quality})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: has no generated.json that can be read: {error}") from error


def open_generated(folder: Path, *, height: int, width: int) -> tuple[GeneratedImages, Ints]:
    """Return the generated images of a run, resized to `height` x `width`, and the cluster of each.

    Raises:
        InputError: they are missing, or there are not as many as generated.json says.
    """
    images = GeneratedImages.open(folder / "generated.npy", height=height, width=width)
    clusters = read_record(folder).clusters
    if len(clusters) != len(images):
        raise InputError(
            f"{folder}: generated.npy holds {len(images)} images, generated.json says {len(clusters)}"
        )
    return images, clusters


def _write_images(job: GanJob, counts: Ints, fanout: FanOut, file: Path) -> None:
    """Generate and write the images, cluster by cluster."""
    items = [(cluster, int(count)) for cluster, count in enumerate(counts)]
    shape = (int(counts.sum()), 3, job.gan.height, job.gan.width)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        # Written, not mapped: a mapped file that outgrows the disk kills the process without a word.
        with atomic_path(file) as temporary, temporary.open("wb") as stream_:
            np.lib.format.write_array_header_1_0(stream_, header)
            for images in fanout.map(generate_cluster, items, fanout.share(job)):
                assert images.shape[1:] == shape[1:]
                stream_.write(np.ascontiguousarray(images).data)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from error


def _tell(record: GeneratedRecord) -> None:
    for row in record.quality:
        logger.info(
            "generated images of cluster %d: %d | variance ratio %s | nearest real image %.1f levels away "
            "(real ones: %.1f) | %d exact copies",
            row.cluster,
            record.counts[row.cluster],
            "-" if row.variance_ratio is None else f"{row.variance_ratio:.3f}",
            row.nearest_real,
            row.real_nearest,
            row.copies,
        )
        if row.copies:
            logger.warning("cluster %d: %d generated images are copies of real ones", row.cluster, row.copies)
    if record.own_cluster is not None:
        logger.info("colours put %.3f of the generated images into their own cluster", record.own_cluster)
