"""What the GAN of a cluster is made from, where it is kept, and what is said of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.streams import GAN, stream
from raid.methods.slsr.config import Gan

Ints = NDArray[np.int64]

PARENT = -1  # in place of a cluster's number: the GAN of all images


@dataclass(frozen=True, eq=False)
class GanJob:
    """What the GAN of any cluster needs.

    Attributes:
        gan: its settings.
        seed: of everything random.
        device: as run.device.
        images: N training images, of any size.
        clusters: (N,) cluster of each image, 0..num_clusters-1.
        num_clusters: clusters, empty ones too.
        folder: gans/ of the run, absolute: every process of the pool writes there what it trains.
        blur: whether grids of pictures are written blurred.
    """

    gan: Gan
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    images: Images
    clusters: Ints
    num_clusters: int
    folder: Path
    blur: bool = False

    @property
    def with_gan(self) -> list[int]:
        """The clusters that have enough images for a GAN, in order."""
        return [int(cluster) for cluster in np.flatnonzero(self.sizes >= self.gan.min_images)]

    @property
    def sizes(self) -> Ints:
        """Number of real images of each cluster (num_clusters,)."""
        return np.bincount(self.clusters, minlength=self.num_clusters)

    def rows(self, cluster: int) -> Ints:
        """Return which images the GAN of `cluster` (or `PARENT`) is trained on."""
        return np.flatnonzero((self.clusters == cluster) | (cluster == PARENT))

    def place(self, cluster: int) -> Path:
        """Return the folder of the GAN of `cluster` (or `PARENT`)."""
        return self.folder / ("parent" if cluster == PARENT else f"cluster_{cluster:02d}")

    def is_done(self, cluster: int) -> bool:
        """Whether the GAN of `cluster` (or `PARENT`) has been trained."""
        return (self.place(cluster) / "generator.pt").exists()

    def random(self, cluster: int, *key: int) -> np.random.Generator:
        """Return the random numbers of the GAN of `cluster` (or `PARENT`) for `key`."""
        return stream(self.seed, GAN, cluster - PARENT, *key)


@dataclass(frozen=True)
class GanResult:
    """What result.json holds.

    Attributes:
        cluster: or `PARENT`.
        images: real ones.
        epochs: done.
        steps: of the discriminator.
        started: Unix time in seconds; of the latest attempt, where one was interrupted.
        ended: likewise.
        variance_ratio: pixel variance of the last samples over that of the real images; None where these do
            not vary.
        alarms: what is wrong with the GAN, in words.
    """

    cluster: int
    images: int
    epochs: int
    steps: int
    started: float
    ended: float
    variance_ratio: float | None
    alarms: tuple[str, ...]


def read_result(place: Path) -> GanResult:
    """Read result.json of a GAN's folder."""
    values = json.loads((place / "result.json").read_text())
    return GanResult(**values | {"alarms": tuple(values["alarms"])})


def named(cluster: int) -> str:
    """Return what `cluster` (or `PARENT`) is called in messages."""
    return "all images" if cluster == PARENT else f"cluster {cluster}"
