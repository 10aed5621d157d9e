"""Many clusterings of the same features, for a search over their settings: what they share is made once.

The table of neighbours is searched at the largest neighbourhood, and cut; trials of one (k1, k2) share the
Jaccard similarity, and those by average linkage its merge tree. A trial's labels are, byte for byte, those
that `raid.methods.icsr.clustering.cluster` gives for it alone on a CPU.

`run_trials` does all of it in one process, one similarity after the other. A caller that has its trials in
several processes makes the `neighbor_table`, and of each (k1, k2) the `Shared`, and gives these to the
processes, in which `outcome_of` scores a trial: they are arrays, which a store of shared memory hands on
without a copy, and nothing writes to them.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from raid.errors import InputError
from raid.health import cluster_health, quality_scores
from raid.methods.icsr.clustering import Ints, Table, labels_of, similarity_folder
from raid.methods.sections import Clustering, Neighbors
from raid.ops import quality
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.linkage import MergeTree, merge_tree
from raid.ops.neighbors import MapBlocks, knn

Features = NDArray[np.float32]
# Labels and notes of k-means, which does not look at neighbours, by clusters and restarts.
Partitions = dict[tuple[int, int], tuple[Ints, list[str]]]


@dataclass(frozen=True)
class Trial:
    """A clustering that is tried.

    Attributes:
        neighbors: k1 and k2; the search exact, and all of the similarity kept.
        how: the method, and what it needs.
        num_clusters: that are asked for; DBSCAN finds its own number.
    """

    neighbors: Neighbors
    how: Clustering
    num_clusters: int


@dataclass(frozen=True, eq=False)
class Shared:
    """What the trials of one (k1, k2) have in common.

    Attributes:
        similarity: (N, N) Jaccard similarity.
        tree: of average linkage; None: no trial asks for it.
    """

    similarity: csr_array
    tree: MergeTree | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a trial.

    Attributes:
        place: of the trial among those that were given.
        trial: what was tried.
        labels: (N,) int64, -1 = outlier.
        figures: `cluster/...` as a training run has them, without any truth; with identities also
            `quality/global/...`, outliers left out, and `quality/global_all/...`, each a cluster of its own,
            by which trials of different coverage compare.
        notes: what is to be said of the clusters.
        seconds: spent on it; what it shares with later trials is counted here.
    """

    place: int
    trial: Trial
    labels: Ints
    figures: dict[str, float]
    notes: list[str]
    seconds: float


def run_trials(
    features: Features,
    trials: Sequence[Trial],
    *,
    seed: int,
    identities: Ints | None = None,
    cameras: Ints | None = None,
    width: int = 1,
    scratch: Path | None = None,
    map_blocks: MapBlocks = map,
) -> Iterator[Outcome]:
    """Yield the outcome of every trial as it is ready: those of one (k1, k2) together, else in their order.

    Two iterators over the same trials, say of the features of two epochs, yield the same order: side by side
    they give what `stability` compares.

    Args:
        features: (N, D) float32 unit rows; they may be read-only or mapped from a file.
        trials: what is tried.
        seed: of the starts of k-means.
        identities: (N,), -1 = unknown: the truth to score against; None: there is none.
        cameras: (N,) or None, for the cameras' purity.
        width: as in `cluster`: what a training run gives it, to have its labels to the last tie.
        scratch: folder for a similarity on disk, see `cluster`.
        map_blocks: what runs the blocks of rows; same signature as builtin `map` with one iterable.

    Raises:
        InputError: at once, if a trial cannot be run, see `check_trials`.

    Memory: that of one `cluster` with the largest neighbourhood: one similarity at a time; and N * 24 bytes a
    (k1, k2), N * 8 for every number of clusters of k-means. A GPU is not used.
    """
    check_trials(trials, len(features))
    return _outcomes(features, trials, seed, identities, cameras, width, scratch, map_blocks)


def _outcomes(
    features: Features,
    trials: Sequence[Trial],
    seed: int,
    identities: Ints | None,
    cameras: Ints | None,
    width: int,
    scratch: Path | None,
    map_blocks: MapBlocks,
) -> Iterator[Outcome]:
    started = time.perf_counter()
    table = neighbor_table(features, trials, width=width, map_blocks=map_blocks)
    partitions: Partitions = {}
    for places in grouped(trials, len(features)):
        group = [trials[place] for place in places]
        with similarity_folder(group[0].neighbors, scratch) as folder:
            shared = shared_of(features, table, group, width=width, folder=folder, map_blocks=map_blocks)
            for place in places:
                outcome = outcome_of(
                    shared, trials[place], features, seed=seed, identities=identities, cameras=cameras,
                    partitions=partitions,
                )  # fmt: skip
                yield replace(outcome, place=place, seconds=time.perf_counter() - started)
                started = time.perf_counter()  # the caller's time is not the trial's
            del shared  # before the next is made, and before what is mapped is removed


def check_trials(trials: Sequence[Trial], num_images: int) -> None:
    """Refuse trials that cannot be run, or that cannot share.

    Raises:
        InputError: the number of clusters is not 1 to `num_images` (DBSCAN's is not looked at), the search is
            approximate (another width finds other neighbours), or not all of the similarity is to be kept.
    """
    for trial in trials:
        if trial.how.method != "dbscan" and not 1 <= trial.num_clusters <= num_images:
            raise InputError(
                f"num_clusters: {trial.num_clusters} clusters of {num_images} images; "
                f"choose 1 to {num_images}"
            )
        if trial.neighbors.search != "exact":
            raise InputError("neighbors.search: trials share an exact search; remove approximate")
        if trial.neighbors.keep != "all":
            raise InputError("neighbors.keep: trials share all of the similarity; remove within_eps")


def grouped(trials: Sequence[Trial], num_images: int) -> list[list[int]]:
    """Return the places of the trials that share a similarity, groups in the order of their first trial."""
    groups: dict[tuple[int, int, str], list[int]] = {}
    for place, trial in enumerate(trials):
        sizes = trial.neighbors.of(num_images, trial.num_clusters)
        groups.setdefault((*sizes, trial.neighbors.similarity), []).append(place)
    return list(groups.values())


def neighbor_table(
    features: Features, trials: Sequence[Trial], *, width: int = 1, map_blocks: MapBlocks = map
) -> Table:
    """Search the neighbours of the largest of the trials; arguments and memory as in `run_trials`."""
    largest = max((_table_width(trial, len(features), width) for trial in trials), default=1)
    # A GPU's table is not one that has been cut: where the last place is tied, it settles that on the CPU.
    return knn(features, features, largest, map_blocks=map_blocks, device="cpu")


def _table_width(trial: Trial, num_images: int, width: int) -> int:
    return min(max(*trial.neighbors.of(num_images, trial.num_clusters), width), num_images)


def shared_of(
    features: Features,
    table: Table,
    group: Sequence[Trial],
    *,
    width: int = 1,
    folder: Path | None = None,
    map_blocks: MapBlocks = map,
) -> Shared:
    """Make what trials of one (k1, k2) share.

    Args:
        features: as in `run_trials`.
        table: the `neighbor_table` of these trials and others.
        group: at least one.
        width: as in `run_trials`.
        folder: where the similarity is written and mapped back from; None: it stays in memory.
        map_blocks: as in `run_trials`.
    """
    # Not a column more than the trial alone would search: a product that the table does not list is computed
    # again, to other last bits.
    columns = _table_width(group[0], len(features), width)
    k1, k2 = group[0].neighbors.of(len(features), group[0].num_clusters)
    similarity = jaccard_from_neighbors(
        features,
        table[1][:, :columns],
        table[0][:, :columns],
        k1=k1,
        k2=k2,
        folder=folder,
        map_blocks=map_blocks,
    )
    linked = any(trial.how.method == "agglomerative" for trial in group)
    return Shared(similarity, merge_tree(similarity) if linked else None)


def outcome_of(
    shared: Shared,
    trial: Trial,
    features: Features,
    *,
    seed: int,
    identities: Ints | None = None,
    cameras: Ints | None = None,
    partitions: Partitions | None = None,
) -> Outcome:
    """Cluster and score one trial; its `place` is 0.

    Args:
        shared: what the trials of its (k1, k2) share.
        trial: what is tried.
        features: as in `run_trials`, as are the next three; looked at by k-means alone.
        seed: of k-means.
        identities: the truth.
        cameras: of the images.
        partitions: those of k-means that are known already; added to.
    """
    started = time.perf_counter()
    labels, notes = _labels(shared, trial, features, seed, {} if partitions is None else partitions)
    figures = cluster_health(
        labels,
        labels,
        cameras=cameras,
        silhouette=quality.silhouette(shared.similarity, labels),
        previous_labels=None,
    )
    del figures["refine/discarded"]  # nothing is refined
    if identities is not None:
        figures |= _against_truth(identities, labels)
    return Outcome(0, trial, labels, figures, notes, time.perf_counter() - started)


def _labels(
    shared: Shared, trial: Trial, features: Features, seed: int, partitions: Partitions
) -> tuple[Ints, list[str]]:
    key = (trial.num_clusters, trial.how.restarts)
    if trial.how.method == "kmeans" and key in partitions:
        return partitions[key]
    made = labels_of(features, shared.similarity, trial.how, trial.num_clusters, seed, tree=shared.tree)
    if trial.how.method == "kmeans":
        partitions[key] = made
    return made


def _against_truth(identities: Ints, labels: Ints) -> dict[str, float]:
    known = identities >= 0
    if not known.any():
        return {}
    truth, kept = identities[known], labels[known]
    return quality_scores("global", truth, kept) | quality_scores("global_all", truth, kept, "singletons")


def stability(labels: Ints, others: Ints) -> float:
    """Return how far two clusterings of the same images agree: the adjusted Rand index, 1 = the same.

    Of one trial on the features of two epochs, it says without any truth whether its clusters are the data's
    or chance's. An outlier is a cluster of its own, so that leaving most images out is not taken for
    agreement. Symmetric.

    Args:
        labels: (N,) pseudo labels, -1 = outlier.
        others: (N,) of the same images.

    Raises:
        ValueError: shapes that differ.
    """
    return quality.ari(_outliers_alone(labels), others, noise="singletons")


def _outliers_alone(labels: Ints) -> Ints:
    outliers = labels < 0
    alone = labels.copy()
    alone[outliers] = labels.max(initial=-1) + 1 + np.arange(outliers.sum())
    return alone
