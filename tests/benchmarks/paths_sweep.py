"""A search over clusterings of stored features, against a process a trial that is given the same file."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.measure import limit, measured, peak_anonymous_gib
from benchmarks.paths_clustering import DIM, clusters_at, rows_of

from raid.methods.icsr.clustering_trials import Outcome, Trial, run_trials
from raid.methods.sections import Clustering, Neighbors
from raid.ops.jaccard import jaccard_similarity
from raid.sweep_folder import SweepFolder

PAIRS = ((20, 4), (20, 6), (30, 4), (30, 6), (40, 6))  # k1, k2
_COUNTS = 10  # numbers of clusters, half to one and a half times the usual
_ALONE = (13, 25, 37)  # trials that are run alone: of the middle pairs, whose k1 are no more than the mean
_TRIAL = Path(__file__).with_name("sweep_trial.py")


def bench_clustering_sweep(num_rows: int, threads: int) -> dict[str, Any]:
    """50 trials of average linkage with their silhouettes, 5 (k1, k2) x 10 cluster counts.

    `ratio` leaves out what a process takes to start and to load compiled code, `ratio_of_processes` does not.
    """
    limit(threads)
    trials = trials_at(num_rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        np.save(file, rows_of(num_rows).features)
        features = np.load(file, mmap_mode="r")
        list(run_trials(features[:500], [Trial(trials[0].neighbors, Clustering(), 50)], seed=0))
        with peak_anonymous_gib() as peak:
            outcomes, cost = measured(lambda: list(run_trials(features, trials, seed=0)))
        alone = [_alone(file, num_rows, trials[place], threads) for place in _ALONE]
        matrix = _matrix_gib(features, trials[-1])
    reference = float(np.mean([one["cpu_seconds"] for one in alone])) * len(trials)
    processes = float(np.mean([one["process_cpu_seconds"] for one in alone])) * len(trials)
    by_place = {outcome.place: outcome for outcome in outcomes}
    return {
        "path": "clustering_sweep",
        "n": num_rows,
        "d": DIM,
        "threads": threads,
        "trials": len(outcomes),
        **cost,
        **peak,
        "two_matrices_gib": 2 * matrix,
        "reference": f"a process a trial, {len(alone)} of {len(trials)} run",
        "reference_cpu_seconds": reference,
        "ratio": reference / cost["cpu_seconds"],
        "ratio_of_processes": processes / cost["cpu_seconds"],
        "extrapolated": True,
        "equal": all(_equal(by_place[place], one) for place, one in zip(_ALONE, alone, strict=True)),
    }


def trials_at(num_rows: int) -> list[Trial]:
    """The trials: by pair, and by rising number of clusters."""
    counts = np.linspace(0.5, 1.5, _COUNTS) * clusters_at(num_rows)
    return [
        Trial(Neighbors(k1=k1, k2=k2), Clustering(), max(1, round(count)))
        for k1, k2 in PAIRS
        for count in counts
    ]


def _alone(file: Path, num_rows: int, trial: Trial, threads: int) -> dict[str, Any]:
    sizes = trial.neighbors.of(num_rows, trial.num_clusters)
    arguments = map(str, (file, num_rows, *sizes, trial.num_clusters, threads))
    done = subprocess.run(
        [sys.executable, str(_TRIAL), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def _matrix_gib(features: np.ndarray, trial: Trial) -> float:
    """Size of the Jaccard similarity of a trial."""
    k1, k2 = trial.neighbors.of(len(features), trial.num_clusters)
    matrix = jaccard_similarity(features, k1=k1, k2=k2)
    return (matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes) / 2**30


def _equal(ours: Outcome, alone: dict[str, Any]) -> bool:
    labels = hashlib.sha256(ours.labels.tobytes()).hexdigest()
    return labels == alone["labels"] and ours.figures["cluster/silhouette"] == alone["silhouette"]


def bench_clustering_sweep_on_tune(num_rows: int, threads: int) -> dict[str, Any]:
    """The same trials as a user has them: tune/clustering.py, with Ray Tune, records, report and all.

    Seconds of the clock, for both sides are several processes; the peer's trials run as many at a time as
    the sweep's.
    """
    limit(threads)
    trials = trials_at(num_rows)
    at_once = max(1, (os.cpu_count() or 1) // threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "features.npy"
        np.save(file, rows_of(num_rows).features)
        _, cost = measured(lambda: _swept(folder, num_rows, trials, threads))
        with _memory_of_trials() as memory:  # by itself: looking at it takes time
            _swept(folder, num_rows, trials, threads, "--fresh")
        alone = []
        for place in _ALONE:
            before = time.perf_counter()
            with ThreadPoolExecutor(at_once) as several:
                runs = [
                    several.submit(_alone, file, num_rows, trials[place], threads) for _ in range(at_once)
                ]
                for run in runs:
                    run.result()
            alone.append((time.perf_counter() - before) / at_once)
        matrix = _matrix_gib(np.load(file, mmap_mode="r"), trials[-1])
        done = SweepFolder(folder / "sweep").trials()
    reference = float(np.mean(alone)) * len(trials)
    return {
        "path": "clustering_sweep_on_tune",
        "n": num_rows,
        "d": DIM,
        "threads": threads,
        "trials": sum(trial.state == "done" for trial in done),
        "at_once": at_once,
        "seconds": cost["seconds"],
        **memory,
        "two_matrices_gib": 2 * matrix,
        "reference": f"a process a trial, {at_once} at a time, {len(alone)} of {len(trials)} run",
        "reference_seconds": reference,
        "ratio_of_seconds": reference / cost["seconds"],
        "extrapolated": True,
    }


def _swept(folder: Path, num_rows: int, trials: list[Trial], threads: int, *further: str) -> None:
    """Run the script on a manifest of images that nobody opens: five k1, a grid being a product."""
    table = {
        "path": [f"{row:06d}.jpg" for row in range(num_rows)],
        "identity": pa.array([None] * num_rows, pa.int64()),
        "camera": pa.array([0] * num_rows, pa.int64()),
        "split": ["train"] * num_rows,
        "width": pa.array([64] * num_rows, pa.int32()),
        "height": pa.array([128] * num_rows, pa.int32()),
        "content": [f"{row:032x}" for row in range(num_rows)],
    }
    pq.write_table(pa.table(table), folder / "images.parquet")
    (folder / "run.yaml").write_text("{}\n")
    counts = sorted({trial.num_clusters for trial in trials})
    script = Path(__file__).parents[2] / "tune" / "clustering.py"
    subprocess.run(
        [
            sys.executable, str(script), str(folder / "run.yaml"), "data.layout=manifest",
            f"data.root={folder / 'images.parquet'}", f"run.folder={folder / 'sweep'}", "track.enabled=false",
            f"numerics.threads={threads}", "neighbors.k2=6", "--features", str(folder / "features.npy"),
            "--objective", "silhouette", "--search", "grid", "--axes", "k1,num_clusters",
            "--values", "k1=[20,25,30,35,40]", "--values", f"num_clusters={counts}", *further,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def _memory_of_trials() -> Iterator[dict[str, float]]:
    """Fill in the highest private memory of the trials' processes, in all and beyond what they began with.

    Beside them, what is in no trial: the highest of the processes that search neighbours and make what trials
    share.
    """
    found: dict[str, float] = {}
    first: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            making = sum(_private_gib(b"ray::_done").values())
            found["making_gib"] = max(found.get("making_gib", 0.0), making)
            now = _private_gib(b"ray::_run", b"ray::ImplicitFunc")
            for process, gib in now.items():
                first.setdefault(process, gib)
            whole, grown = sum(now.values()), sum(gib - first[process] for process, gib in now.items())
            found["private_gib"] = max(found.get("private_gib", 0.0), whole)
            found["private_grown_gib"] = max(found.get("private_grown_gib", 0.0), grown)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _private_gib(*names: bytes) -> dict[str, float]:
    """Private memory of the processes whose names begin so, by their numbers."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_bytes().startswith(names):
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        kib = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        found[process.name] = kib / 2**20
    return found
