"""The nearest rows and the least similarity of every row of one set, each product computed once."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.neighbors import Block, MapBlocks, row_blocks

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

# Part of the result's bits, as any height of a block is: a strip is what one worker computes at a time.
_STRIP_ROWS = 2048
_TILE_COLUMNS = 1024  # a tile of products, 8 MiB, is read from the cache after it has been written
_LOOK = 64  # items that are compared with a limit at once
_CHUNK_ROWS, _CHUNK_COLUMNS = 256, 256  # of a tile, a thread at a time


@dataclass(frozen=True)
class Nearest:
    """What one pass over all products of N rows keeps.

    Attributes:
        index: (N, k) int32, the k rows with the largest dot product, itself among them, nearest first; equal
            ones by index.
        similarity: (N, k) float32, their dot products.
        least: (N,) float32, the smallest dot product with any row.
    """

    index: Indices
    similarity: Floats
    least: Floats


@dataclass(frozen=True)
class _Strip:
    """What the rows of one strip give to themselves and to the rows after them (M in all)."""

    start: int
    index: Indices  # (M, k), -1 where there are fewer
    similarity: Floats  # (M, k), -inf where there are fewer
    least: Floats  # (M,)


def nearest(features: Floats, k: int, *, map_blocks: MapBlocks = map) -> Nearest:
    """Find the `k` nearest rows and the least similarity of every row.

    The product of two rows is computed once and serves both: half the work of a search of `features` in
    themselves. A strip of rows is multiplied with all rows that follow; its results are merged in order.

    Args:
        features: (N, D) float32 rows, finite.
        k: 1 to N.
        map_blocks: what runs the strips; same signature as builtin `map` with one iterable.

    Memory: 8 MiB of products for each strip that runs at a time, and its result, at worst N * k * 8 bytes;
    the result, N * k * 8 bytes.
    """
    strips = map_blocks(partial(_strip, features=features, k=k), row_blocks(len(features), _STRIP_ROWS))
    return _merged(strips, len(features), k)


def multiply(rows: Floats, columns: Floats, out: torch.Tensor) -> None:
    """Write the dot products of `rows` (R, D) and `columns` (C, D) to `out` (R, C)."""
    with warnings.catch_warnings():
        # Arrays that come from a shared store are read-only; torch warns, and we only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        torch.mm(torch.from_numpy(rows), torch.from_numpy(columns).T, out=out)


def _strip(block: Block, features: Floats, k: int) -> _Strip:
    """Multiply the rows of the block with themselves and with all rows after them."""
    start, stop = block
    rows, num_after = features[start:stop], len(features) - start
    strip = _Strip(start, *_nothing(num_after, k))
    buffer = torch.empty((stop - start) * _TILE_COLUMNS)
    # The first tiles hold the strip's own rows, so that every list grows in the order of the index.
    for first, last in row_blocks(num_after, _TILE_COLUMNS):
        tile = buffer[: len(rows) * (last - first)].view(len(rows), -1)
        multiply(rows, features[start + first : start + last], tile)
        _keep_rows(tile, first, strip)
        if last > len(rows):
            _keep_columns(tile, first, max(first, len(rows)), strip)
    return strip


def _nothing(num_rows: int, k: int) -> tuple[Indices, Floats, Floats]:
    index, similarity = np.full((num_rows, k), -1, np.int32), np.full((num_rows, k), -np.inf, np.float32)
    return index, similarity, np.full(num_rows, np.inf, np.float32)


def _keep_rows(tile: torch.Tensor, first: int, strip: _Strip) -> None:
    """Let the strip's rows keep the best of a tile whose columns begin `first` rows after theirs."""
    products, own = tile.numpy(), slice(0, len(tile))
    np.minimum(strip.least[own], tile.amin(dim=1).numpy(), out=strip.least[own])
    over_rows(
        lambda low, high: _keep(
            products, low, high, strip.start + first, strip.index[own], strip.similarity[own]
        ),
        0,
        len(tile),
        chunk_rows=_CHUNK_ROWS,
    )


def _keep_columns(tile: torch.Tensor, first: int, after: int, strip: _Strip) -> None:
    """Let the rows behind a tile's columns keep the best of it, from `after`, the first beyond the strip."""
    products, last = tile.numpy(), first + tile.shape[1]
    strip.least[after:last] = tile[:, after - first :].amin(dim=0).numpy()
    index, similarity = strip.index[first:last], strip.similarity[first:last]
    over_rows(
        lambda low, high: _keep_transposed(products, low, high, strip.start, index, similarity),
        after - first,
        last - first,
        chunk_rows=_CHUNK_COLUMNS,
    )


def _merged(strips: Iterable[_Strip], num_rows: int, k: int) -> Nearest:
    """Add the strips, in order, to empty lists."""
    result = Nearest(*_nothing(num_rows, k))
    for strip in strips:
        index, similarity = result.index[strip.start :], result.similarity[strip.start :]
        np.minimum(result.least[strip.start :], strip.least, out=result.least[strip.start :])
        _merge(strip.index, strip.similarity, index, similarity)
    return result


@compiled
def _keep(products: Floats, low: int, high: int, first_item: int, index: Indices, similarity: Floats) -> None:
    """Offer every row its products with consecutive items."""
    worst = similarity.shape[1] - 1
    for row in range(low, high):
        of_row = products[row]
        for start in range(0, of_row.size, _LOOK):
            stop = min(start + _LOOK, of_row.size)
            if _num_above(of_row[start:stop], similarity[row, worst]) == 0:
                continue
            for item in range(start, stop):
                if of_row[item] > similarity[row, worst]:
                    _insert(first_item + item, of_row[item], index[row], similarity[row])


@compiled
def _keep_transposed(
    products: Floats, low: int, high: int, first_item: int, index: Indices, similarity: Floats
) -> None:
    """Offer every column its products with consecutive rows, reading row by row."""
    worst = similarity.shape[1] - 1
    limits = similarity[low:high, worst].copy()
    for row in range(len(products)):
        of_row = products[row, low:high]
        for start in range(0, of_row.size, _LOOK):
            stop = min(start + _LOOK, of_row.size)
            if _num_above_each(of_row[start:stop], limits[start:stop]) == 0:
                continue
            for item in range(start, stop):
                if of_row[item] > limits[item]:
                    _insert(first_item + row, of_row[item], index[low + item], similarity[low + item])
                    limits[item] = similarity[low + item, worst]


@compiled
def _merge(new_index: Indices, new_similarity: Floats, index: Indices, similarity: Floats) -> None:
    worst = similarity.shape[1] - 1
    for row in range(len(index)):
        for place in range(worst + 1):
            if not new_similarity[row, place] > similarity[row, worst]:
                break
            _insert(new_index[row, place], new_similarity[row, place], index[row], similarity[row])


@compiled
def _insert(item: int, value: float, index: Indices, similarity: Floats) -> None:
    """Put an item among falling values, behind its equals: items come in the order of their index."""
    place = similarity.size - 1
    while place > 0 and similarity[place - 1] < value:
        similarity[place] = similarity[place - 1]
        index[place] = index[place - 1]
        place -= 1
    similarity[place] = value
    index[place] = item


@compiled
def _num_above(values: Floats, limit: float) -> Any:
    num = np.uint32(0)
    for item in range(values.size):
        num += np.uint32(values[item] > limit)
    return num


@compiled
def _num_above_each(values: Floats, limits: Floats) -> Any:
    num = np.uint32(0)
    for item in range(values.size):
        num += np.uint32(values[item] > limits[item])
    return num
