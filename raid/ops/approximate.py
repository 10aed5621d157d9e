"""Approximate nearest neighbours for large sets, and how many of the true ones they hold."""

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import over_threads
from raid.ops.neighbors import Block, MapBlocks, as_features, knn, row_blocks
from raid.ops.products import as_slices, products
from raid.ops.top_k import Best, nothing_yet, take_listed

_SAMPLE_PER_LIST, _ROUNDS = 32, 5  # of Lloyd's algorithm
_BLOCK_ROWS = 1 << 16
_CHUNK_ROWS = 1 << 14  # of one thread: the more, the more of them share a list, and the larger the products
_TILE_ROWS = 1024  # multiplied with a list at a time
_ROUND_ROWS, _ROUND_COLUMNS = 64, 32  # sizes of products are rounded up: oneDNN compiles for every new one


def approximate_knn(
    features: NDArray[Any],
    k: int,
    *,
    seed: int,
    list_rows: int = 256,
    num_probes: int = 96,
    recall_rows: int = 1000,
    map_blocks: MapBlocks = map,
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Find most of the `k` rows with the largest dot product to each row, itself among them.

    Inverted lists (Jegou et al. 2011): the rows are cut into lists by the nearest of some centroids, and a
    row is compared with those lists alone whose centroids are nearest to it. The work is done list by list,
    for all rows of a block that probe it at once: products of blocks, as in `knn`, many times as fast as
    one row after the other. A set of up to `num_probes` lists is searched exactly. The result depends on
    the seed, not on the number of shards or threads; equal similarities are ordered by index.

    Args:
        features: (N, D) unit rows, computed in float32.
        k: number of neighbours, 1 to N.
        seed: of the centroids, and of the rows that recall is measured on.
        list_rows: mean length of a list.
        num_probes: lists that a row is compared with; recall grows with their share in all, as does time.
        recall_rows: rows for which the exact neighbours are searched as well, 1 or more.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Returns:
        Similarity (N, k) float32, falling, and index (N, k) int64, as `knn` returns them; and the recall:
        the share of the exact neighbours of `recall_rows` random rows that the table holds (others that are
        as near, within 1e-6, count as well).

    Raises:
        ValueError: features that are not (N, D) or not finite, a number that is out of range, or lists
            that hold fewer than k rows together (more probes help).

    Memory: the result, twice; a sample of N / 8 rows, while the lists are made; and, per chunk of 16,384
    rows that a thread works on, a copy of them and 16 bytes a row and probe.
    """
    features = as_features(features)
    if not 1 <= k <= len(features):
        raise ValueError(f"k must be 1 to {len(features)} (the number of rows), got {k}")
    if min(list_rows, num_probes, recall_rows) < 1:
        raise ValueError("list_rows, num_probes and recall_rows must be at least 1")
    generator = np.random.default_rng(seed)
    centroids = _centroids(features, -(-len(features) // list_rows), generator, map_blocks)
    order, starts = _lists(features, centroids, map_blocks)
    search = partial(
        _search_block,
        features=features,
        centroids=centroids,
        order=order,
        starts=starts,
        num_probes=min(num_probes, len(centroids)),
        k=k,
    )
    values, index = nothing_yet(len(features), k)
    blocks = row_blocks(len(features), _BLOCK_ROWS)
    for (first, last), (part, part_index) in zip(blocks, map_blocks(search, blocks), strict=True):
        values[order[first:last]], index[order[first:last]] = part, part_index
    if index.min() < 0:
        raise ValueError("fewer than k neighbours found: num_probes is too small, or the features not finite")
    sample = np.sort(generator.choice(len(features), min(recall_rows, len(features)), replace=False))
    exact, _ = knn(features[sample], features, k, map_blocks=map_blocks)
    recall = float((values[sample] >= exact[:, -1:] - np.float32(1e-6)).mean())
    return values, index.astype(np.int64), recall


def _centroids(
    features: NDArray[np.float32], count: int, generator: np.random.Generator, map_blocks: MapBlocks
) -> NDArray[np.float32]:
    """Return `count` unit centroids of a sample of the rows (spherical k-means), (count, D)."""
    size = min(len(features), count * _SAMPLE_PER_LIST)
    sample = features[np.sort(generator.choice(len(features), size, replace=False))]
    centroids = sample[np.sort(generator.choice(size, count, replace=False))]
    for _ in range(_ROUNDS):
        order, starts = _lists(sample, centroids, map_blocks)
        for number, (first, last) in enumerate(pairwise(starts.tolist())):
            total = sample[order[first:last]].sum(axis=0)
            length = np.linalg.norm(total)
            if length > 0:  # an empty list keeps its centroid
                centroids[number] = total / length
    return centroids


def _lists(
    features: NDArray[np.float32], centroids: NDArray[np.float32], map_blocks: MapBlocks
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows list by list, rising in each, and where each list starts (lists + 1,)."""
    _, nearest = knn(features, centroids, 1, map_blocks=map_blocks)
    order = np.argsort(nearest[:, 0], kind="stable")
    sizes = np.bincount(nearest[:, 0], minlength=len(centroids))
    return order, np.concatenate([[0], np.cumsum(sizes)])


def _search_block(block: Block, **arguments: Any) -> Best:
    """Return the best for some rows of `order`, by chunks that the threads share."""
    start, stop = block
    chunks = [(start + first, start + last) for first, last in row_blocks(stop - start, _CHUNK_ROWS)]
    parts = over_threads(partial(_search_chunk, **arguments), chunks)
    return np.concatenate([values for values, _ in parts]), np.concatenate([index for _, index in parts])


def _search_chunk(
    chunk: Block,
    features: NDArray[np.float32],
    centroids: NDArray[np.float32],
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    num_probes: int,
    k: int,
) -> Best:
    """Return the best for some rows of `order`, which lie in few lists and probe many lists in common."""
    rows = features[order[slice(*chunk)]]
    best = nothing_yet(len(rows), k)
    _, probed = knn(rows, centroids, num_probes)
    by_list = np.argsort(probed.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(probed.ravel(), minlength=len(centroids)))
    for number, (first, last) in enumerate(pairwise([0, *ends.tolist()])):
        of_list = order[starts[number] : starts[number + 1]]
        if first == last or len(of_list) == 0:
            continue
        probing = by_list[first:last] // num_probes
        width = _rounded(len(of_list), _ROUND_COLUMNS)  # into the next lists: those columns are not looked at
        listed = as_slices(features[order[starts[number] : starts[number] + width]])
        for start, stop in row_blocks(len(probing), _TILE_ROWS):
            some = probing[start:stop]
            padded = np.zeros(_rounded(len(some), _ROUND_ROWS), np.int64)
            padded[: len(some)] = some
            take_listed(products(as_slices(rows[padded]), listed), some, of_list, best)
    return best


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
