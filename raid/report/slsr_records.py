"""What SLSR alone records: clusters of images, the GANs of the clusters, the generated images' quality."""

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raid.errors import InputError
from raid.evaluate import Record, load_record
from raid.report.charts import Point
from raid.report.reading import Epoch, is_finite, records
from raid.run_folder import RunFolder

_TABLE = ("silhouette_features", "silhouette_plane")
_CLUSTERS = ("clusters", "labels", "plane", "numbers", *_TABLE, "silhouette")
_QUALITY = ("cluster", "samples", "variance_ratio", "frechet", "nearest_real", "real_nearest", "copies")
_NAME = re.compile(r"parent|cluster_(\d+)")
_GRID = re.compile(r"grid_(\d+)\.png")


@dataclass(frozen=True)
class Gan:
    """A GAN as its folder records it.

    Attributes:
        cluster: whose images it was trained on; -1: those of all, the others' parent.
        epochs: figures of its epochs; `epoch` counts from 0.
        result: what came of it; empty before its end.
        real: grid of real images; None before it is drawn.
        grids: (epochs done, grid of samples) by rising epoch.
    """

    cluster: int
    epochs: list[Epoch]
    result: dict[str, Any]
    real: Path | None
    grids: list[tuple[int, Path]]

    @staticmethod
    def read(folder: RunFolder, path: Path) -> "Gan":
        """Read what the GAN in a folder below `folder.gans` has recorded.

        Raises:
            InputError: a record is damaged, or the GAN is done and a record is missing.
        """
        matched = _NAME.fullmatch(path.name)
        grids = ((_GRID.fullmatch(file.name), file) for file in path.iterdir())
        gan = Gan(
            cluster=int(matched[1]) if matched and matched[1] else -1,
            epochs=records(path / "epochs.jsonl", partial(folder.gan_epochs, path.name), "epoch"),
            result=_result(path),
            real=path / "real.png" if (path / "real.png").exists() else None,
            grids=sorted((int(name[1]), file) for name, file in grids if name),
        )
        needed = {"epochs.jsonl": gan.epochs, "real.png": gan.real, "grid_*.png": gan.grids}
        missing = [name for name, there in needed.items() if not there]
        if gan.result and missing:
            raise InputError(f"{path / missing[0]}: is missing, though the GAN is done")
        return gan

    @property
    def name(self) -> str:
        """What the page calls it."""
        return "parent" if self.cluster < 0 else f"cluster {self.cluster}"

    def points(self, key: str) -> list[Point]:
        """Return (epoch from 1, finite value) of what its epochs recorded under `key`."""
        return [(epoch["epoch"] + 1, epoch[key]) for epoch in self.epochs if is_finite(epoch.get(key))]


@dataclass(frozen=True)
class SlsrRecords:
    """Records of SLSR; all empty of another method, and before their stage.

    Attributes:
        clusters: of the training images (`RunFolder.clusters`).
        gans: the parent first, then by cluster.
        generated: counts and quality of the generated images (`RunFolder.generated_facts`).
    """

    clusters: Record
    gans: list[Gan]
    generated: dict[str, Any]

    @staticmethod
    def read(folder: RunFolder) -> "SlsrRecords":
        """Read what the folder holds.

        Raises:
            InputError: a record is damaged, or missing where a later stage has begun.
        """
        named = folder.gans.iterdir() if folder.gans.is_dir() else []
        gans = [Gan.read(folder, path) for path in named if path.is_dir() and _NAME.fullmatch(path.name)]
        found = SlsrRecords(
            _clusters(folder.clusters),
            sorted(gans, key=lambda gan: gan.cluster),
            _generated(folder.generated_facts),
        )
        if not found.clusters and (found.gans or found.generated):
            raise InputError(f"{folder.clusters}: is missing, though later stages have begun")
        return found

    @property
    def num_clusters(self) -> int:
        """Number of clusters, once they are made."""
        return int(self.clusters["clusters"].max()) + 1


def _clusters(path: Path) -> Record:
    if not path.exists():
        return {}
    try:
        found = load_record(path)
    except InputError as error:
        raise InputError(f"{path}: is damaged: {error.__cause__}".splitlines()[0]) from error
    lacking = [key for key in _CLUSTERS if key not in found]
    if lacking:
        raise InputError(f"{path}: lacks {', '.join(lacking)}")
    rows, numbers = found["clusters"].shape, found["numbers"].shape
    fits = (
        len(rows) == 1
        and rows[0] > 0
        and all(_counts(found[key]) for key in ("clusters", "labels", "numbers"))
        and found["labels"].shape == rows
        and found["plane"].shape == (*rows, 2)
        and bool(np.isfinite(found["plane"]).all())
        and all(found[key].shape == numbers for key in _TABLE)
        and found["silhouette"].shape == ()
    )
    if not fits:
        raise InputError(f"{path}: its arrays do not fit together")
    return found


def _counts(values: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether they are whole numbers from 0."""
    return values.dtype.kind in "iu" and bool((values >= 0).all())


def _result(path: Path) -> dict[str, Any]:
    file = path / "result.json"
    if not file.exists() and (path / "generator.pt").exists():
        raise InputError(f"{file}: is missing, though the GAN is done")
    found = _json(file)
    if found and not (isinstance(found.get("alarms"), list) and isinstance(found.get("epochs"), int)):
        raise InputError(f"{file}: lacks alarms or epochs")
    return found


def _generated(path: Path) -> dict[str, Any]:
    found = _json(path)
    if not found:
        return {}
    lacking = [key for key in ("counts", "quality") if not isinstance(found.get(key), list)]
    if lacking:
        raise InputError(f"{path}: lacks {', '.join(lacking)}")
    if not all(isinstance(count, int) for count in found["counts"]):
        raise InputError(f"{path}: its counts are no numbers")
    for row in found["quality"]:
        missing = [key for key in _QUALITY if key not in row] if isinstance(row, dict) else _QUALITY
        if missing:
            raise InputError(f"{path}: a cluster's quality lacks {', '.join(missing)}")
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}") from error
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: is damaged: it holds no record")
    return found
