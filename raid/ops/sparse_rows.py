"""Rows of a sparse matrix as compiled loops make them, and the matrix put together from them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

# (entries of each row (R,) int64, their columns int32, their values): what a chunk of rows gives.
Rows = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]

_LARGEST_INT32 = 2**31 - 1
_RESERVE = 1.125  # of what is expected


def assemble(blocks: Iterable[list[Rows]], num_rows: int, folder: Path | None = None) -> sp.csr_array:
    """Put the blocks of a (N, N) matrix together as they come, each copied once and dropped.

    Args:
        blocks: the chunks of each block: all rows, in their order, columns rising.
        num_rows: N.
        folder: where the entries are written, `columns.bin` and `values.bin`, and mapped back from,
            read-only; None for memory.

    Returns:
        CSR with int32 columns; row starts int32, or int64 from 2 ** 31 entries on.

    Memory: the result and one block; with a folder the row starts and one block.
    """
    if folder is None:
        lengths, columns, values = _in_memory(blocks, num_rows)
    else:
        lengths, columns, values = _on_disk(blocks, folder)
    starts = np.zeros(num_rows + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    matrix = sp.csr_array((num_rows, num_rows), dtype=values.dtype)
    # Assigned, as the constructor would copy the columns to int64 where the row starts need it.
    matrix.data, matrix.indices = values, columns
    matrix.indptr = starts.astype(np.int32 if starts[-1] <= _LARGEST_INT32 else np.int64)
    return matrix


def _in_memory(blocks: Iterable[list[Rows]], num_rows: int) -> Rows:
    counts: list[NDArray[np.int64]] = []
    columns, values, used = np.empty(0, np.int32), np.empty(0), 0
    for chunks in blocks:
        counts += [lengths for lengths, _, _ in chunks]
        needed = used + sum(len(part) for _, part, _ in chunks)
        if not len(columns):  # as much as the first block promises: pages not written to take no memory
            room = int(needed / sum(map(len, counts)) * num_rows * _RESERVE)
            columns, values = np.empty(room, np.int32), np.empty(room, chunks[0][2].dtype)
        if needed > len(columns):  # the kernel moves the pages of large arrays: there are never two of them
            columns.resize(int(needed * _RESERVE), refcheck=False)
            values.resize(int(needed * _RESERVE), refcheck=False)
        for _, part, part_values in chunks:
            columns[used : used + len(part)] = part
            values[used : used + len(part)] = part_values
            used += len(part)
    columns.resize(used, refcheck=False)
    values.resize(used, refcheck=False)
    return np.concatenate(counts), columns, values


def _on_disk(blocks: Iterable[list[Rows]], folder: Path) -> Rows:
    counts: list[NDArray[np.int64]] = []
    dtype: np.dtype[Any] = np.dtype(np.float32)
    with open(folder / "columns.bin", "wb") as columns, open(folder / "values.bin", "wb") as values:
        for chunks in blocks:
            for lengths, part, part_values in chunks:
                counts.append(lengths)
                part.tofile(columns)
                part_values.tofile(values)
                dtype = part_values.dtype
    return (
        np.concatenate(counts),
        np.memmap(folder / "columns.bin", np.int32, mode="r"),
        np.memmap(folder / "values.bin", dtype, mode="r"),
    )
