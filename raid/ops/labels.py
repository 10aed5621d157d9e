"""Numbering of clusters."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def by_first_appearance(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Renumber clusters in the order in which their first samples come.

    Args:
        labels: (N,) any numbers, every one a cluster.

    Returns:
        Labels (N,) int64 from 0, and (K,) int64: the index of each cluster's first sample, rising.

    Memory: a few arrays of N numbers.
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse], np.sort(first)
