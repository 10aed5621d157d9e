"""A search over clusterings of stored features, against a process a trial that is given the same file."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measure import limit, measured, peak_anonymous_gib
from benchmarks.paths_clustering import DIM, clusters_at, rows_of

from raid.methods.icsr.clustering_trials import Outcome, Trial, run_trials
from raid.methods.sections import Clustering, Neighbors
from raid.ops.jaccard import jaccard_similarity

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
