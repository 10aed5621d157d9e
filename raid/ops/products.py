"""Products of blocks of rows: the one place that chooses whose matrix product is used on a CPU."""

import warnings
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

_SLICE = 1024  # dimensions multiplied at a time


def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the dot products (L, R) of float32 rows (L, D) and (R, D), by oneDNN where torch has it.

    An entry's bits depend on its two rows alone, not on their places, nor on the other rows or the number
    of threads: exact duplicates tie. oneDNN holds to that (numpy's OpenBLAS does not), and it has AVX-512
    for every make of CPU (MKL, which `@` takes, for Intel's: half as fast on others).
    """
    if not torch.backends.mkldnn.is_available():
        return torch.nn.functional.linear(left, right)
    # The public way to oneDNN, `to_mkldnn`, copies its arguments and its result: a quarter of the time.
    return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))


def as_tensor(rows: NDArray[Any]) -> torch.Tensor:
    """Return a tensor over the memory of `rows`, which is only read."""
    with warnings.catch_warnings():
        # Arrays that come from a shared store are read-only; torch warns, and we only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows)


def as_slices(rows: NDArray[Any]) -> list[torch.Tensor]:
    """Return the columns of (R, D) float32 rows, a few at a time: what `products` multiplies."""
    starts = range(0, max(1, rows.shape[1]), _SLICE)
    return [as_tensor(np.ascontiguousarray(rows[:, start : start + _SLICE])) for start in starts]


def products(left: list[torch.Tensor], right: list[torch.Tensor]) -> NDArray[np.float32]:
    """Return the dot products (L, R) float32 of two blocks of rows, given `as_slices`.

    As `multiply`, which adds up in one long chain: in slices, the error is half.
    """
    total = multiply(left[0], right[0])
    for one, other in zip(left[1:], right[1:], strict=True):
        total += multiply(one, other)
    return total.numpy()
