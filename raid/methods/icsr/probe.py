"""How fast this machine is at what a run of ICSR does: its training step, and its clusterings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from raid.data import synthetic
from raid.distributed.group import Group
from raid.methods.encoder import build_model, device_of
from raid.methods.icsr.clustering import labels_of, search
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.contrastive import ContrastiveEncoder
from raid.methods.icsr.memory import LIST_ROWS, ClusterTask, usual_entries
from raid.methods.probe import (
    EncoderSpeed,
    RandomImages,
    probe_encoder,
    probe_ranking,
    probed_batch,
    timed,
)
from raid.methods.sections import Clustering
from raid.ops import quality
from raid.ops.jaccard import jaccard_from_neighbors

_CLUSTER_ROWS = (4000, 12_000)
_LARGEST_CLUSTER = 200  # of the probe: a set has several


@dataclass(frozen=True)
class ClusterSpeed:
    """Of one process, on simulated features with as many images a cluster as the run expects.

    Attributes:
        rows: of the two sets that were measured.
        pair: seconds of the search for each of `searched_pairs`.
        ranked_pair: seconds of an evaluation for each pair of a query and a gallery image.
        entry: seconds of Jaccard similarity and silhouette for each stored entry.
        entries: stored entries a row, in both sets.
        methods: seconds of each method that the run uses for each unit of `method_work`.
    """

    rows: tuple[int, int]
    pair: float
    ranked_pair: float
    entry: float
    entries: tuple[float, float]
    methods: Mapping[str, float]

    def entries_per_row(self, num_rows: int) -> float:
        """Return the stored entries a row of a set.

        Neighbourhoods overlap with fewer and fewer new rows as a set grows: 1 / entries is linear in
        N ** -0.6 (to a tenth from 4,000 to 200,000 simulated rows), through the two sets that were measured.
        """
        few, many = (1.0 / entries for entries in self.entries)
        at_few, at_many, at_all = (rows**-0.6 for rows in (*self.rows, num_rows))
        slope = max(0.0, few - many) / (at_few - at_many)
        limit = max(0.0, many - slope * at_many)
        return float(min(num_rows, 1.0 / max(limit + slope * at_all, 1e-12)))

    def expected_entries(self, task: ClusterTask) -> float:
        """Return the stored entries a row that a clustering is reckoned with.

        Not fewer than the usual ones, which `raid icsr` looks at before it starts: the probe's people are
        told apart more easily than those of a large set.
        """
        return max(self.entries_per_row(task.num_images), usual_entries(task.num_images, task.sizes[0]))

    def seconds(self, task: ClusterTask, processes: int = 1) -> float:
        """Return the seconds of a clustering whose search and similarity `processes` share."""
        entries = self.expected_entries(task)
        shared = self.pair * searched_pairs(task) + self.entry * task.num_images * entries
        return shared / processes + self.methods[task.how.method] * method_work(task, entries)


def searched_pairs(task: ClusterTask) -> float:
    """Return the pairs of rows that a search goes through.

    Exact: all, each counted twice, though its product serves both. Approximate: the rows of the lists that
    are probed, and the centroids of the lists, twice by all rows and five times by the sample they are of.
    """
    rows, lists = float(task.num_images), task.num_lists
    if task.neighbors.search == "exact":
        return rows**2
    return rows * task.probes * LIST_ROWS + (2 * rows + 5 * min(rows, 32.0 * lists)) * lists


def method_work(task: ClusterTask, entries_per_row: float) -> float:
    """Return what a method's time grows with: entries, and for k-means rows times centroids of all starts."""
    if task.how.method == "kmeans":
        return float(task.num_images) * task.num_clusters * task.how.restarts
    return task.num_images * entries_per_row


def probe_training(config: IcsrConfig, *, tflops: float | None) -> EncoderSpeed:
    """Extract and train on random images for a moment; see `probe_encoder`."""
    settings = config.camera_training
    device = device_of(config.run.device)
    batch = probed_batch(settings.sampler.batch_size, device)
    model = replace(config.model, ghost_size=batch)
    settings = replace(
        settings,
        encoder=replace(settings.encoder, model=model),
        sampler=replace(settings.sampler, identities=max(1, batch // settings.sampler.instances)),
    )
    torch.set_num_threads(config.numerics.threads)
    images = RandomImages(batch, config.data.height, config.data.width)
    weights = build_model(settings.encoder, Group.solo()).state_dict()
    encoder = ContrastiveEncoder(settings, weights, Group.solo(), device)
    return probe_encoder(encoder, images, partial(_step, encoder, images), optimizer="adam", tflops=tflops)


def probe_clustering(config: IcsrConfig, *, dimensions: int, cluster_size: float) -> ClusterSpeed:
    """Cluster simulated features of two sizes; the first compiles what is not compiled yet."""
    torch.set_num_threads(config.numerics.threads)
    size = min(max(2, round(cluster_size)), _LARGEST_CLUSTER)
    stages = [config.inter, config.intra] if config.makes_labels else [config.inter]
    small, large = (_cluster(config, stages, rows, size, dimensions) for rows in _CLUSTER_ROWS)
    return replace(large, rows=(small.rows[1], large.rows[1]), entries=(small.entries[1], large.entries[1]))


def _cluster(
    config: IcsrConfig, stages: Iterable[Clustering], num_rows: int, size: int, dimensions: int
) -> ClusterSpeed:
    num_clusters = max(1, num_rows // size)
    simulated = synthetic.features(1, num_identities=num_clusters, images_per_identity=size, dim=dimensions)
    rows = simulated.features
    task = replace(ClusterTask.inter(config, len(rows), dimensions), num_clusters=num_clusters)
    k1, k2 = task.sizes
    ((products, table), _), searched = timed(
        lambda: search(rows, task.table_width, config.neighbors, config.seed)
    )
    similarity, compared = timed(lambda: jaccard_from_neighbors(rows, table, products, k1=k1, k2=k2))
    _, scored = timed(lambda: quality.silhouette(similarity, simulated.identities))
    entries = similarity.nnz / len(rows)
    methods: dict[str, float] = {}
    for how in stages:
        _, seconds = timed(lambda: labels_of(rows, similarity, how, num_clusters, config.seed))  # noqa: B023
        methods[how.method] = seconds / method_work(replace(task, how=how), entries)
    return ClusterSpeed(
        (len(rows), len(rows)),
        searched / searched_pairs(task),
        probe_ranking(simulated),
        (compared + scored) / similarity.nnz,
        (entries, entries),
        methods,
    )


def _step(encoder: ContrastiveEncoder, images: RandomImages, features: Tensor) -> None:
    instances = encoder.training.sampler.instances
    labels = np.arange(len(images)) // instances
    memory = encoder.memory(features, labels, 0.1)
    for _ in encoder.train_steps(images, labels, None, memory, key=(0,), num_steps=1):
        pass
