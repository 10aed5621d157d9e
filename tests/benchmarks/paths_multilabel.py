"""MAR's start: the quantile of all agreements of soft multilabels, against all distances at once."""

from typing import Any

import numpy as np
from benchmarks.measure import in_full_or_scaled, limit, measured
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from raid.ops.multilabel import agreement_quantile, num_similar

NUM_AGENTS = 4_101  # MSMT17's people
RATIO = 0.005


def bench_agreement_quantile(num_rows: int, threads: int) -> dict[str, Any]:
    """The exact quantile by blocks against scipy's pdist, as the release has it: float64, all pairs."""
    limit(threads)
    rows = _multilabels(num_rows)
    agreement_quantile(rows[:300], RATIO)
    found, ours = measured(lambda: agreement_quantile(rows, RATIO))

    def dense(number: int) -> Any:
        part = rows[:number]
        kept = num_similar(number * (number - 1) // 2, RATIO)
        return lambda: 1 - np.partition(pdist(part, "cityblock"), kept - 1)[kept - 1] / 2

    _, theirs, extrapolated = in_full_or_scaled(dense, num_rows, in_full=False)
    check = rows[: min(num_rows, 1000)]
    apart = abs(agreement_quantile(check, RATIO) - dense(len(check))())
    return {
        "path": "agreement_quantile",
        "n": num_rows,
        "threads": threads,
        **ours,
        "threshold": found,
        "reference": "scipy pdist",
        "reference_cpu_seconds": theirs["cpu_seconds"],
        "reference_peak_rss_gib": theirs["peak_rss_gib"],
        "ratio": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "extrapolated": extrapolated,
        "difference": apart,
    }


def _multilabels(num_rows: int) -> NDArray[np.float32]:
    """Rows that add up to one, most of it on few agents, as a softmax at scale 30 gives."""
    drawn = np.random.default_rng(0).standard_normal((num_rows, NUM_AGENTS), dtype=np.float32)
    powers = np.exp(3.0 * drawn)
    return powers / powers.sum(axis=1, keepdims=True)
