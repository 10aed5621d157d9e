"""Whether a sparse matrix can be used as a similarity: checked in one pass, without its transpose."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from raid.ops.compiled import compiled


class Matrix(NamedTuple):
    """The arrays of a CSR matrix, read-only, of few kinds, so that little is compiled.

    Attributes:
        indptr: (N + 1,) int64.
        indices: (nnz,) int32 or int64.
        values: (nnz,) float32 or float64.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[Any]
    values: NDArray[Any]


def arrays_of(similarity: sp.csr_array) -> Matrix:
    """Return the arrays of a square matrix, not copied where they are of a kind that `Matrix` allows.

    Raises:
        ValueError: it is not square.
    """
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be square, got {similarity.shape}")
    matrix = sp.csr_array(similarity)
    values = np.asarray(matrix.data)
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    arrays = (matrix.indptr.astype(np.int64), np.asarray(matrix.indices).view(), values.view())
    for array in arrays:
        array.flags.writeable = False
    return Matrix(*arrays)


def checked(similarity: sp.csr_array) -> Matrix:
    """Return the arrays of a similarity, each row's columns rising; it is copied only if they are not yet.

    Raises:
        ValueError: it is not square, finite, non-negative and symmetric (to 1e-5 of a value).
    """
    matrix = arrays_of(similarity)
    if not _rises(matrix):
        similarity = similarity.copy()
        similarity.sum_duplicates()
        matrix = arrays_of(similarity)
    if not _are_similarities(matrix.values):
        raise ValueError("similarity must be finite and non-negative")
    bits = matrix.values.view(np.uint32 if matrix.values.dtype == np.float32 else np.uint64)
    if _imbalance(matrix.indptr, matrix.indices, bits) and not _is_nearly_symmetric(matrix):
        raise ValueError("similarity must be symmetric")
    return matrix


@compiled
def pair_hash(low: int, high: int, bits: int) -> np.uint64:
    """Mix two numbers below 2^32 and a third into 64 bits (by the finaliser of SplitMix64)."""
    mixed = (np.uint64(low) << np.uint64(32)) | np.uint64(high)
    mixed += np.uint64(bits) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@compiled
def _imbalance(indptr: NDArray[np.int64], indices: NDArray[Any], bits: NDArray[Any]) -> np.uint64:
    """Return the hashes of the entries above the diagonal minus those below: 0 if bitwise symmetric.

    Otherwise 0 with a probability of 2^-64. It reads the matrix front to back, where looking entries up in
    their columns would jump about in it: 30 times slower.
    """
    total = np.uint64(0)
    for row in range(len(indptr) - 1):
        columns = indices[indptr[row] : indptr[row + 1]]
        row_bits = bits[indptr[row] : indptr[row + 1]]
        for place in range(len(columns)):
            column = columns[place]
            mixed = pair_hash(min(row, column), max(row, column), row_bits[place])
            if column > row:
                total += mixed
            elif column < row:
                total -= mixed
    return total


@compiled
def _rises(matrix: Matrix) -> bool:
    """Tell whether the columns of every row rise, without duplicates."""
    falls = 0
    for row in range(len(matrix.indptr) - 1):
        columns = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
        for place in range(1, len(columns)):
            falls += columns[place] <= columns[place - 1]
    return falls == 0


@compiled
def _are_similarities(values: NDArray[Any]) -> bool:
    good = 0
    for place in range(len(values)):
        good += (values[place] >= 0) & (values[place] < np.inf)
    return good == len(values)


@compiled
def _is_nearly_symmetric(matrix: Matrix) -> bool:
    """Compare each entry with its partner; stored zeros count as not stored.

    Rows are visited in rising order, so the entries below the diagonal name those above it in the order in
    which they are stored: one cursor a row finds all partners.
    """
    indptr, indices, values = matrix
    cursor = np.empty(len(indptr) - 1, np.int64)
    for row in range(len(cursor)):
        above = np.searchsorted(indices[indptr[row] : indptr[row + 1]], row + 1)
        cursor[row] = indptr[row] + above
        for position in range(indptr[row], indptr[row] + above):
            column, value = indices[position], values[position]
            if column == row or value == 0:
                continue
            partner = _next_entry(values, cursor[column], indptr[column + 1])
            cursor[column] = partner + 1
            if partner == indptr[column + 1] or indices[partner] != row:
                return False
            if abs(values[partner] - value) > 1e-7 + 1e-5 * value:
                return False
    for row in range(len(cursor)):
        if _next_entry(values, cursor[row], indptr[row + 1]) < indptr[row + 1]:
            return False
    return True


@compiled
def _next_entry(values: NDArray[Any], start: int, stop: int) -> int:
    """Return the position of the next value that is not zero, or `stop`."""
    while start < stop and values[start] == 0:
        start += 1
    return start
