"""Infomap modules of the neighbour graph, for the information nodes of the authors' release."""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from raid.ops.infomap_process import partition
from raid.ops.neighbors import knn


def infomap_modules(
    features: NDArray[np.float32],
    *,
    num_neighbors: int = 15,
    cutoff: float = 0.5,
    min_size: int = 5,
    seed: int = 1,
    neighbors: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Partition the graph of nearest neighbours with Infomap; small modules are left out.

    Source: the ICSR release (methods.md 2.8): directed links to the neighbours within `cutoff`, weighted
    by their cosine similarity; modules of four nodes or fewer are dropped.

    Args:
        features: (N, D) float32 unit rows.
        num_neighbors: neighbours of a node, itself included.
        cutoff: largest cosine distance of a link.
        min_size: nodes of the smallest module kept.
        seed: of Infomap's search.
        neighbors: what `knn` of the features among themselves returned, of at least `num_neighbors` columns
            (all N where there are fewer); None: searched here.

    Returns:
        (N,) int64 module of every row, -1 = in none.

    Raises:
        ValueError: the package `infomap` is not installed.
        RuntimeError: Infomap failed.
    """
    if find_spec("infomap") is None:
        raise ValueError("referee infomap_last needs the package infomap: pip install 'raid[infomap]'")
    width = min(num_neighbors, len(features))
    similarity, index = (table[:, :width] for table in neighbors or knn(features, features, width))
    sources = np.broadcast_to(np.arange(len(features))[:, None], index.shape)
    linked = (index != sources) & (1.0 - similarity <= cutoff)
    modules = partition(
        len(features), sources[linked], index[linked], similarity[linked].astype(np.float64), seed
    )
    small = np.bincount(modules[modules >= 0], minlength=1) < min_size
    modules[(modules >= 0) & small[modules]] = -1
    return modules
