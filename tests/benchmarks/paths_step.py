"""The clustering of an ICSR epoch as a whole: cluster, refine, score; on MSMT17's structure if it can."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.measure import measured

from raid.config import load
from raid.data import synthetic
from raid.data.samples import Samples
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.epoch_labels import assign_labels

# Identities, cameras and published local labels of MSMT17's training images; not part of this repository.
MSMT17 = Path(__file__).parents[3] / "shared" / "data" / "msmt17_local_labels.parquet"
# Images of each camera of MSMT17's training set (methods.md 1), and their identities.
CAMERAS = [4910, 203, 454, 1614, 4296, 1678, 3453, 795, 1396, 655, 3154, 1364, 3635, 3876, 1138]
Ints = np.ndarray[Any, np.dtype[np.int64]]


def bench_icsr_step(num_rows: int, threads: int) -> dict[str, Any]:
    """The labels of an epoch from features: k-NN, Jaccard, linkage, refinement, health and quality."""
    identities, cameras, local = _structure(num_rows)
    features = synthetic.features_of(1, identities, cameras)
    train = _samples(identities, cameras)
    config = load(
        IcsrConfig,
        overrides={"data.root": "none", "inter.num_clusters": 1200 if num_rows > 20_000 else 800},
    )
    few = np.random.default_rng(0).permutation(num_rows)[:600]  # the first call compiles
    small = load(IcsrConfig, overrides={"data.root": "none", "inter.num_clusters": 40})
    assign_labels(features[few], _samples(identities[few], cameras[few]), local[few], small, 0, None)
    made, cost = measured(lambda: assign_labels(features, train, local, config, 0, None))
    shown = ("cluster/num", "cluster/coverage", "cluster/silhouette", "quality/refined/bcubed_f")
    return {
        "path": "icsr_step",
        "n": num_rows,
        "d": features.shape[1],
        "threads": threads,
        "structure": "msmt17" if num_rows == len(_published()) else "simulated",
        **cost,
        **{name: round(made.figures[name], 4) for name in shown},
    }


def _published() -> list[Any]:
    return pq.read_table(MSMT17).to_pylist() if MSMT17.exists() else []


def _structure(num_rows: int) -> tuple[Ints, Ints, Ints]:
    """Identities, cameras and local labels: MSMT17's own, or of its cameras' sizes."""
    published = _published()
    if num_rows == len(published):
        rows = {name: np.array([row[name] for row in published], np.int64) for name in published[0]
                if name != "path"}  # fmt: skip
        identities = np.unique(rows["identity"], return_inverse=True)[1]
        return identities.astype(np.int64), rows["camera"], rows["local_label"]
    draw = np.random.default_rng(0)
    cameras = np.sort(draw.choice(len(CAMERAS), num_rows, p=np.array(CAMERAS) / sum(CAMERAS)))
    identities = draw.permutation(np.arange(num_rows) % max(1, num_rows // 31))
    local = identities * 3 + draw.integers(0, 3, num_rows)  # every identity in up to three local clusters
    return identities.astype(np.int64), cameras.astype(np.int64), local.astype(np.int64)


def _samples(identities: Ints, cameras: Ints) -> Samples:
    paths = [f"{row}.jpg" for row in range(len(identities))]
    return Samples(Path(), pa.table({"path": paths, "identity": identities, "camera": cameras}), "simulated")
