"""The search of a set in itself in bfloat16, made exact: candidates, a proof, and the rest the long way.

A processor that multiplies bfloat16 does so several times as fast as float32. The error of a rough product
has a bound; a row's result is proven where no row outside its candidates can reach it. Candidates are
compared by exact products in a fixed order of additions, which neither the cut nor the threads change.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.neighbors import (
    Block,
    MapBlocks,
    Nearest,
    as_tensor,
    knn_and_least,
    row_blocks,
    search_gallery,
    search_itself,
)
from raid.ops.top_k import Best, insert, nothing_yet

_FROM_ROWS = 4096  # below, the proof costs more than the products
_NUM_FAR = 8  # candidates for the least similarity
_SEARCH_ROWS = 2048  # per block of the search: each starts from empty lists
_BLOCK_ROWS = 512  # rows that one worker compares, or searches the long way
_CHUNK_ROWS = 64
_LANES = 64  # sums side by side in `_dot`: a fixed order that still becomes vector code


def fast_nearest(features: NDArray[np.float32], k: int, *, map_blocks: MapBlocks = map) -> Nearest:
    """Return what `knn_and_least` does, from rough products where this processor is fast at them.

    Exact, but for rounding in float32; where values differ by less than that, the order may be another one
    than that of `knn_and_least`. Equal rows, and equal products that are exact, are ordered by index.

    Args: as `knn_and_least`.

    Memory: as `knn_and_least` with lists of 2 * k + 8, and a copy of the features in half of their size.
    """
    width = 2 * k
    if not is_fast() or len(features) < max(_FROM_ROWS, width):
        return knn_and_least(features, k, map_blocks=map_blocks)
    rough = as_tensor(features).bfloat16()
    margins = _margins(features, rough)
    bits = rough.view(torch.int16).numpy()
    near, far = search_itself(bits, (width, _NUM_FAR), block_rows=_SEARCH_ROWS, map_blocks=map_blocks)
    limits = _limits(near, margins), _limits(far, margins)
    compare = partial(_compare_block, features=features, near=near[1], far=far[1], k=k)
    parts = list(map_blocks(compare, row_blocks(len(features), _BLOCK_ROWS)))
    result = _put_together(parts)
    proven = (result.similarity[:, -1] > limits[0]) & (-result.least > limits[1])
    _search_exactly(np.flatnonzero(~proven), features, result, map_blocks)
    return result


def is_fast() -> bool:
    """Whether the processor multiplies bfloat16 (from the processor, not from a clock: bits depend on it)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _margins(features: NDArray[np.float32], rough: torch.Tensor) -> NDArray[np.float64]:
    """Return by how much a row's exact product may exceed the rough one before that is rounded, (N,).

    |x y - x' y'| <= |x| |y - y'| + |x - x'| |y'|, and a sum of D terms in float32 is off by D * 2^-23 of
    |x| |y| at most: the rough one, and the one that candidates are compared by.
    """
    norms, errors = np.empty(len(features)), np.empty(len(features))
    for start, stop in row_blocks(len(features), 1024):
        rows = features[start:stop].astype(np.float64)
        norms[start:stop] = np.linalg.norm(rows, axis=1)
        errors[start:stop] = np.linalg.norm(rows - rough[start:stop].double().numpy(), axis=1)
    sums = features.shape[1] * 2.0**-22
    margins = norms * errors.max() + errors * (norms + errors).max() + sums * norms * norms.max()
    return np.asarray(margins)


def _limits(lists: Best, margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what no row outside the lists exceeds; rounding to bfloat16 keeps order, and moves by 2^-8."""
    worst = lists[0][:, -1].astype(np.float64)
    return np.asarray(worst + np.abs(worst) * 2.0**-8 + margins)


@dataclass(frozen=True)
class _Part:
    near: Best
    far: Best


def _compare_block(
    block: Block, features: NDArray[np.float32], near: NDArray[np.int32], far: NDArray[np.int32], k: int
) -> _Part:
    """Order the candidates of the rows of one block by their exact products."""
    return _Part(_best(block, features, near, k, 1.0), _best(block, features, far, 1, -1.0))


def _best(
    block: Block, features: NDArray[np.float32], candidates: NDArray[np.int32], width: int, sign: float
) -> Best:
    """Return the candidates with the largest products times `sign`."""
    start, stop = block
    lists, rising = nothing_yet(stop - start, width), np.sort(candidates[start:stop], axis=1)
    over_rows(
        lambda low, high: _compare(low, high, features, start, rising, sign, *lists),
        0,
        stop - start,
        chunk_rows=_CHUNK_ROWS,
    )
    return lists


def _put_together(parts: list[_Part]) -> Nearest:
    return Nearest(
        np.concatenate([part.near[1] for part in parts]),
        np.concatenate([part.near[0] for part in parts]),
        -np.concatenate([part.far[0][:, 0] for part in parts]),
    )


def _search_exactly(
    rows: NDArray[np.int64], features: NDArray[np.float32], result: Nearest, map_blocks: MapBlocks
) -> None:
    """Search some rows among all, and put what is found in the result."""
    blocks = row_blocks(len(rows), _BLOCK_ROWS)
    whole = partial(_exact_block, rows=rows, features=features, k=result.index.shape[1])
    for (start, stop), part in zip(blocks, map_blocks(whole, blocks), strict=True):
        of_block = rows[start:stop]
        result.index[of_block], result.similarity[of_block] = part.near[1], part.near[0]
        result.least[of_block] = -part.far[0][:, 0]


def _exact_block(block: Block, rows: NDArray[np.int64], features: NDArray[np.float32], k: int) -> _Part:
    near, far = search_gallery(features[rows[slice(*block)]], features, (k, 1), block_rows=_SEARCH_ROWS)
    return _Part(near, far)


@compiled
def _compare(
    low: int,
    high: int,
    features: NDArray[np.float32],
    first: int,
    candidates: NDArray[np.int32],
    sign: float,
    values: NDArray[np.float32],
    index: NDArray[np.int32],
) -> None:
    """Insert candidates, rising in every row, by their products times `sign`."""
    lanes = np.empty(_LANES, np.float32)
    worst = values.shape[1] - 1
    for row in range(low, high):
        for item in candidates[row]:
            product = float(sign * _dot(features[first + row], features[item], lanes))
            if product > values[row, worst]:
                insert(values[row], index[row], product, item)


@compiled
def _dot(left: NDArray[np.float32], right: NDArray[np.float32], lanes: NDArray[np.float32]) -> Any:
    """Return the product of two rows; the same additions in the same order wherever it is computed."""
    lanes[:] = 0
    whole = left.size // _LANES * _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += left[start + lane] * right[start + lane]
    total = lanes.sum()
    for item in range(whole, left.size):
        total += left[item] * right[item]
    return total
