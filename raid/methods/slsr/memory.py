"""Bytes that SLSR holds beside networks and activations, by the docstrings of what holds them."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from raid.errors import InputError
from raid.extract import Kind
from raid.methods import pool_extraction
from raid.methods.encoder import EncoderSettings
from raid.methods.fitting import changes_that_fit, enough_workers
from raid.methods.slsr.config import SlsrConfig, Supervised
from raid.methods.slsr.gan_quality import SAMPLES as COMPARED
from raid.ops.silhouettes import PLANE_DIRECTIONS

_DISTANCE_ROWS = 512  # of a block of `raid.ops.silhouettes`
_SLICE = 1024  # dimensions of `raid.ops.products`
_KMEANS_ROWS = 1024  # of a block of `raid.ops.kmeans`, its first directions and its sample for these
_DIRECTIONS, _SAMPLE = 64, 2048


@dataclass(frozen=True)
class SlsrSizes:
    """What the memory of a run depends on beside its configuration.

    Attributes:
        images: N of the training set.
        identities: K.
    """

    images: int
    identities: int


def num_clustered(config: SlsrConfig) -> int:
    """Return D of the features that are clustered; of a ResNet-50 2,048, or 92,160 of its map at 288x144."""
    data, kind = config.data, config.clusters.features
    return _feature_length(config.as_baseline.encoder(), kind, data.height, data.width)


@functools.lru_cache(maxsize=8)  # half a second for a ResNet-50, and advice asks often
def _feature_length(settings: EncoderSettings, kind: Kind, height: int, width: int) -> int:
    return pool_extraction.feature_length(settings, kind, height, width)


def extracted_bytes(config: SlsrConfig, num_images: int) -> float:
    """Return what the driver holds of the extracted features: in the model's dtype, and in float32."""
    item = config.encoder().dtype.itemsize
    return float((item if item == 4 else item + 4) * num_images * num_clustered(config))


def clustering_bytes(config: SlsrConfig, num_images: int) -> float:
    """Return what the process of the pool that clusters holds: the features, and the most beside them.

    See `kmeans`, `silhouettes` and `principal_plane`, which come one after the other.
    """
    dimensions = num_clustered(config)
    beside = (
        kmeans_bytes(config, num_images, dimensions),
        silhouette_bytes(config, num_images, dimensions),
        plane_bytes(num_images, dimensions),
    )
    return 4.0 * num_images * dimensions + max(beside)


def kmeans_bytes(config: SlsrConfig, num_images: int, dimensions: int) -> float:
    """Return what `raid.ops.kmeans` holds beside the features, for the largest number of clusters."""
    chosen = config.clusters
    number, restarts = max((chosen.num_clusters, *chosen.silhouettes)), chosen.restarts
    sums = 16.0 * restarts * number * dimensions
    seeding = 4.0 * num_images * (_DIRECTIONS + restarts * 2 * (2 + math.log(number)))
    distances = 4.0 * min(num_images, _KMEANS_ROWS) * restarts * number
    # The sample and its transpose, and the directions in both precisions.
    directions = (8.0 * min(num_images, _SAMPLE) + 20.0 * _DIRECTIONS) * dimensions
    return max(sums + seeding + distances, directions if dimensions > 2 * _DIRECTIONS else 0.0)


def silhouette_bytes(config: SlsrConfig, num_images: int, dimensions: int) -> float:
    """Return what `raid.ops.silhouettes` holds beside the features, of all numbers of clusters together."""
    clusters = max(sum(config.clusters.silhouettes), config.clusters.num_clusters)
    distances = 3 * 4.0 * min(num_images, _DISTANCE_ROWS) * num_images  # as measured
    # oneDNN orders the columns that it multiplies anew, a slice at a time.
    copies = (2 * dimensions + min(dimensions, _SLICE)) * 4.0 * num_images
    return copies + 8.0 * num_images * clusters + distances


def plane_bytes(num_images: int, dimensions: int) -> float:
    """Return what `raid.ops.silhouettes.principal_plane` holds beside the features."""
    return 8.0 * (min(num_images, _DISTANCE_ROWS) + 8 * PLANE_DIRECTIONS) * dimensions


def gan_image_bytes(config: SlsrConfig, num_images: float) -> float:
    """Return what so many images take at the GANs' size."""
    return 3.0 * config.gan.height * config.gan.width * num_images


def generation_bytes(config: SlsrConfig) -> float:
    """Return what a process of the pool holds of a cluster's generated images, or to compare them.

    Images come back whole from a process: once more as they are sent. As many real ones are compared.
    """
    of_cluster = config.generated.count / config.clusters.num_clusters
    return 2 * gan_image_bytes(config, max(of_cluster, COMPARED))


def label_bytes(config: SlsrConfig, sizes: SlsrSizes, *, generated: bool) -> float:
    """Return what each worker of a supervised stage holds of the labels: a table of distributions.

    A row of float64 and of bool for every identity (and every cluster), twice while the table is put
    together; less on the device afterwards.

    Args:
        config: of the run.
        sizes: of the set.
        generated: whether there are generated images too.
    """
    rows = sizes.identities + generated * config.clusters.num_clusters
    return 18.0 * rows * num_outputs(config, sizes.identities, generated=generated)


def head_bytes(config: SlsrConfig, stage: Supervised, dimensions: int, outputs: int) -> float:
    """Return what the classifier of a step takes on each worker, which all compute it for the whole batch.

    Args:
        config: of the run.
        stage: of the run.
        dimensions: D of the pooled features.
        outputs: of the classifier.
    """
    model = config.model
    width = model.bottleneck_width if model.noise_layer == "bottleneck" else 0
    parameters = dimensions * width + width * outputs if width else dimensions * outputs
    # Weights, gradients, momentum, and the gradients again as they are made.
    numbers = 4.0 * parameters + stage.batch_size * (8 * outputs + 8 * width + 2 * dimensions)
    if model.noise_layer == "transition":
        numbers += 5.0 * outputs**2  # with the softmax that its rows are, as measured
    return config.encoder().dtype.itemsize * numbers


def num_outputs(config: SlsrConfig, identities: int, *, generated: bool) -> int:
    """Return the outputs of a stage's classifier."""
    return identities + (generated and config.generated.label == "all_in_one")


def what_would_fit(config: SlsrConfig, needed: Callable[[SlsrConfig], float], available: float) -> str:
    """Return, in words, with what change to the configuration a step fits into `available` bytes.

    Args:
        config: with which it does not.
        needed: bytes that one process takes for the step.
        available: bytes.
    """

    def fits(config: SlsrConfig) -> bool:
        return needed(config) <= available

    changes: dict[str, Callable[[SlsrConfig], SlsrConfig]] = {
        "clusters.features=pooled": lambda c: replace(c, clusters=replace(c.clusters, features="pooled")),
        **enough_workers(config, fits),
        **_fewer_at_a_time(config, fits),
        "model.noise_layer=bottleneck": lambda c: replace(
            c, model=replace(c.model, noise_layer="bottleneck")
        ),
    }
    return changes_that_fit(config, changes, needed, available)


def _fewer_at_a_time(
    config: SlsrConfig, fits: Callable[[SlsrConfig], bool]
) -> dict[str, Callable[[SlsrConfig], SlsrConfig]]:
    """Return the change to the largest batch of the GANs, halved again and again, with which it fits."""
    size = config.gan.batch_size // 2
    while size >= 2:
        changed = _with_gan_batch(size)
        if fits(changed(config)):
            return {f"gan.batch_size={size}": changed}
        size //= 2
    return {}


def _with_gan_batch(size: int) -> Callable[[SlsrConfig], SlsrConfig]:
    return lambda config: replace(config, gan=replace(config.gan, batch_size=size))


def check_memory(config: SlsrConfig, num_images: int, num_identities: int, available: int) -> None:
    """Compare what a process must hold, whatever the network, with the memory of its machine.

    Args:
        config: of the run.
        num_images: of the training set.
        num_identities: of it.
        available: bytes.

    Raises:
        InputError: there is too little for the features and their clustering, or for the labels.
    """
    sizes = SlsrSizes(num_images, num_identities)

    def clustered(config: SlsrConfig) -> float:
        return max(extracted_bytes(config, num_images), clustering_bytes(config, num_images))

    def labelled(config: SlsrConfig) -> float:
        return label_bytes(config, sizes, generated=config.uses_images)

    if config.makes_images and clustered(config) > available:
        raise InputError(
            f"clusters.features: to cluster the {config.clusters.features} features of {num_images} images, "
            f"{num_clustered(config)} numbers each, takes about {_against(config, clustered, available)}"
        )
    if labelled(config) > available:
        raise InputError(
            f"data.root: the labels of {num_identities} identities, distributions over all of them, take "
            f"about {_against(config, labelled, available)}"
        )


def _against(config: SlsrConfig, needed: Callable[[SlsrConfig], float], available: int) -> str:
    return (
        f"{needed(config) / 2**30:.1f} GiB on one process, and its machine has {available / 2**30:.1f}; "
        f"{what_would_fit(config, needed, available)} (`raid plan` says what every step needs)"
    )
