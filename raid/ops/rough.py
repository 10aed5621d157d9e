"""The search of `raid.ops.nearest` in bfloat16, made exact: candidates, a proof, and the rest the long way.

A processor that multiplies bfloat16 does so several times as fast as float32. The error of a rough product
has a bound; a row's result is proven where no row outside its candidates can reach it. Candidates are
compared by exact products in a fixed order of additions, which neither the cut nor the threads change.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.compiled import compiled, over_rows
from raid.ops.nearest import (
    LANES,
    Floats,
    Indices,
    Lists,
    Nearest,
    as_tensor,
    dot,
    insert,
    multiply,
    nearest,
    offer,
    search,
)
from raid.ops.neighbors import Block, MapBlocks, row_blocks

_FROM_ROWS = 4096  # below, the proof costs more than the products
_NUM_FAR = 8  # candidates for the least similarity
_BLOCK_ROWS = 512  # rows that one worker compares, or searches the long way
_CHUNK_ROWS = 64


def fast_nearest(features: Floats, k: int, *, map_blocks: MapBlocks = map) -> Nearest:
    """Return what `nearest` does, from rough products where this processor is fast at them.

    Exact, but for rounding in float32; where values differ by less than that, the order may be another one
    than that of `nearest`. Equal rows, and equal products that are exact, are ordered by index.

    Args, errors: as `nearest`.

    Memory: as `nearest` with lists of 2 * k + 8, and a copy of the features in half of their size; for rows
    that are not proven (more equal rows than candidates) 512 * N * 4 bytes a block that runs at a time.
    """
    width = 2 * k
    if not is_fast() or len(features) < max(_FROM_ROWS, width):
        return nearest(features, k, map_blocks=map_blocks)
    rough = as_tensor(features).bfloat16()
    margins = _margins(features, rough)
    near, far = search(rough.view(torch.int16).numpy(), width, _NUM_FAR, map_blocks)
    limits = _limits(near, margins), _limits(far, margins)
    compare = partial(_compare_block, features=features, near=near.index, far=far.index, k=k)
    parts = list(map_blocks(compare, row_blocks(len(features), _BLOCK_ROWS)))
    result = _put_together(parts)
    proven = (result.similarity[:, -1] > limits[0]) & (-result.least > limits[1])
    _search_exactly(np.flatnonzero(~proven), features, result, map_blocks)
    return result


def is_fast() -> bool:
    """Whether the processor multiplies bfloat16 (from the processor, not from a clock: bits depend on it)."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _margins(features: Floats, rough: torch.Tensor) -> NDArray[np.float64]:
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


def _limits(lists: Lists, margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what no row outside the lists exceeds; rounding to bfloat16 keeps order, and moves by 2^-8."""
    worst = lists.values[:, -1].astype(np.float64)
    return np.asarray(worst + np.abs(worst) * 2.0**-8 + margins)


@dataclass(frozen=True)
class _Part:
    near: Lists
    far: Lists


def _compare_block(block: Block, features: Floats, near: Indices, far: Indices, k: int) -> _Part:
    """Order the candidates of the rows of one block by their exact products."""
    return _Part(_best(block, features, near, k, 1.0), _best(block, features, far, 1, -1.0))


def _best(block: Block, features: Floats, candidates: Indices, width: int, sign: float) -> Lists:
    """Return the candidates with the largest products times `sign`."""
    start, stop = block
    lists, rising = Lists.empty(stop - start, width), np.sort(candidates[start:stop], axis=1)
    over_rows(
        lambda low, high: _compare(low, high, features, start, rising, sign, lists.index, lists.values),
        0,
        stop - start,
        chunk_rows=_CHUNK_ROWS,
    )
    return lists


def _put_together(parts: list[_Part]) -> Nearest:
    return Nearest(
        np.concatenate([part.near.index for part in parts]),
        np.concatenate([part.near.values for part in parts]),
        -np.concatenate([part.far.values[:, 0] for part in parts]),
    )


def _search_exactly(
    rows: NDArray[np.int64], features: Floats, result: Nearest, map_blocks: MapBlocks
) -> None:
    """Search some rows among all, and put what is found in the result."""
    blocks = row_blocks(len(rows), _BLOCK_ROWS)
    whole = partial(_exact_block, rows=rows, features=features, k=result.index.shape[1])
    for (start, stop), part in zip(blocks, map_blocks(whole, blocks), strict=True):
        of_block = rows[start:stop]
        result.index[of_block], result.similarity[of_block] = part.near.index, part.near.values
        result.least[of_block] = -part.far.values[:, 0]


def _exact_block(block: Block, rows: NDArray[np.int64], features: Floats, k: int) -> _Part:
    chosen = features[rows[slice(*block)]]
    part = _Part(Lists.empty(len(chosen), k), Lists.empty(len(chosen), 1))
    products = torch.empty((len(chosen), len(features)))
    multiply(chosen, features, products)
    offer(products, 0, 0, part.near, own_only=True)
    offer(products.neg_(), 0, 0, part.far, own_only=True)
    return part


@compiled
def _compare(
    low: int,
    high: int,
    features: Floats,
    first: int,
    candidates: Indices,
    sign: float,
    index: Indices,
    values: Floats,
) -> None:
    """Insert candidates, rising in every row, by their products times `sign`."""
    lanes = np.empty(LANES, np.float32)
    worst = values.shape[1] - 1
    for row in range(low, high):
        for item in candidates[row]:
            product = float(sign * dot(features[first + row], features[item], lanes))
            if product > values[row, worst]:
                insert(item, product, index[row], values[row])
