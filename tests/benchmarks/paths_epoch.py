"""A whole epoch of ICSR by its stages, on simulated images: as many as Market-1501 or MSMT17 have.

For a machine with a GPU: on a CPU an epoch of a ResNet-50 takes hours.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raid.config import load
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.launch import local_backend

HEIGHT, WIDTH = 256, 128
PATTERN = r"(?P<split>train|query|gallery)/(?P<identity>\d+)_c(?P<camera>\d+)_"
STAGES = ("extract", "cluster", "train", "data_wait", "evaluate", "checkpoint")


@dataclass(frozen=True)
class Sizes:
    """Images of a set, and its people and cameras."""

    train: int
    query: int
    gallery: int
    people: int
    cameras: int
    clusters: int


MARKET = Sizes(12_936, 3_368, 15_913, 1_501, 6, 800)
MSMT17 = Sizes(32_621, 11_659, 82_161, 4_101, 15, 1_200)


def bench_whole_epoch(num_rows: int, threads: int) -> dict[str, Any]:
    """The second epoch: the first warms up. `num_rows` chooses the set."""
    line = {"path": "whole_epoch", "n": num_rows}
    if not torch.cuda.is_available():
        return line | {"skipped": "needs a GPU"}
    sizes = MARKET if num_rows == MARKET.train else MSMT17
    with tempfile.TemporaryDirectory() as folder:
        return line | whole_epoch(Path(folder), sizes, {"numerics.threads": threads})


def whole_epoch(folder: Path, sizes: Sizes, overrides: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the stages of an epoch, and images a second."""
    write_images(folder / "images", sizes)
    given = {
        "data.layout": "folder", "data.pattern": PATTERN, "data.root": str(folder / "images"),
        "data.height": HEIGHT, "data.width": WIDTH, "data.cache_folder": str(folder / "cache"),
        "model.weights": "none", "refine.enabled": False, "track.enabled": False,
        "inter.epochs": 2, "inter.num_clusters": sizes.clusters, "run.folder": str(folder / "run"),
    }  # fmt: skip
    config = load(IcsrConfig, overrides={**given, **overrides})
    run = icsr.run(config, local_backend(config))
    epoch = run.metrics()[-1]
    found = {f"{name}_s": epoch[f"time/{name}_s"] for name in STAGES}
    return found | {"images_per_s": epoch["time/images_per_s"], "batch": config.training.sampler.batch_size}


def write_images(root: Path, sizes: Sizes) -> None:
    """JPEG files: a pattern a person, with noise."""
    patterns = np.random.default_rng(0).integers(0, 256, (sizes.people, 16, 8, 3), dtype=np.uint8)

    def write(place: tuple[str, int, int]) -> None:
        split, number, seed = place
        person, camera = number % sizes.people, number // sizes.people % sizes.cameras
        noise = np.random.default_rng(seed).integers(-40, 40, (32, 16, 3))
        coarse = patterns[person].repeat(2, axis=0).repeat(2, axis=1).astype(np.int64)
        image = Image.fromarray(np.clip(coarse + noise, 0, 255).astype(np.uint8)).resize((WIDTH, HEIGHT))
        image.save(root / split / f"{person:05d}_c{camera}_{number:06d}.jpg", quality=90)

    for split in ("train", "query", "gallery"):
        (root / split).mkdir(parents=True)
    with ThreadPoolExecutor() as threads:
        list(threads.map(write, _places(sizes), chunksize=64))


def _places(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    seed = 0
    for split in ("train", "query", "gallery"):
        for number in range(getattr(sizes, split)):
            yield split, number, seed
            seed += 1
