"""What trials that cluster the same features have in common, made in processes of their own.

Such a process starts before the first trial, and imports no more than it needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from raid.methods.icsr.clustering import Table
from raid.methods.icsr.clustering_trials import Features, Shared, Trial, neighbor_table, shared_of
from raid.methods.sections import Clustering, Neighbors

Ints = NDArray[np.int64]
Key: TypeAlias = tuple[int, int, int, int]  # which features, which part, k1, k2


def keys_of(parts: Sequence[Ints], tried: Sequence[Sequence[Trial]], num_files: int) -> list[Key]:
    """Return the keys of what trials share, in the order of the trials.

    Args:
        parts: rows of what is clustered by itself.
        tried: the trials of every part.
        num_files: of features.
    """
    keys = [
        (place, part, *trials[number].neighbors.of(len(parts[part]), trials[number].num_clusters))
        for number in range(len(tried[0]))
        for place in range(num_files)
        for part, trials in enumerate(tried)
    ]
    return list(dict.fromkeys(keys))


def search(
    files: Sequence[Path], parts: Sequence[Ints], tried: Sequence[Sequence[Trial]], threads: int
) -> list[list[Table]]:
    """Return the table of neighbours of every part of every file; arguments as in `keys_of`."""
    torch.set_num_threads(threads)
    return [
        [neighbor_table(rows_of(file, rows), trials) for rows, trials in zip(parts, tried, strict=True)]
        for file in files
    ]


def make(
    key: Key,
    files: Sequence[Path],
    parts: Sequence[Ints],
    tables: Sequence[Sequence[Table]],
    linked: bool,
) -> Shared:
    """Return what the trials of a key share.

    Args:
        key: of them.
        files: of features.
        parts: as in `keys_of`.
        tables: see `search`.
        linked: whether some trial is of average linkage.
    """
    torch.set_num_threads(1)  # the process may have searched
    place, part, k1, k2 = key
    how = Clustering(method="agglomerative" if linked else "kmeans")
    group = [Trial(Neighbors(k1=k1, k2=k2), how, 1)]
    return shared_of(rows_of(files[place], parts[part]), tables[place][part], group)


def rows_of(file: Path, rows: Ints) -> Features:
    """Return rows of features; all of them are mapped from the file, which all processes of a node share."""
    features: Features = np.load(file, mmap_mode="r", allow_pickle=False)
    return features if len(rows) == len(features) else features[rows]
