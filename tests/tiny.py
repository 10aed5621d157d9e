"""A set of small lossless images and a configuration to train on it in seconds, shared by the tests here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raid.config import load
from raid.data.streams import stream
from raid.methods.icsr.config import IcsrConfig
from raid.methods.mar.config import MarConfig
from raid.methods.slsr.config import SlsrConfig

HEIGHT, WIDTH = 32, 16
PATTERN = r"(?P<split>train|query|gallery)/(?P<identity>\d+)_c(?P<camera>\d+)_"
WITHOUT_TEST_IMAGES = PATTERN.replace("train|query|gallery", "train")  # and so without evaluation


def write_images(root: Path, *, num_identities: int = 10, num_cameras: int = 3, frames: int = 3) -> Path:
    """Write PNG files (no decoder can read them differently) of blocks of colour that make an identity."""
    for split in ("train", "query", "gallery"):
        (root / split).mkdir(parents=True)
    for identity in range(num_identities):
        for camera in range(num_cameras):
            for frame in range(frames):
                pixels = _pixels(identity, camera, frame)
                split = "train" if identity % 2 == 0 else ("query" if frame == 0 else "gallery")
                Image.fromarray(pixels).save(root / split / f"{identity:04d}_c{camera + 1}_{frame}.png")
    return root


def write_source(root: Path, *, num_identities: int = 6, frames: int = 4) -> Path:
    """Write the images of a labelled set: other people at other cameras."""
    (root / "train").mkdir(parents=True)
    for identity in range(100, 100 + num_identities):
        for frame in range(frames):
            pixels = _pixels(identity, 50 + frame % 2, frame)
            Image.fromarray(pixels).save(root / "train" / f"{identity:04d}_c{1 + frame % 2}_{frame}.png")
    return root


def _pixels(identity: int, camera: int, frame: int) -> NDArray[np.uint8]:
    clothes = stream(1, identity).uniform(40, 215, (4, 2, 3))
    tint = stream(2, camera).uniform(0.75, 1.25, 3)
    noise = stream(3, identity, camera, frame).normal(0.0, 12.0, (HEIGHT, WIDTH, 3))
    blocks = clothes.repeat(HEIGHT // 4, axis=0).repeat(WIDTH // 2, axis=1)
    return (blocks * tint + noise).clip(0, 255).astype(np.uint8)


def config(root: Path, folder: Path, **overrides: Any) -> IcsrConfig:
    """Return the configuration of a run of seconds; overrides are written `section__field=value`."""
    values: Mapping[str, Any] = {
        "data.layout": "folder",
        "data.pattern": PATTERN,
        "data.root": str(root),
        "data.height": HEIGHT,
        "data.width": WIDTH,
        "data.cache_folder": str(root / "cache"),
        "model.backbone": "resnet10",
        "model.weights": "none",
        "model.ghost_size": 4,
        "augment.pad": 2,
        "sampler.identities": 8,
        "sampler.instances": 2,
        "neighbors.k1": 8,
        "neighbors.k2": 3,
        "intra.epochs": 2,
        "intra.steps": 2,
        "intra.num_clusters": 6,
        "inter.epochs": 2,
        "inter.steps": 3,
        "inter.num_clusters": 8,
        "refine.num_neighbors": 5,
        "numerics.dtype": "float64",
        "run.folder": str(folder),
        "run.device": "cpu",
        "track.enabled": False,
    }
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(IcsrConfig, overrides={**values, **given})


def mar_config(source: Path, target: Path, folder: Path, **overrides: Any) -> MarConfig:
    """Return the configuration of a run of MAR of seconds; overrides are written `section__field=value`."""
    values: Mapping[str, Any] = {
        "data.layout": "folder",
        "data.pattern": PATTERN,
        "data.root": str(target),
        "data.height": HEIGHT,
        "data.width": WIDTH,
        "data.cache_folder": str(target / "cache"),
        "source.layout": "folder",
        "source.pattern": PATTERN,
        "source.root": str(source),
        "model.backbone": "resnet10",
        "model.weights": "none",
        "model.ghost_size": 4,
        "augment.pad": 2,
        "pretraining.epochs": 1,
        "pretraining.steps": 3,
        "pretraining.batch_size": 16,
        "pretraining.ghost_size": 4,
        "training.epochs": 2,
        "training.steps": 3,
        "training.source": 8,
        "training.target": 8,
        "mining.ratio": 0.3,
        "mining.begin": 0,
        "optimizer.learning_rate": 1e-3,
        "losses.lambda2": 1.0,
        "numerics.dtype": "float64",
        "run.folder": str(folder),
        "run.device": "cpu",
        "track.enabled": False,
    }
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(MarConfig, overrides={**values, **given})


def slsr_config(root: Path, folder: Path, **overrides: Any) -> SlsrConfig:
    """Return the configuration of a run of SLSR of seconds; overrides are written `section__field=value`."""
    values: Mapping[str, Any] = {
        "data.layout": "folder",
        "data.pattern": PATTERN,
        "data.root": str(root),
        "data.height": HEIGHT,
        "data.width": WIDTH,
        "data.cache_folder": str(root / "cache"),
        "model.backbone": "resnet10",
        "model.weights": "none",
        "model.last_stride": 1,
        "model.ghost_size": 4,
        "model.bottleneck_width": 8,
        "augment.pad": 2,
        "augment.input_size": None,
        "baseline.epochs": 1,
        "baseline.steps": 3,
        "baseline.batch_size": 16,
        "clusters.num_clusters": 2,
        "clusters.silhouettes": [2, 3],
        "gan.height": 32,
        "gan.width": 16,
        "gan.channels": 2,
        "gan.num_latent": 4,
        "gan.epochs": 2,
        "gan.steps": 2,
        "gan.batch_size": 8,
        "gan.min_images": 2,
        "gan.grid_epochs": 1,
        "generated.count": 12,
        "finetuning.epochs": 2,
        "finetuning.steps": 3,
        "finetuning.batch_size": 16,
        "numerics.dtype": "float64",
        "run.folder": str(folder),
        "run.device": "cpu",
        "track.enabled": False,
    }
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(SlsrConfig, overrides={**values, **given})
