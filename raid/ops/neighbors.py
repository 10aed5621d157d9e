"""Exact nearest neighbours by dot product, block by block."""

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Block = tuple[int, int]
# What builtin `map` does with one iterable. Functions given to it are picklable: `functools.partial` of a
# module-level function over the shared arrays; items are `Block`s; results come in the order of the items.
MapBlocks = Callable[[Callable[[Block], Any], Iterable[Block]], Iterable[Any]]


def row_blocks(num_rows: int, block_rows: int) -> list[Block]:
    """Cut `num_rows` rows into (start, stop) pieces of `block_rows` rows, the last one shorter.

    The cut never depends on the number of workers: the bits of a matrix product change with the height
    of a block.
    """
    if block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    return [(start, min(start + block_rows, num_rows)) for start in range(0, num_rows, block_rows)]


def similarity_rows(block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32]) -> torch.Tensor:
    """Return the dot products of the queries of one block with the whole gallery, (rows, N) float32."""
    start, stop = block
    with warnings.catch_warnings():
        # Arrays that come from a shared store are read-only; torch warns, and we only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(queries[start:stop]) @ torch.from_numpy(gallery).T


def as_features(features: NDArray[Any], name: str = "features") -> NDArray[np.float32]:
    """Return a (N, D) array as contiguous float32 (no copy where it is one); ValueError if not 2-D."""
    if features.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {features.shape}")
    return np.ascontiguousarray(features, dtype=np.float32)


def knn(
    queries: NDArray[Any],
    gallery: NDArray[Any],
    k: int,
    *,
    block_rows: int = 1024,
    map_blocks: MapBlocks = map,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the `k` rows of the gallery with the largest dot product to each query.

    Exact. Equal similarities are ordered by index, the lower first, also where they straddle the k-th
    place. A query that is itself a row of the gallery is among its own neighbours (unless `k` exact
    duplicates with lower indices come first).

    Args:
        queries: (Q, D), computed in float32.
        gallery: (N, D), computed in float32; unit rows where cosine similarity is meant.
        k: number of neighbours, 1 to N.
        block_rows: queries per block; results are bitwise reproducible for one value of it.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Returns:
        Similarity (Q, k) float32, falling, and index (Q, k) int64.

    Raises:
        ValueError: shapes that do not fit, or `k` outside 1..N.

    Memory: at worst 2 * block_rows * N * 4 bytes per block that runs at a time, and the result.
    """
    queries, gallery = as_features(queries, "queries"), as_features(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}")
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must be 1 to {len(gallery)} (the size of the gallery), got {k}")
    search = partial(_knn_block, queries=queries, gallery=gallery, k=k)
    parts = list(map_blocks(search, row_blocks(len(queries), block_rows)))
    if not parts:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _knn_block(
    block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rows = similarity_rows(block, queries, gallery)
    # One more than asked: an equal value in place k + 1 tells that the k-th place is contested.
    values, index = (t.numpy() for t in torch.topk(rows, min(k + 1, len(gallery)), dim=1))
    contested = values[:, k - 1] == values[:, k] if k < len(gallery) else np.zeros(len(values), np.bool_)
    values, index = _order_ties(values[:, :k], index[:, :k])
    for row in np.flatnonzero(contested):
        values[row], index[row] = _lowest_of_ties(rows[row].numpy(), values[row, -1], k)
    return values, index


def _order_ties(
    values: NDArray[np.float32], index: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order = np.lexsort((index, -values), axis=1)
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(index, order, axis=1)


def _lowest_of_ties(
    row: NDArray[np.float32], threshold: np.float32, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Take what is above the threshold, then what equals it by lowest index, until there are k."""
    reach = np.flatnonzero(row >= threshold)
    chosen = reach[np.argsort(-row[reach], kind="stable")[:k]]
    return row[chosen], chosen
