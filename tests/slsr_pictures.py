"""Small pictures in clusters of a colour each, and the job of GANs on them."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from raid.methods.slsr.config import Gan
from raid.methods.slsr.gan_job import GanJob

COLOURS = np.array([[200, 60, 50], [50, 180, 70], [60, 70, 210], [190, 190, 60], [120, 120, 120]])
SIZE = {"height": 32, "width": 16}
SMALL = {**SIZE, "channels": 4, "num_latent": 8, "epochs": 2, "batch_size": 8, "grid_epochs": 1}


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory; an `Images`."""

    pixels: np.ndarray

    @property
    def height(self):
        return self.pixels.shape[2]

    @property
    def width(self):
        return self.pixels.shape[3]

    def __len__(self):
        return len(self.pixels)

    def gather(self, rows):
        return torch.from_numpy(self.pixels[rows])

    def take(self, rows):
        return ArrayImages(self.pixels[rows])


def pictures(clusters, *, height=40, width=20, seed=0) -> np.ndarray:
    """A picture (3, height, width) of each cluster's colour: a bright bar somewhere, and noise."""
    rng = np.random.default_rng(seed)
    images = COLOURS[clusters][:, :, None, None] + rng.integers(-30, 31, (len(clusters), 3, height, width))
    for image in images:
        top = rng.integers(0, height - 6)
        image[:, top : top + 6] += 60
    return images.clip(0, 255).astype(np.uint8)


def clusters_of(*sizes) -> np.ndarray:
    """Clusters of these sizes, mixed."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(1).permutation(clusters).astype(np.int64)


def gan_job(folder: Path, *sizes, seed=1, size=(40, 20), **gan) -> GanJob:
    clusters = clusters_of(*sizes)
    images = ArrayImages(pictures(clusters, height=size[0], width=size[1]))
    settings = Gan(**{**SMALL, **gan})
    return GanJob(settings, seed, "cpu", images, clusters, len(sizes), folder / "gans")


def elsewhere(job: GanJob, folder: Path) -> GanJob:
    return replace(job, folder=folder / "gans")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`; of result.json without the times, which nothing can repeat."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _timeless(path) if path.name == "result.json" else path.read_bytes()
            for name, path in files.items()}  # fmt: skip


def _timeless(path: Path) -> bytes:
    values = json.loads(path.read_text())
    assert values["started"] <= values["ended"]
    return json.dumps(
        {key: value for key, value in values.items() if key not in ("started", "ended")}
    ).encode()
