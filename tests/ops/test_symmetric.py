import numpy as np
import pytest
import scipy.sparse as sp

from raid.ops.symmetric import checked


def random_similarity(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((30, 30)) * (rng.random((30, 30)) < 0.3), 1)
    return sp.csr_array((upper + upper.T + np.eye(30)).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_single_difference_is_found(dtype):
    similarity = random_similarity(0, dtype)
    checked(similarity)
    coordinates = similarity.tocoo()
    off_diagonal = np.flatnonzero(coordinates.row != coordinates.col)
    for change in (0, 0.5, 2):
        for entry in off_diagonal[::7]:
            changed = similarity.copy()
            changed.data[entry] *= change
            with pytest.raises(ValueError, match="similarity must be symmetric"):
                checked(changed)


def test_differences_that_cancel_are_found():
    # Rows and columns have equal sums, and equal entries: only their places differ.
    circle = np.roll(np.eye(5, dtype=np.float32), 1, axis=1)
    with pytest.raises(ValueError, match="similarity must be symmetric"):
        checked(sp.csr_array(circle))
    checked(sp.csr_array(circle + circle.T))


def test_rounding_and_stored_zeros_are_let_pass():
    similarity = random_similarity(1)
    similarity.data *= 1 + 1e-6 * np.random.default_rng(0).random(similarity.nnz, np.float32)
    checked(similarity)
    stored = sp.csr_array(np.array([[1, 0.5], [0, 1]], np.float32))
    stored.data[1] = 0
    checked(stored)


def test_arrays_are_not_copied():
    similarity = random_similarity(2)
    matrix = checked(similarity)
    assert np.shares_memory(matrix.values, similarity.data)
    assert np.shares_memory(matrix.indices, similarity.indices)
    assert not matrix.values.flags.writeable
    assert similarity.data.flags.writeable


def test_duplicates_are_added_up_in_a_copy():
    twice = sp.csr_array((np.full(4, 0.25, np.float32), np.array([1, 1, 0, 0]), np.array([0, 2, 4])))
    matrix = checked(twice)
    assert list(matrix.values) == [0.5, 0.5]
    assert twice.nnz == 4
