"""SLSR stage 2: clusters of the training images by the baseline's features (section 4.2)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raid.errors import InputError
from raid.files import atomic_path
from raid.methods.slsr.config import ImageClusters
from raid.ops.kmeans import kmeans
from raid.ops.silhouettes import principal_plane, silhouette_table, silhouettes

Ints = NDArray[np.int64]
_ARRAYS = ("clusters", "labels", "plane", "numbers", "silhouette_features", "silhouette_plane", "silhouette")


@dataclass(frozen=True, eq=False)
class Clustered:
    """The clusters of N training images.

    Attributes:
        clusters: (N,) 0..k-1.
        labels: (N,) identities 0..K-1, by which another run knows its own images again.
        plane: (N, 2) float32, the features' principal components (SLSR fig. 4).
        numbers: (m,) numbers of clusters in the table of silhouettes (SLSR table 1).
        silhouette_features: (m,) mean silhouettes of the features' clusters.
        silhouette_plane: (m,) of the plane's, as the paper has them.
        silhouette: () of `clusters`; 0 for one cluster.
    """

    clusters: Ints
    labels: Ints
    plane: NDArray[np.float32]
    numbers: Ints
    silhouette_features: NDArray[np.float64]
    silhouette_plane: NDArray[np.float64]
    silhouette: NDArray[np.float64]

    def figures(self) -> dict[str, float]:
        """Return what an epoch's record says of the clusters."""
        sizes = np.bincount(self.clusters)
        return {
            "clusters/num": float(len(sizes)),
            "clusters/silhouette": float(self.silhouette),
            "clusters/size_min": float(sizes.min()),
            "clusters/size_max": float(sizes.max()),
        }

    def write(self, path: Path) -> None:
        """Write clusters.npz."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **{name: getattr(self, name) for name in _ARRAYS})

    @staticmethod
    def read(path: Path) -> "Clustered":
        """Read clusters.npz.

        Raises:
            InputError: it cannot be read, or is not what `write` wrote.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                return Clustered(**{name: content[name] for name in _ARRAYS})
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path}: is not a clusters.npz that raid wrote: {error}") from error


def cluster_images(item: tuple[ImageClusters, int], features: NDArray[np.float32], labels: Ints) -> Clustered:
    """Cluster the training images; an item of the pool, for the driver may be on a small machine.

    Args:
        item: how, and the seed.
        features: (N, D), of any length: not normalised, as published.
        labels: (N,) identities.

    Raises:
        InputError: fewer images than clusters.

    Memory: that of `raid.ops.silhouettes.silhouettes`, two copies of the features.
    """
    chosen, seed = item
    if len(features) < chosen.num_clusters:
        raise InputError(
            f"clusters.num_clusters: {chosen.num_clusters}, and there are {len(features)} training images"
        )
    clusters = kmeans(
        features, num_clusters=chosen.num_clusters, seed=seed, restarts=chosen.restarts
    ).labels.astype(np.int64)
    numbers = [number for number in chosen.silhouettes if number < len(features)]
    plane = principal_plane(features)
    table = silhouette_table(features, numbers, seed=seed, restarts=chosen.restarts, plane=plane)
    known = {row.num_clusters: row.features for row in table}  # of the same starts, the same clusters
    silhouette = known.get(chosen.num_clusters)
    return Clustered(
        clusters=clusters,
        labels=labels,
        plane=plane,
        numbers=np.array(numbers, dtype=np.int64),
        silhouette_features=np.array([row.features for row in table], dtype=np.float64),
        silhouette_plane=np.array([row.plane for row in table], dtype=np.float64),
        silhouette=np.array(silhouettes(features, [clusters])[0] if silhouette is None else silhouette),
    )
