"""Made-up pictures in the layouts of published sets: the files' names are the sets', the pictures noise."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from raid.data.samples import Samples

Row = tuple[str, int, int, str]  # path, identity, camera, split


def picture(seed: int) -> np.ndarray:
    """A tiny picture (height, width, 3) unlike any other; not square, so that a transposition shows."""
    return np.random.default_rng(seed).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def draw(root: Path, paths: Iterable[str]) -> Path:
    """Write a picture to each of the paths below `root`."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(root / path)
    return root


def rows(samples: Samples) -> list[Row]:
    """What was read, in the samples' order."""
    columns = (samples.paths, samples.identities.tolist(), samples.cameras.tolist())
    return list(zip(*columns, samples.table["split"].to_pylist(), strict=True))
