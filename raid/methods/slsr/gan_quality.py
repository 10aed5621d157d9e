"""What generated images are worth: whether they vary, are copies, look like their cluster.

Distances, variances and colours are measured on at most 2,000 generated and 2,000 real images a cluster,
drawn by the seed, so that the time is bounded: about half a minute of one core for a cluster at 128 x 128.
Exact copies are looked for among all.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.streams import GENERATED, stream
from raid.data.synthetic_check import hsv_histogram
from raid.distributed.fanout import FanOut
from raid.methods.slsr.gan_job import GanJob
from raid.methods.slsr.images import GeneratedImages, resized_array, resized_blocks
from raid.ops.diversity import nearest_images, nearest_others, pixel_variance
from raid.ops.frechet import frechet_distance, moments

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SAMPLES = 2_000  # images of a cluster, real and generated, that are compared
_STRIPES = 8
_CHOSEN_REAL, _CHOSEN_GENERATED = 1, 2  # what random numbers are for


@dataclass(frozen=True)
class ClusterQuality:
    """What the generated images of a cluster are worth.

    Attributes:
        cluster: its number.
        samples: generated images that were compared.
        variance_ratio: their pixel variance over that of the real images; None where these do not vary.
        frechet: Frechet distance of their features to those of real images; None: not measured.
        nearest_real: smallest distance of one of them to a real image, root of the mean squared difference of
            the pixels, in levels 0-255.
        real_nearest: first percentile of the distances between a real image and the nearest other one.
        copies: of all generated images of the cluster, those that equal a real one of it, pixel for pixel.
    """

    cluster: int
    samples: int
    variance_ratio: float | None
    frechet: float | None
    nearest_real: float
    real_nearest: float
    copies: int


@dataclass(frozen=True)
class OwnClusters:
    """Shares of images that a classifier of colours puts into the cluster they are of; None: no such figure.

    Attributes:
        generated: of the generated ones.
        real: of real ones that it was not trained on: the most that can be asked of the generated ones.
    """

    generated: float | None
    real: float | None


@dataclass(frozen=True, eq=False)
class Measured:
    """What an item of the pool finds: the figures, and colours (n, D) of what was compared."""

    quality: ClusterQuality
    real_colours: Floats
    generated_colours: Floats


@dataclass(frozen=True, eq=False)
class QualityJob:
    """What an item of the pool needs: the GANs' job, and all generated images at the GANs' size."""

    gans: GanJob
    generated: GeneratedImages
    counts: Ints

    def generated_rows(self, cluster: int) -> Ints:
        """Return which generated images are of `cluster`."""
        stop = int(self.counts[: cluster + 1].sum())
        return np.arange(stop - int(self.counts[cluster]), stop, dtype=np.int64)

    def chosen_generated(self, cluster: int) -> Ints:
        """Return which of them are compared."""
        return _chosen(self.generated_rows(cluster), self.gans.seed, cluster, _CHOSEN_GENERATED)

    def chosen_real(self, cluster: int) -> Ints:
        """Return which real images of `cluster` they are compared with."""
        return _chosen(self.gans.rows(cluster), self.gans.seed, cluster, _CHOSEN_REAL)


def measured(
    job: GanJob,
    counts: Ints,
    fanout: FanOut,
    file: Path,
    features_of: Callable[[Images], NDArray[Any]] | None,
) -> tuple[tuple[ClusterQuality, ...], OwnClusters]:
    """Return what the generated images in `file` are worth, of each cluster that has any and together.

    Args:
        job: of the GANs; holds the real images.
        counts: (k,) generated images of each cluster.
        fanout: the pool, a cluster an item.
        file: generated.npy.
        features_of: see `raid.methods.slsr.generation.generate_images`; called here, not on the pool.
    """
    generated = GeneratedImages.open(file, height=job.gan.height, width=job.gan.width)
    quality = QualityJob(job, generated, counts)
    clusters = [int(cluster) for cluster in np.flatnonzero(counts)]
    found = list(fanout.map(measure_cluster, clusters, fanout.share(quality)))
    rows = [
        replace(one.quality, frechet=_frechet(cluster, quality, features_of))
        for cluster, one in zip(clusters, found, strict=True)
    ]
    colours = [(one.real_colours, one.generated_colours) for one in found]
    return tuple(rows), own_clusters(*zip(*colours, strict=True))


def measure_cluster(cluster: int, job: QualityJob) -> Measured:
    """Compare the generated images of `cluster` with its real ones, all at the GAN's size.

    Memory: 4,000 images at the GAN's size (0.2 GB at 128 x 128).
    """
    gan = job.gans.gan
    real = resized_array(job.gans.images.take(job.chosen_real(cluster)), gan.height, gan.width)
    samples = resized_array(job.generated.take(job.chosen_generated(cluster)), gan.height, gan.width)
    expected = float(pixel_variance(real).mean())
    varied = float(pixel_variance(samples).mean())
    quality = ClusterQuality(
        cluster=cluster,
        samples=len(samples),
        variance_ratio=varied / expected if expected > 0 else None,
        frechet=None,
        nearest_real=float(nearest_images(samples, real).distances.min()),
        real_nearest=float(np.percentile(nearest_others(real).distances, 1)),
        copies=_num_copies(cluster, job),
    )
    return Measured(quality, colours_of(real), colours_of(samples))


def own_clusters(real: tuple[Floats, ...], generated: tuple[Floats, ...]) -> OwnClusters:
    """Ask a logistic classifier of real images' colours which cluster each image belongs to.

    Clusters weigh alike in its training, however many images they have.

    Args:
        real: colours (n, D) of real images, one array a cluster.
        generated: of generated images, likewise.
    """
    # Here: they take a second, which every worker and every command of SLSR would wait for.
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if len(real) < 2:
        return OwnClusters(None, None)
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000, C=10.0)
    colours, clusters = np.concatenate(real).astype(np.float64), _numbers(real)
    num_folds, of_real = min(5, *map(len, real)), None
    if num_folds >= 2:
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=0)
        guessed = cross_val_predict(classifier, colours, clusters, cv=folds)
        of_real = float((guessed == clusters).mean())
    classifier.fit(colours, clusters)
    guessed = classifier.predict(np.concatenate(generated).astype(np.float64))
    return OwnClusters(float((guessed == _numbers(generated)).mean()), of_real)


def colours_of(images: Bytes) -> Floats:
    """Return the colour histograms (n, 8 * 68) of 8 stripes, from head to feet, of images (n, 3, H, W).

    That is how pedestrians' colours are usually described: the same histogram over a whole picture makes no
    difference between a red coat on blue trousers and a blue coat on red ones.
    """
    stripes = np.array_split(images, _STRIPES, axis=2)
    return np.concatenate([hsv_histogram(np.ascontiguousarray(stripe)) for stripe in stripes], axis=1)


def _numbers(parts: tuple[Floats, ...]) -> Ints:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _num_copies(cluster: int, job: QualityJob) -> int:
    """Count the generated images that equal a real one, by the digests of all pixels."""
    gan = job.gans.gan
    real = job.gans.images.take(job.gans.rows(cluster))
    known = set(_digests(real, gan.height, gan.width))
    samples = job.generated.take(job.generated_rows(cluster))
    return sum(digest in known for digest in _digests(samples, gan.height, gan.width))


def _digests(images: Images, height: int, width: int) -> Iterator[bytes]:
    for block in resized_blocks(images, height, width):
        yield from (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in block)


def _frechet(
    cluster: int, job: QualityJob, features_of: Callable[[Images], NDArray[Any]] | None
) -> float | None:
    """Compare features of as many real as generated images, or None where there are fewer than two."""
    if features_of is None:
        return None
    real, samples = job.chosen_real(cluster), job.chosen_generated(cluster)
    size = min(len(real), len(samples))
    if size < 2:
        return None
    images = job.gans.images
    as_trained = replace(job.generated, height=images.height, width=images.width)
    sets = images.take(real[:size]), as_trained.take(samples[:size])
    return frechet_distance(*(moments(features_of(part)) for part in sets))


def _chosen(rows: Ints, seed: int, cluster: int, purpose: int) -> Ints:
    """Return at most `SAMPLES` of `rows`, in random order."""
    return stream(seed, GENERATED, cluster, purpose).permutation(rows)[:SAMPLES]
