"""The nearest rows and the least similarity of every row of one set, each product computed once."""

import warnings
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
LANES = 64  # sums side by side in `dot`: a fixed order that still becomes vector code
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
class Lists:
    """The best of M rows.

    Attributes:
        index: (M, width) int32, -1 where there are fewer.
        values: (M, width) float32, falling; -inf where there are fewer.
    """

    index: Indices
    values: Floats

    @classmethod
    def empty(cls, num_rows: int, width: int) -> "Lists":
        """Return lists without an item."""
        return cls(np.full((num_rows, width), -1, np.int32), np.full((num_rows, width), -np.inf, np.float32))

    def rows(self, start: int, stop: int | None = None) -> "Lists":
        """Return a view of some rows."""
        return Lists(self.index[start:stop], self.values[start:stop])


@dataclass(frozen=True)
class Strip:
    """What the rows of one strip give to themselves and to the rows after them (M in all).

    Attributes:
        start: the strip's first row.
        near: of the largest products, (M, k).
        far: of the largest negated products, (M, width).
    """

    start: int
    near: Lists
    far: Lists


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
    near, far = search(features, k, 1, map_blocks)
    return Nearest(near.index, near.values, -far.values[:, 0])


def search(
    features: Floats | NDArray[np.int16], k: int, num_far: int, map_blocks: MapBlocks
) -> tuple[Lists, Lists]:
    """Return the `k` largest products and the `num_far` largest negated ones of every row.

    Args:
        features: (N, D) float32, or the bits of bfloat16 as int16.
        k: 1 to N.
        num_far: 1 to N.
        map_blocks: as in `nearest`.
    """
    strip = partial(_strip, features=features, k=k, num_far=num_far)
    near, far = Lists.empty(len(features), k), Lists.empty(len(features), num_far)
    for part in map_blocks(strip, row_blocks(len(features), _STRIP_ROWS)):
        for new, lists in ((part.near, near), (part.far, far)):
            after = lists.rows(part.start)
            _merge(new.index, new.values, after.index, after.values)
    return near, far


def multiply(rows: NDArray[Any], columns: NDArray[Any], out: torch.Tensor) -> None:
    """Write the dot products of `rows` (R, D) and `columns` (C, D) to `out` (R, C) float32.

    Both are float32, or the bits of bfloat16 as int16: then a product is rounded to bfloat16, too.
    """
    left, right = as_tensor(rows), as_tensor(columns).T
    if left.dtype == torch.int16:
        out.copy_(left.view(torch.bfloat16) @ right.view(torch.bfloat16))
    else:
        torch.mm(left, right, out=out)


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor of the array's memory, to be read only."""
    with warnings.catch_warnings():
        # Arrays that come from a shared store are read-only; torch warns, and we only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _strip(block: Block, features: NDArray[Any], k: int, num_far: int) -> Strip:
    """Multiply the rows of the block with themselves and with all rows after them."""
    start, stop = block
    rows, num_after = features[start:stop], len(features) - start
    strip = Strip(start, Lists.empty(num_after, k), Lists.empty(num_after, num_far))
    buffer = torch.empty((stop - start) * _TILE_COLUMNS)
    # The first tiles hold the strip's own rows, so that every list grows in the order of the index.
    for first, last in row_blocks(num_after, _TILE_COLUMNS):
        tile = buffer[: len(rows) * (last - first)].view(len(rows), -1)
        multiply(rows, features[start + first : start + last], tile)
        offer(tile, first, start, strip.near)
        offer(tile.neg_(), first, start, strip.far)
    return strip


def offer(tile: torch.Tensor, first: int, start: int, lists: Lists, *, own_only: bool = False) -> None:
    """Let the rows from `start` on keep the best of a tile: products of the first ones with some rows.

    Args:
        tile: (R, C).
        first: how many rows after `start` those of the tile's columns begin; they keep the products, too,
            where they are not among the R.
        start: number of the first row.
        lists: of the rows from `start` on.
        own_only: the rows of the columns keep nothing, and have no lists.
    """
    products, (num_rows, num_columns) = tile.numpy(), tile.shape
    own = lists.rows(0, num_rows)
    over_rows(
        lambda low, high: _keep(products, low, high, start + first, own.index, own.values),
        0,
        num_rows,
        chunk_rows=_CHUNK_ROWS,
    )
    if own_only:
        return
    others = lists.rows(first, first + num_columns)
    over_rows(
        lambda low, high: _keep_transposed(products, low, high, start, others.index, others.values),
        min(max(num_rows - first, 0), num_columns),
        num_columns,
        chunk_rows=_CHUNK_COLUMNS,
    )


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
                    insert(first_item + item, of_row[item], index[row], similarity[row])


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
                    insert(first_item + row, of_row[item], index[low + item], similarity[low + item])
                    limits[item] = similarity[low + item, worst]


@compiled
def _merge(new_index: Indices, new_similarity: Floats, index: Indices, similarity: Floats) -> None:
    worst = similarity.shape[1] - 1
    for row in range(len(index)):
        for place in range(worst + 1):
            if not new_similarity[row, place] > similarity[row, worst]:
                break
            insert(new_index[row, place], new_similarity[row, place], index[row], similarity[row])


@compiled
def insert(item: int, value: float, index: Indices, similarity: Floats) -> None:
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


@compiled
def dot(left: Floats, right: Floats, lanes: Floats) -> Any:
    """Return the product of two rows; the same additions in the same order wherever it is computed."""
    lanes[:] = 0
    whole = left.size // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += left[start + lane] * right[start + lane]
    total = lanes.sum()
    for item in range(whole, left.size):
        total += left[item] * right[item]
    return total
