"""What a large set goes through, step by step in one process: a line a step, no dense way to compare with."""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from benchmarks.measure import limit, measured, memory_gib, peak_anonymous_gib
from benchmarks.paths_neighbors import K1, K2

from raid.data import synthetic
from raid.ops.approximate import approximate_knn
from raid.ops.dbscan import dbscan
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.neighbors import knn
from raid.ops.quality import bcubed

T = TypeVar("T")
Line = dict[str, Any]
DIM, IMAGES, CAMERAS = 256, 17, 15
NOISE, CAMERA_SHIFT = 0.57, 0.4  # the nearest image is of the same person for 80 to 95 in a hundred
EPS, MIN_SAMPLES = 0.6, 4
_SAMPLE = 1000
_DISK_BYTES_PER_ROW = 60_000  # 43,000 at a million rows


def bench_large_set(num_rows: int, threads: int) -> list[Line]:
    """Approximate k-NN; what DBSCAN needs of the Jaccard similarity, and DBSCAN; all of it, kept on disk.

    `anonymous_gib` is the rise of a step; what the steps before it keep is in `held_gib`.
    """
    limit(threads)
    people = synthetic.features(
        0,
        num_identities=-(-num_rows // IMAGES),
        images_per_identity=IMAGES,
        num_cameras=CAMERAS,
        dim=DIM,
        noise=NOISE,
        camera_shift=CAMERA_SHIFT,
    )
    rows, identities = people.features[:num_rows], people.identities[:num_rows]
    _warm_up(rows[:1500])
    lines, before = [], memory_gib("RssAnon")

    def step(path: str, work: Callable[[], T]) -> T:
        held = memory_gib("RssAnon") - before
        with peak_anonymous_gib() as peak:
            result, cost = measured(work)
        lines.append({"path": path, "large_set": True, "n": num_rows, "d": DIM, "threads": threads})
        lines[-1] |= cost | peak | {"held_gib": held}
        return result

    products, table, recall = step("approximate_knn", lambda: approximate_knn(rows, K1, seed=0))
    lines[-1] |= {"recall": recall, "one_nn_precision": _one_nn_precision(rows, identities)}
    jaccard = partial(jaccard_from_neighbors, rows, table, products, k1=K1, k2=K2)
    near = step("jaccard_within_eps", lambda: jaccard(min_similarity=1 - EPS))
    lines[-1] |= {"entries_a_row": near.nnz / num_rows}
    labels = step("dbscan", lambda: dbscan(near, eps=EPS, min_samples=MIN_SAMPLES))
    quality = bcubed(identities, labels, noise="drop")
    lines[-1] |= {"clusters": int(labels.max()) + 1, "outliers": float((labels < 0).mean())}
    lines[-1] |= {"bcubed_precision": quality.precision, "bcubed_recall": quality.recall}
    with tempfile.TemporaryDirectory() as folder:
        if shutil.disk_usage(folder).free < _DISK_BYTES_PER_ROW * num_rows:
            return [
                *lines,
                {"path": "jaccard_on_disk", "n": num_rows, "skipped": f"too little disk: {folder}"},
            ]
        whole = step("jaccard_on_disk", lambda: jaccard(folder=Path(folder)))
        lines[-1] |= {"entries_a_row": whole.nnz / num_rows, "disk_gib": 8 * whole.nnz / 2**30}
        again = step("dbscan_from_disk", lambda: dbscan(whole, eps=EPS, min_samples=MIN_SAMPLES))
        lines[-1] |= {"equal": bool((again == labels).all())}
    return lines


def _warm_up(rows: np.ndarray) -> None:
    """Compile, or load what is compiled, outside the measurement."""
    products, table, _ = approximate_knn(rows, 5, seed=0, list_rows=64, num_probes=2)
    with tempfile.TemporaryDirectory() as folder:
        similarity = jaccard_from_neighbors(rows, table, products, k1=5, k2=2, folder=Path(folder))
        dbscan(similarity, eps=EPS, min_samples=MIN_SAMPLES)


def _one_nn_precision(rows: np.ndarray, identities: np.ndarray) -> float:
    """The share of 1,000 random images whose nearest other image is of the same person (exact search)."""
    sample = np.sort(np.random.default_rng(0).choice(len(rows), _SAMPLE, replace=False))
    _, found = knn(rows[sample], rows, 2)
    nearest = np.where(found[:, 0] == sample, found[:, 1], found[:, 0])
    return float((identities[nearest] == identities[sample]).mean())
