"""The labels of an epoch: global clusters, refined with the local ones (ICSR section 2.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.data.sampler import singleton_share
from raid.data.samples import Samples, relabel
from raid.errors import InputError
from raid.health import alarms, cluster_health, label_quality
from raid.methods.icsr.clustering import cluster
from raid.methods.icsr.config import IcsrConfig, Refine
from raid.ops.centrality import harmonic_centrality
from raid.ops.modules import infomap_modules
from raid.ops.neighbors import MapBlocks
from raid.ops.refine import refine_labels
from raid.ops.schedule import discard_probability

Ints = NDArray[np.int64]
Figures = dict[str, float]


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
    map_blocks: MapBlocks = map,
) -> EpochLabels:
    """Cluster all images and refine the clusters with the local labels.

    Args:
        features: (N, D) float32 unit rows.
        train: the N training images.
        local_labels: (N,) of stage 1; None without refinement.
        config: of the run.
        epoch: 0-based.
        previous_labels: (N,) global labels of the epoch before, for the churn.
        map_blocks: what runs the blocks of rows; same signature as builtin `map` with one iterable.

    Raises:
        InputError: DBSCAN found no cluster, or see `cluster`.
    """
    cameras = train.cameras if train.has_cameras else None
    inter = config.inter
    made = cluster(
        features,
        inter,
        inter.num_clusters,
        config.neighbors,
        seed=config.seed,
        width=config.refine.num_neighbors + 1,
        scratch=config.data.cache_folder,
        map_blocks=map_blocks,
    )
    global_labels = made.labels
    if not (global_labels >= 0).any():
        raise InputError(
            f"inter.eps: no image has {inter.min_samples} neighbours within a Jaccard distance of "
            f"{inter.eps}: there is no cluster; raise inter.eps, or lower inter.min_samples"
        )
    refined = global_labels
    figures: Figures = {}
    if config.refine.enabled:
        assert cameras is not None
        assert local_labels is not None
        refined, figures = refined_labels(
            features, made.neighbors, global_labels, local_labels, cameras, config, epoch
        )
    figures |= cluster_health(
        global_labels, refined, cameras=cameras, silhouette=made.silhouette, previous_labels=previous_labels
    )
    if made.recall is not None:
        figures["neighbors/recall"] = made.recall
    figures["sampler/singleton_share"] = singleton_share(refined)
    figures |= label_quality(train.identities, global_labels, refined, local_labels, cameras)
    notes = [*made.notes, *(f"ALARM: {line}" for line in alarms(figures, len(features)))]
    return EpochLabels(global_labels, relabel(refined), figures, notes)


def refined_labels(
    features: NDArray[np.float32],
    neighbors: tuple[NDArray[np.float32], Ints],
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
        neighbors=neighbors,
    )
    modules = None
    if chosen.referee == "infomap_last":
        modules = infomap_modules(
            features, num_neighbors=chosen.num_neighbors, seed=config.seed, neighbors=neighbors
        )
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
