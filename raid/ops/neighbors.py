"""Exact nearest neighbours by dot product, block by block; of a set in itself each product once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.neighbors_gpu import Search, gpu_search, with_ties_settled
from raid.ops.products import as_slices, as_tensor, multiply, products
from raid.ops.top_k import Best, merge, nothing_yet, take_columns, take_rows

Block = tuple[int, int]
# What builtin `map` does with one iterable. Functions given to it are picklable: `functools.partial` of a
# module-level function over the shared arrays; items are `Block`s; results come in the order of the items.
MapBlocks = Callable[[Callable[[Block], Any], Iterable[Block]], Iterable[Any]]


T = TypeVar("T")

_TILE_COLUMNS = 1024  # of products at a time: read from the cache after they have been written


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
    return multiply(as_tensor(queries[start:stop]), as_tensor(gallery))


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
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the `k` rows of the gallery with the largest dot product to each query.

    Exact. Equal similarities are ordered by index, the lower first, also where they straddle the k-th
    place. A query that is itself a row of the gallery is among its own neighbours (unless `k` exact
    duplicates with lower indices come first). Where `queries` and `gallery` are the same array, each
    product of two blocks serves both: half the work.

    Args:
        queries: (Q, D), computed in float32.
        gallery: (N, D), computed in float32; unit rows where cosine similarity is meant.
        k: number of neighbours, 1 to N.
        block_rows: rows per block; results are bitwise reproducible for one value of it.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable. On a GPU they
            run here, one after the other.
        device: "auto" is the GPU where there is one, through faiss if it has been built for it. The GPU's
            similarities are float32 as well, of other bits.

    Returns:
        Similarity (Q, k) float32, falling, and index (Q, k) int64.

    Raises:
        ValueError: shapes that do not fit, `k` outside 1..N, or features that are not finite.

    Memory: at worst block_rows ** 2 * 4 bytes per block that runs at a time; the result twice; and, where
    the two arrays are one, N * k * 8 bytes per block whose result waits.
    """
    same = queries is gallery
    gallery = as_features(gallery, "gallery")
    queries = gallery if same else as_features(queries, "queries")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}")
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must be 1 to {len(gallery)} (the size of the gallery), got {k}")
    blocks = row_blocks(len(queries), block_rows)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        on_gpu = partial(_in_index, queries=queries, gallery=gallery, k=k, search=gpu_search(gallery, k))
        values, index = _stacked(map(on_gpu, blocks), blocks, k)
    elif same:
        [(values, index)] = search_itself(gallery, (k,), block_rows=block_rows, map_blocks=map_blocks)
    else:
        look_up = partial(_in_gallery, queries=queries, gallery=gallery, k=k, block_rows=block_rows)
        values, index = _stacked(map_blocks(look_up, blocks), blocks, k)
    if index.min(initial=0) < 0 or np.isnan(values).any():
        raise ValueError("the features are not finite: fewer than k neighbours compare")
    return values, index.astype(np.int64)


@dataclass(frozen=True)
class Nearest:
    """What one pass over all products of N rows keeps.

    Attributes:
        index: (N, k) int32, the k rows with the largest dot product, itself among them, nearest first; equal
            ones by index.
        similarity: (N, k) float32, their dot products.
        least: (N,) float32, the smallest dot product with any row.
    """

    index: NDArray[np.int32]
    similarity: NDArray[np.float32]
    least: NDArray[np.float32]


def knn_and_least(
    features: NDArray[np.float32], k: int, *, block_rows: int = 1024, map_blocks: MapBlocks = map
) -> Nearest:
    """Find the neighbours that `knn` finds of `features` in themselves, and the least similarity of each row.

    Args:
        features: (N, D) contiguous, finite rows: not checked.
        k: 1 to N, not checked.
        block_rows: as in `knn`.
        map_blocks: as in `knn`; a GPU is not used.

    Memory: that of `knn`, and 12 bytes a row more for each block whose result waits.
    """
    near, far = search_itself(features, (k, 1), block_rows=block_rows, map_blocks=map_blocks)
    return Nearest(near[1], near[0], -far[0][:, 0])


def search_itself(
    features: NDArray[Any], widths: tuple[int, ...], *, block_rows: int, map_blocks: MapBlocks
) -> list[Best]:
    """Return the largest products of every row with all rows, and the largest negated ones if asked for.

    Args:
        features: (N, D) float32.
        widths: how many of the products, and of the negated ones, each 1 to N.
        block_rows: rows per block.
        map_blocks: what runs the blocks.
    """
    found = [nothing_yet(len(features), width) for width in widths]
    search = partial(_among_themselves, features=features, widths=widths, block_rows=block_rows)
    blocks = row_blocks(len(features), block_rows)
    # In the order of the blocks, for ties.
    for (start, stop), tables in zip(blocks, map_blocks(search, blocks), strict=True):
        for (values, index), (own, others) in zip(found, tables, strict=True):
            merge((values[start:stop], index[start:stop]), own)
            merge((values[stop:], index[stop:]), others)
    return found


def search_gallery(
    rows: NDArray[np.float32], gallery: NDArray[np.float32], widths: tuple[int, ...], *, block_rows: int
) -> list[Best]:
    """Return what `search_itself` does, of a few rows with a gallery."""
    found = [nothing_yet(len(rows), width) for width in widths]
    for (first, _), tile in _tiles(rows, gallery, row_blocks(len(gallery), block_rows)):
        for best in _with_signs(tile, found):
            take_rows(tile, first, best)
    return found


def _among_themselves(
    block: Block, features: NDArray[Any], widths: tuple[int, ...], block_rows: int
) -> list[tuple[Best, Best]]:
    """Return the best from row `start` on for the rows of one block, and the best of the block for all after.

    The rows before the block have met it in their own blocks.
    """
    start, stop = block
    num_after = len(features) - stop
    tables = [
        (nothing_yet(stop - start, width), nothing_yet(num_after, min(width, stop - start)))
        for width in widths
    ]
    width = min(block_rows, _TILE_COLUMNS)
    columns = [*_pieces(start, stop, width), *_pieces(stop, len(features), width)]
    for (first, last), tile in _tiles(features[start:stop], features, columns):
        for own, (values, index) in _with_signs(tile, tables):
            take_rows(tile, first, own)
            if first >= stop:
                of_columns = slice(first - stop, last - stop)
                take_columns(tile, start, (values[of_columns], index[of_columns]))
    return tables


def _pieces(start: int, stop: int, width: int) -> list[Block]:
    return [(start + first, start + last) for first, last in row_blocks(stop - start, width)]


def _with_signs(tile: NDArray[np.float32], tables: list[T]) -> Iterator[T]:
    """Yield the first of the tables with the tile as it is, the second with the tile negated in place."""
    for number, table in enumerate(tables):
        if number > 0:
            torch.from_numpy(tile).neg_()  # on all threads
        yield table


def _in_gallery(
    block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int, block_rows: int
) -> Best:
    """Return the best of the whole gallery for the queries of one block."""
    [best] = search_gallery(queries[slice(*block)], gallery, (k,), block_rows=block_rows)
    return best


def _in_index(
    block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int, search: Search
) -> Best:
    """Return the best of the whole gallery for the queries of one block, by a search that knows it."""

    def row_products(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return products(as_slices(rows), as_slices(gallery))

    return with_ties_settled(
        queries[slice(*block)], k, num_gallery=len(gallery), search=search, products=row_products
    )


def _tiles(
    rows: NDArray[Any], gallery: NDArray[Any], columns: list[Block]
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Yield the products of `rows` with each block of the gallery."""
    left = as_slices(rows)
    for first, last in columns:
        yield (first, last), products(left, as_slices(gallery[first:last]))


def _stacked(parts: Iterable[Best], blocks: list[Block], k: int) -> Best:
    values, index = nothing_yet(blocks[-1][1] if blocks else 0, k)
    for (start, stop), (part, part_index) in zip(blocks, parts, strict=True):
        values[start:stop], index[start:stop] = part, part_index
    return values, index
