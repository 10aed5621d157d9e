"""Infomap modules of the neighbour graph, for the information nodes of the authors' release."""

import numpy as np
from numpy.typing import NDArray

from raid.ops.neighbors import knn


def infomap_modules(
    features: NDArray[np.float32],
    *,
    num_neighbors: int = 15,
    cutoff: float = 0.5,
    min_size: int = 5,
    seed: int = 1,
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

    Returns:
        (N,) int64 module of every row, -1 = in none.

    Raises:
        ValueError: the package `infomap` is not installed.
    """
    try:
        from infomap import Infomap
    except ImportError as error:
        raise ValueError(
            "referee infomap_last needs the package infomap: pip install 'raid[infomap]'"
        ) from error
    similarity, index = knn(features, features, min(num_neighbors, len(features)))
    network = Infomap(silent=True, two_level=True, directed=True, seed=seed)
    for node in range(len(features)):
        network.add_node(node)
        for neighbor, weight in zip(index[node], similarity[node], strict=True):
            if neighbor != node and 1.0 - weight <= cutoff:
                network.add_link(node, int(neighbor), float(weight))
    found: dict[int, int] = network.run().modules()
    modules = np.full(len(features), -1, dtype=np.int64)
    for node, module in found.items():
        modules[node] = module
    small = np.bincount(modules[modules >= 0], minlength=1) < min_size
    modules[(modules >= 0) & small[modules]] = -1
    return modules
