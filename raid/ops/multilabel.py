"""Soft multilabels, their agreement, and the pairs that MAR mines (MAR eq. 1 to 3).

A soft multilabel y compares an image with the P reference agents; the agreement of two images is
A = 1 - ||y_i - y_j||_1 / 2. That is eq. 2's sum of minima where rows add up to one, which in floating point
they do only nearly: the distance is the one formula used here.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.ops.compiled import compiled, over_rows
from raid.ops.neighbors import Block, MapBlocks, as_features, row_blocks

_TILE = 128  # columns at a time: with the agents of a slice, 64 KiB, they stay in a core's own caches
_SLICE = 128  # agents whose differences are added up in one chain; its sum then joins the others
_UNROLL = 4  # agents a step
AGREEMENT_ROWS = 512  # of a block of agreements; the memory of a plan is reckoned with it


def agent_logits(features: Tensor, agents: Tensor, scale: float) -> Tensor:
    """Return scale * f . a of every row with every agent: eq. 1's exponents, (B, P).

    Computed in float32 at least, outside autocast: the scale multiplies the rounding of half precision by
    30, and in float16 the smallest multilabels would be 0. Gradient flows to both arguments: whoever wants
    the agents left alone, as all of MAR but its agent loss does, detaches them.

    Args:
        features: (B, D) unit rows: not normalised here.
        agents: (P, D) unit rows.
        scale: 30 in the release (eq. 1 writes none: unit rows alone give a multilabel that is nearly flat).
    """
    kind = torch.promote_types(torch.promote_types(features.dtype, agents.dtype), torch.float32)
    with torch.autocast(features.device.type, enabled=False):
        return scale * (features.to(kind) @ agents.to(kind).T)


def soft_multilabels(features: Tensor, agents: Tensor, scale: float) -> Tensor:
    """Return y = softmax(scale * f . a) over the agents (eq. 1), (B, P); see `agent_logits`."""
    return torch.softmax(agent_logits(features, agents, scale), dim=1)


def log_soft_multilabels(features: Tensor, agents: Tensor, scale: float) -> Tensor:
    """Return log y, (B, P), finite also where y is 0 in its precision; see `agent_logits`."""
    return torch.log_softmax(agent_logits(features, agents, scale), dim=1)


def num_similar(num_pairs: int, ratio: float) -> int:
    """Return how many of `num_pairs` pairs are called similar: int(ratio * num_pairs), at least 1.

    Without the least of 1, below 200 pairs (20 images, ratio .005) there would be none, and "the 0-th
    largest agreement" that the threshold follows has, in the release, become the smallest.

    Raises:
        ValueError: no pair, or a ratio outside 0 to 1.
    """
    if num_pairs < 1 or not 0 < ratio <= 1:
        raise ValueError(f"need a pair and a ratio above 0, up to 1; got {num_pairs} pairs and {ratio}")
    return max(1, int(ratio * num_pairs))


def pair_agreements(multilabels: Tensor) -> Tensor:
    """Return the agreement of every two rows of (B, P), one number a pair, (B * (B - 1) / 2,), detached.

    Pairs are numbered row by row: (0, 1), (0, 2), ..., (1, 2), ...; `rows_of_pairs` turns that back.
    """
    return 1 - torch.pdist(multilabels.detach(), p=1) / 2


def similar_pairs(features: Tensor, ratio: float) -> Tensor:
    """Return the numbers of the pairs at the smallest feature distance, nearest first, (K,) int64.

    K = `num_similar` of the batch's pairs; equal distances go by number. The distances are of differences,
    not of products: exact duplicates are at 0. No gradient.

    Args:
        features: (B, D), at least two rows: the whole global batch, for a part of it has other pairs.
        ratio: .005 in MAR.

    Raises:
        ValueError: fewer than two rows, or a bad ratio.
    """
    kind = torch.promote_types(features.dtype, torch.float32)
    distances = torch.pdist(features.detach().to(kind))
    return torch.sort(distances, stable=True).indices[: num_similar(len(distances), ratio)]


def rows_of_pairs(pairs: Tensor, num_rows: int) -> Tensor:
    """Return the rows (i, j), i < j, of pairs given by their numbers, (K, 2) int64."""
    return torch.triu_indices(num_rows, num_rows, 1, device=pairs.device)[:, pairs].T


def agreement_quantile(
    multilabels: NDArray[Any],
    ratio: float,
    *,
    block_rows: int = AGREEMENT_ROWS,
    map_blocks: MapBlocks = map,
    num_sampled: int | None = None,
    seed: int = 0,
) -> float:
    """Return the agreement that a share `ratio` of all pairs reaches: where MAR's threshold starts.

    It is the `num_similar`-th largest of the agreements of all M = N * (N - 1) / 2 pairs, exactly, each
    computed in float32 from its two rows alone: so the result has the same bits for any number of shards
    and threads, any `block_rows` and any order of the rows. Rounding: within 4e-6 of the real number.

    Cost: M * P absolute differences. With `num_sampled` rows drawn, those rows' pairs stand for all: an
    estimate, whose error falls as 1 / sqrt(num_sampled) (pairs share rows), for (num_sampled / N)^2 of the
    cost.

    Args:
        multilabels: (N, P), rows that add up to 1; computed in float32.
        ratio: the share of pairs that mining calls similar, above 0 and up to 1.
        block_rows: rows per block.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.
        num_sampled: rows drawn without replacement; None takes all.
        seed: of that draw.

    Raises:
        ValueError: not (N, P), fewer than two rows, a bad ratio, numbers that are not finite, or a sample
            of fewer than 2 or more than N rows.

    Memory: block_rows * (N * 4 + P * 4) bytes per block that runs at a time; 4 bytes a similar pair, three
    times and per block whose result waits (Market: 28 MB and 1.7 MB). Never N x N.
    """
    multilabels = as_features(multilabels, "multilabels")
    if num_sampled is not None:
        multilabels = multilabels[_sample(len(multilabels), num_sampled, seed)]
    if not np.isfinite(multilabels.sum()):
        raise ValueError("the multilabels are not finite")
    num_kept = num_similar(len(multilabels) * (len(multilabels) - 1) // 2, ratio)
    largest = np.empty(0, np.float32)
    of_block = partial(_largest_of_block, multilabels=multilabels, num_kept=num_kept)
    for part in map_blocks(of_block, row_blocks(len(multilabels), block_rows)):
        largest = _largest(np.concatenate([largest, part]), num_kept)
    return float(largest.min())


def _sample(num_rows: int, num_sampled: int, seed: int) -> NDArray[np.int64]:
    if not 2 <= num_sampled <= num_rows:
        raise ValueError(f"num_sampled must be 2 to {num_rows} (the rows), got {num_sampled}")
    return np.sort(np.random.default_rng(seed).permutation(num_rows)[:num_sampled])


def _largest(values: NDArray[np.float32], num_kept: int) -> NDArray[np.float32]:
    """Return the `num_kept` largest values, or all if they are fewer, in any order; reorders `values`."""
    if len(values) <= num_kept:
        return values
    values.partition(len(values) - num_kept)
    return values[-num_kept:].copy()  # lets go of the rest


def _largest_of_block(block: Block, multilabels: NDArray[np.float32], num_kept: int) -> NDArray[np.float32]:
    """Return the largest agreements of the block's rows with the rows after them.

    The rows before the block have met it in their own blocks.
    """
    start, stop = block
    rows = _padded(multilabels[start:stop])
    agreements = np.empty((stop - start, len(multilabels) - start), np.float32)

    def fill(first: int, last: int) -> None:
        columns = np.ascontiguousarray(_padded(multilabels[first:last]).T)
        agreements[:, first - start : last - start] = 1 - _l1_distances(rows, columns) / 2

    over_rows(fill, start, len(multilabels), chunk_rows=_TILE)
    agreements[np.tril_indices(stop - start)] = -np.inf  # itself, and pairs that are already there
    largest = _largest(agreements.ravel(), num_kept)
    return largest[largest > -np.inf]


def _padded(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy with agents of 0, which change no distance, up to a multiple of the unrolled loop."""
    num_rows, num_agents = rows.shape
    padded = np.zeros((num_rows, -(-num_agents // _UNROLL) * _UNROLL), np.float32)
    padded[:, :num_agents] = rows
    return padded


@compiled
def _l1_distances(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the L1 distances (R, W) of rows (R, P) and columns (P, W), P a multiple of 4.

    The lanes of a vector are columns, and every pair adds up its agents in one order: no entry's bits
    depend on its place or its neighbours, and (i, j) has those of (j, i).
    """
    num_agents, width = columns.shape
    total = np.zeros((len(rows), width), np.float32)
    chain = np.empty(width, np.float32)
    for begin in range(0, num_agents, _SLICE):
        for row in range(len(rows)):
            own, of_row = rows[row], total[row]
            chain[:] = 0
            for agent in range(begin, min(begin + _SLICE, num_agents), _UNROLL):
                a, b, c, d = own[agent], own[agent + 1], own[agent + 2], own[agent + 3]
                with_a, with_b = columns[agent], columns[agent + 1]
                with_c, with_d = columns[agent + 2], columns[agent + 3]
                for lane in range(chain.size):
                    chain[lane] += (abs(a - with_a[lane]) + abs(b - with_b[lane])) + (
                        abs(c - with_c[lane]) + abs(d - with_d[lane])
                    )
            for lane in range(chain.size):
                of_row[lane] += chain[lane]
    return total
