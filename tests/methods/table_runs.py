"""Made-up runs of the papers' tables: folders as a training leaves them, of the run files' configurations."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raid.config import Schema, load
from raid.evaluate import save_record
from raid.methods.known import config_of
from raid.methods.papers.filling import TABLES
from raid.methods.papers.tables import Cell
from raid.methods.slsr.clusters import Clustered
from raid.run_folder import RunFolder

JOBS = Path(__file__).parents[2] / "jobs"
CELLS = {f"{table.name}, {cell.block}, {cell.row}": cell for table in TABLES for cell in table.cells}
# What a run of raid records of each set; and queries and gallery images of the published set.
FACTS = {
    "Market-1501": ({"set": "Market-1501", "protocol": "standard"}, 3_368, 19_732),
    "MSMT17": (
        {"set": "MSMT17", "version": "V1", "protocol": "standard", "with_validation": "true"},
        11_659,
        82_161,
    ),
    "DukeMTMC-reID": ({"set": "DukeMTMC-reID", "protocol": "standard"}, 2_228, 17_661),
    "CUHK03": (
        {"set": "CUHK03", "protocol": "cuhk03_classic", "boxes": "detected", "split_number": "0"},
        984,
        984,
    ),
    "VIPeR": ({"set": "VIPeR", "protocol": "viper", "split_number": "0"}, 316, 316),
}
OF_SOURCE = {
    "source_set": "MSMT17",
    "source_version": "V1",
    "source_protocol": "standard",
    "source_with_validation": "false",
    "source_people": "4101",
}
KINDS = {"": 0.0, "multi_query/": 0.1, "rerank/": 0.2, "multi_query/rerank/": 0.25}
PLACES = {"mAP": 0.0, "rank1": 0.01, "rank5": 0.02, "rank10": 0.03, "mINP": -0.1}
SILHOUETTES = (0.51, 0.72, 0.68, 0.6)


def config(cell: Cell, *overrides: str, seed: int = 1) -> Schema:
    """The configuration of the cell's command."""
    _, method, file, *given = cell.job.command.split()
    return load(config_of(method), JOBS.parent / file, [*given, f"seed={seed}", *overrides])


def figures(mean: float, *, kinds: Mapping[str, float] = KINDS) -> dict[str, float]:
    """All figures of an epoch, different ones, from its mAP on."""
    return {
        f"eval/{kind}{place}": mean + added + more
        for kind, added in kinds.items()
        for place, more in PLACES.items()
    }


def run_of(
    path: Path,
    cell: Cell,
    *overrides: str,
    seed: int = 1,
    mean: float = 0.5,
    images: str = "images",
    kinds: Mapping[str, float] = KINDS,
    numbers: tuple[int, int] | None = None,
    last: Mapping[str, Any] | None = None,
    **facts: str | None,
) -> Path:
    """A finished run of the cell's command and these overrides, whose last epoch is not its best.

    `facts` are those that are recorded otherwise; None: not at all.
    """
    method, made = cell.job.method, config(cell, *overrides, seed=seed)
    known, *published = FACTS[re.split(",", cell.of.title)[0]]
    known = {**known, **(OF_SOURCE if method == "mar" else {}), **facts}
    known = {key: value for key, value in known.items() if value is not None}
    data = images if method == "icsr" else {"data.root": images}
    if method == "mar":
        data = {**data, "source.root": "others", "pretraining.checkpoint": f"of seed {seed}"}
    folder = RunFolder.open(path, made, data, method=method, facts=known, resume=False, fresh=False)
    folder.record_epoch({"epoch": 0, **figures(0.7, kinds=kinds)}, [])
    folder.record_epoch({"epoch": 1, **figures(mean, kinds=kinds), **(last or {})}, [])
    queries, gallery = numbers or published
    curve = mean + np.minimum(np.arange(50), 30) / 100 + 0.01  # 0.01 a place, from rank 1 on
    record = {"average_precision": np.full(queries, mean), "num_gallery": np.array(gallery), "cmc": curve}
    save_record(folder.evaluation, record)
    if method == "slsr":
        write_clusters(folder)
    folder.model.write_text("a model")
    return path


def write_clusters(folder: RunFolder, numbers: tuple[int, ...] = (2, 3, 4, 5)) -> None:
    rows = np.arange(6)
    Clustered(
        clusters=rows % 3,
        labels=rows % 2,
        plane=np.zeros((6, 2), np.float32),
        numbers=np.array(numbers),
        silhouette_features=np.full(len(numbers), 0.1),
        silhouette_plane=np.array(SILHOUETTES[: len(numbers)]),
        silhouette=np.array(0.1),
    ).write(folder.clusters)
