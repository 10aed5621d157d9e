"""How fast this machine is at what a run does: seconds of real work, from which a plan is made."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raid.data import synthetic
from raid.distributed.group import Group
from raid.methods.contrastive import Encoder, build_model, device_of
from raid.methods.icsr_config import IcsrConfig
from raid.methods.sections import Neighbors
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.linkage import agglomerative
from raid.ops.neighbors import knn

T = TypeVar("T")
Ints = NDArray[np.int64]
_CLUSTER_ROWS = (2000, 4000)
_LARGEST_CLUSTER = 200  # of the probe: a set has several
_CPU_BATCH = 16  # a processor takes so many images, or more, at one pace


@dataclass(frozen=True)
class EncoderSpeed:
    """Of one process; seconds and bytes an image.

    Attributes:
        device: where it was measured, or what it was reckoned for.
        dimensions: D of the features.
        extract: seconds an image.
        train: seconds an image of a training step.
        activations: bytes an image of a training step.
        fixed: bytes of weights, gradients and the optimiser's moments.
    """

    device: str
    dimensions: int
    extract: float
    train: float
    activations: float
    fixed: float


@dataclass(frozen=True)
class ClusterSpeed:
    """Of one process, on simulated features with as many images a cluster as the run expects.

    Attributes:
        rows: of the larger of the two sets that were measured.
        pair: seconds of the search for each pair of rows.
        entry: seconds of Jaccard similarity and linkage for each stored entry.
        entries: stored entries a row, in both sets.
    """

    rows: int
    pair: float
    entry: float
    entries: tuple[float, float]

    def entries_per_row(self, num_rows: int) -> float:
        """Return the stored entries a row of a set.

        Neighbourhoods overlap with fewer and fewer new rows as a set grows: 1 / entries is linear in 1 / N,
        through the two sets that were measured.
        """
        few, many = (1.0 / entries for entries in self.entries)
        slope = max(0.0, few - many) / (1.0 / _CLUSTER_ROWS[0] - 1.0 / self.rows)
        limit = max(0.0, many - slope / self.rows)
        return float(min(num_rows, 1.0 / max(limit + slope / num_rows, 1e-12)))


def probe_encoder(config: IcsrConfig, *, tflops: float | None) -> EncoderSpeed:
    """Extract and train on random images for a moment.

    Args:
        config: of the run.
        tflops: of a processor that is not here: seconds are reckoned from the operations then.
    """
    settings = config.camera_training
    device = device_of(config.run.device)
    batch = settings.sampler.batch_size if device.type == "cuda" else _CPU_BATCH
    settings = replace(
        settings,
        model=replace(settings.model, ghost_size=batch),
        sampler=replace(settings.sampler, identities=max(1, batch // settings.sampler.instances)),
    )
    torch.set_num_threads(config.numerics.threads)
    images = _RandomImages(batch, config.data.height, config.data.width)
    weights = build_model(settings, Group.solo()).state_dict()
    encoder = Encoder(settings, weights, Group.solo(), device)
    fixed = 4.0 * sum(value.numel() * value.element_size() for value in encoder.model.state_dict().values())
    with FlopCounterMode(display=False) as counter:
        encoder.extract(images.take(np.arange(1)))
    features, extract = _second(lambda: encoder.extract(images), device)
    before = _peak(device)
    _, train = _second(lambda: _step(encoder, images, features), device)
    activations = max(0.0, _peak(device) - before) / batch
    if tflops is None:
        return EncoderSpeed(
            str(device), features.shape[1], extract / batch, train / batch, activations, fixed
        )
    forward = counter.get_total_flops() / (tflops * 1e12)
    return EncoderSpeed(
        f"{tflops:g} TFLOP/s", features.shape[1], forward, 3 * forward, activations, fixed
    )  # a backward pass is two forward ones


def probe_clustering(config: IcsrConfig, *, dimensions: int, cluster_size: float) -> ClusterSpeed:
    """Cluster simulated features of two sizes; the first compiles what is not compiled yet."""
    torch.set_num_threads(config.numerics.threads)
    small, large = (_cluster(config.neighbors, rows, dimensions, cluster_size) for rows in _CLUSTER_ROWS)
    return replace(large, entries=(small.entries[1], large.entries[1]))


def _cluster(neighbors: Neighbors, num_rows: int, dimensions: int, cluster_size: float) -> ClusterSpeed:
    size = min(max(2, round(cluster_size)), _LARGEST_CLUSTER)
    num_clusters = max(1, num_rows // size)
    simulated = synthetic.features(1, num_identities=num_clusters, images_per_identity=size, dim=dimensions)
    rows = simulated.features
    k1, k2 = neighbors.of(len(rows), num_clusters)
    started = time.perf_counter()
    _, table = knn(rows, rows, k1)
    searched = time.perf_counter()
    similarity = jaccard_from_neighbors(rows, table, k1=k1, k2=k2)
    agglomerative(similarity, num_clusters=num_clusters)
    entry = (time.perf_counter() - searched) / similarity.nnz
    entries = similarity.nnz / len(rows)
    return ClusterSpeed(len(rows), (searched - started) / len(rows) ** 2, entry, (entries, entries))


def _step(encoder: Encoder, images: "_RandomImages", features: Tensor) -> None:
    instances = encoder.settings.sampler.instances
    labels = np.arange(len(images)) // instances
    memory = encoder.memory(features, labels, 0.1)
    for _ in encoder.train_steps(images, labels, None, memory, key=(0,), num_steps=1):
        pass


def _second(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result and the seconds of the second of two calls: the first one allocates."""
    work()
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def _peak(device: torch.device) -> float:
    """Return the largest number of bytes so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


@dataclass(frozen=True)
class _RandomImages:
    """Pictures of nothing, as large as the run's."""

    number: int
    height: int
    width: int

    def __len__(self) -> int:
        return self.number

    def gather(self, rows: Ints) -> Tensor:
        return torch.randint(0, 256, (len(rows), 3, self.height, self.width), dtype=torch.uint8)

    def take(self, rows: Ints) -> "_RandomImages":
        return replace(self, number=len(rows))
