"""Figures of several seeds as lines of text: mean and deviation, in percent."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHOWN = ("eval/mAP", "eval/rank1")


def head(width: int) -> str:
    """Return the line above the columns of `SHOWN`; `width` is that of the names."""
    return f"{'':<{width}}{'mAP':>13}{'rank-1':>15}"


def line(name: str, columns: Sequence[Floats], width: int, *, signed: bool = False) -> str:
    """Return a row: of each column (S,), one value a seed, the mean, and the deviation (n - 1) of several."""
    cells = "".join(f"{cell(values, sign='+' if signed else ''):>13}  " for values in columns)
    return f"{name:<{width}}{cells}".rstrip()


def by_seed(seeds: Sequence[int], differences: Floats) -> str:
    """Return the differences (S,) in mAP of every seed."""
    each = ", ".join(
        f"seed {seed}: {value:+.1f}" for seed, value in zip(seeds, differences.tolist(), strict=True)
    )
    return f"    mAP {each}"


def cell(values: Floats, *, sign: str = "", digits: int = 1) -> str:
    """Return the mean of values (S,), one a seed, and the deviation (n - 1) of several."""
    mean = f"{values.mean():{sign}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {values.std(ddof=1):.{digits}f}"
