"""Files of made-up features of small pictures, to be ranked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pictures import noise
from PIL import Image

from raid.data.feature_file import FeatureFacts, write_features
from raid.data.samples import Record, Samples

MODEL = "a" * 64
DIMENSION = 8
Row = tuple[str, int | None, int | None, str]  # path, identity, camera, split


def facts(root: Path, **given: object) -> FeatureFacts:
    known = {
        "model": MODEL, "height": 32, "width": 16, "flip": False, "dimension": DIMENSION, "root": str(root),
        "name": "made up", "camera_names": (), "raid": "0",
    }  # fmt: skip
    return FeatureFacts(**{**known, **given})


def unit_rows(count: int, seed: int = 0, *, exact: bool = True) -> np.ndarray:
    """Unit rows (count, 8), float32; the products of `exact` ones are quarters: ties are ties everywhere."""
    rng = np.random.default_rng(seed)
    if not exact:
        rows = rng.standard_normal((count, DIMENSION)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.zeros((count, DIMENSION), np.float32)
    for row in rows:
        row[rng.choice(DIMENSION, 4, replace=False)] = rng.choice([-0.5, 0.5, 0.5], 4)
    return rows


def feature_file(
    folder: Path, rows: Sequence[Row], features: np.ndarray | None = None, *, name: str = "f", **given: object
) -> Path:
    """Pictures of noise, and a file of features of them."""
    root = folder / f"{name}_images"
    for number, (path, *_) in enumerate(rows):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(16, 32, seed=number)).save(root / path, "PNG")
    samples = Samples.scan(root, [Record(*row) for row in rows], name="made up")
    features = unit_rows(len(rows)) if features is None else features
    path = folder / f"{name}.parquet"
    write_features(path, samples, [features], facts(root, **given))
    return path


def people(
    count: int, *, seed: int = 0, splits: Sequence[str] = ("query", "gallery", "gallery")
) -> list[Row]:
    """Images of a few people, some of them junk or not known, by cameras of which some are not known."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        identity, camera = int(rng.integers(-2, 4)), int(rng.integers(-1, 3))
        known = None if identity == -2 else identity
        rows.append(
            (f"{number:03d}.png", known, None if camera < 0 else camera, splits[number % len(splits)])
        )
    return rows
