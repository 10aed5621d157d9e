"""CMC, mAP and mINP of a query-gallery ranking, by blocks of queries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.ops.hits import Ints, Rules, hit_positions
from raid.ops.neighbors import Block, MapBlocks, as_features, row_blocks, similarity_rows

AP_VARIANTS = ("noninterp", "market_trapezoid", "mar_official")


@dataclass(frozen=True)
class Ranking:
    """Result of an evaluation.

    Attributes:
        mAP: mean over valid queries of the average precision.
        cmc: (G,) float64; cmc[r] is the share of valid queries with a match within the first r + 1 places.
        mINP: mean over valid queries of number of matches / place of the last match.
        num_valid: queries that have a match at all.
        average_precisions: (Q,) float64; NaN for a query that is not valid.
        first_matches: (Q,) int64, place of the best match from 1, 0 for a query that is not valid; empty
            where a query has several galleries.
    """

    mAP: float
    cmc: NDArray[np.float64]
    mINP: float
    num_valid: int
    average_precisions: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    first_matches: Ints = field(default_factory=lambda: np.empty(0, np.int64))


def rank(
    query_features: NDArray[Any],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_features: NDArray[Any],
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    ap: str = "noninterp",
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> Ranking:
    """Rank the gallery for each query by dot product, and score the ranking.

    For a query, gallery items with its identity *and* its camera do not count, nor does junk (identity -1).
    Equal similarities are ordered by gallery index. Queries without a match left, and queries of identity
    -1, are left out of all means.

    Args:
        query_features: (Q, D) unit rows, computed in float32.
        query_identities: (Q,).
        query_cameras: (Q,), or None on both sides: then no item is dropped for its camera.
        gallery_features: (G, D) unit rows.
        gallery_identities: (G,), -1 = junk; 0 is an identity like any other (Market's distractors).
        gallery_cameras: (G,) or None.
        ap: variant of average precision, see `average_precision`.
        block_rows: queries per block; with fewer than 512 the product itself takes a tenth longer.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Raises:
        ValueError: no query has a match, an unknown `ap`, features that are not finite, or shapes that do
            not fit.

    Memory: block_rows * G * 4 bytes per block that runs at a time, and a few numbers an item.
    """
    check_ap(ap)
    queries, gallery = query_and_gallery(query_features, gallery_features)
    rules = checked_rules(
        query_identities, query_cameras, len(queries), gallery_identities, gallery_cameras, len(gallery)
    )
    score = partial(_score_block, queries=queries, gallery=gallery, rules=rules, ap=ap)
    return _ranking(map_blocks(score, row_blocks(len(queries), block_rows)), len(gallery))


def rank_blocks(
    blocks: Iterable[NDArray[Any]],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    ap: str = "noninterp",
) -> Ranking:
    """Score the ranking that distances give, for instance those of `raid.ops.rerank.rerank`.

    As `rank`, but the smaller the distance the better; equal distances are ordered by gallery index. The
    blocks are taken one by one, so that the whole of the distances need never exist.

    Args:
        blocks: of shape (rows, G), float32 or float64, together the Q queries in their order; one array
            (Q, G) is given as [array].
        query_identities: (Q,), and so on as in `rank`.
        query_cameras: (Q,) or None.
        gallery_identities: (G,).
        gallery_cameras: (G,) or None.
        ap: variant of average precision, see `average_precision`.

    Raises:
        ValueError: as in `rank`, or a distance that is not a number.

    Memory: a few numbers a query and an item beside the block.
    """
    check_ap(ap)
    num_queries, num_gallery = len(query_identities), len(gallery_identities)
    rules = Rules.of(query_identities, query_cameras, gallery_identities, gallery_cameras)

    placed = placed_blocks(blocks, num_queries, num_gallery)
    return _ranking(
        (hit_scores(*hit_positions(block, first, rules), ap) for first, block in placed), num_gallery
    )


def distance_blocks(
    query_features: NDArray[Any],
    gallery_features: NDArray[Any],
    *,
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> Iterable[NDArray[np.float32]]:
    """Return the negated dot products that `rank` sorts, for what takes blocks of distances.

    Args:
        query_features: (Q, D) unit rows, computed in float32.
        gallery_features: (G, D) unit rows.
        block_rows: queries per block.
        map_blocks: as in `rank`; the lazy builtin holds one block at a time.

    Returns:
        Blocks (block_rows, G) float32, the last one shorter.

    Raises:
        ValueError: features of other shapes or not finite.
    """
    queries, gallery = query_and_gallery(query_features, gallery_features)
    return map_blocks(
        partial(_distances, queries=queries, gallery=gallery), row_blocks(len(queries), block_rows)
    )


def placed_blocks(
    blocks: Iterable[NDArray[Any]], num_queries: int, num_gallery: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield each block of distances with the number of its first query.

    Raises:
        ValueError: together they are not (num_queries, num_gallery).
    """
    first = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != num_gallery or first + len(block) > num_queries:
            raise ValueError(f"blocks must make up ({num_queries}, {num_gallery}), got {block.shape}")
        yield first, block
        first += len(block)
    if first < num_queries:
        raise ValueError(f"the blocks hold {first} of {num_queries} queries")


def average_precision(hit_positions: NDArray[Any], ap: str = "noninterp") -> float:
    """Return the average precision of matches at `hit_positions`, (n,) rising, counted from 0.

    With n matches, the j-th (from 0) at position pos_j:
      - `noninterp` (torchreid, Cluster-Contrast, ICSR): mean of (j + 1) / (pos_j + 1).
      - `market_trapezoid` (the Market-1501 Matlab code, SLSR): mean of the average of that and of the
        precision one place before, j / pos_j, which is 1 where pos_j = 0.
      - `mar_official` (MAR): the same, but the precision before the first match is always 1 (a bug, kept
        for comparison).

    Raises:
        ValueError: an unknown `ap`, or no match.
    """
    check_ap(ap)
    if len(hit_positions) == 0:
        raise ValueError("without a match there is no average precision")
    counts = np.array([len(hit_positions)])
    return float(hit_scores(hit_positions, counts, ap)[0, 1])


def query_and_gallery(
    query_features: NDArray[Any], gallery_features: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both as contiguous float32, without a copy where they are.

    Raises:
        ValueError: they are not (Q, D) and (G, D), or not finite.
    """
    queries = as_features(query_features, "query_features")
    gallery = as_features(gallery_features, "gallery_features")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError("queries and gallery differ in their number of dimensions")
    for name, rows in (("query", queries), ("gallery", gallery)):
        # By blocks: the mask of all of them is a quarter of the features.
        if not all(np.isfinite(rows[start:stop]).all() for start, stop in row_blocks(len(rows), 1024)):
            raise ValueError(f"{name}_features are not finite")  # NaN has no place in an order
    return queries, gallery


def check_ap(ap: str) -> None:
    """Raise ValueError for an unknown variant of average precision."""
    if ap not in AP_VARIANTS:
        raise ValueError(f"unknown ap {ap!r}: choose one of {', '.join(AP_VARIANTS)}")


def checked_rules(
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    num_queries: int,
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    num_gallery: int,
) -> Rules:
    """Return the rules of labels that fit the features."""
    for name, identities, num_rows in (
        ("query", query_identities, num_queries),
        ("gallery", gallery_identities, num_gallery),
    ):
        if identities.shape != (num_rows,):
            raise ValueError(f"{name}_identities must have shape ({num_rows},), got {identities.shape}")
    return Rules.of(query_identities, query_cameras, gallery_identities, gallery_cameras)


def _score_block(
    block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32], rules: Rules, ap: str
) -> NDArray[np.float64]:
    return hit_scores(*hit_positions(_distances(block, queries, gallery), block[0], rules), ap)


def _distances(
    block: Block, queries: NDArray[np.float32], gallery: NDArray[np.float32]
) -> NDArray[np.float32]:
    # A negated query gives the bits of the negated product: a distance, without another pass over it.
    distances: NDArray[np.float32] = similarity_rows(
        (0, block[1] - block[0]), -queries[slice(*block)], gallery
    ).numpy()
    return distances


def hit_scores(hits: Ints, counts: Ints, ap: str) -> NDArray[np.float64]:
    """Return (first hit's position, AP, INP) of each of R queries, (R, 3); NaN without a hit.

    Args:
        hits: (H,) positions, rising within a query, one query after the other.
        counts: (R,) how many each query has.
        ap: variant of average precision.
    """
    scores = np.full((len(counts), 3), np.nan)
    valid = np.flatnonzero(counts)
    if len(valid) == 0:
        return scores
    num = counts[valid]
    ends = np.cumsum(num)
    starts = ends - num
    ranks = np.arange(len(hits)) - np.repeat(starts, num)
    terms = (ranks + 1) / (hits + 1)
    if ap != "noninterp":
        before = np.where(hits > 0, ranks / np.maximum(hits, 1), 1.0)
        if ap == "mar_official":
            before[starts] = 1.0
        terms = (before + terms) / 2
    scores[valid, 0] = hits[starts]
    scores[valid, 1] = np.add.reduceat(terms, starts) / num
    scores[valid, 2] = num / (hits[ends - 1] + 1)
    return scores


def _ranking(parts: Iterable[NDArray[np.float64]], num_gallery: int) -> Ranking:
    """Put the scores of all queries together."""
    of_all = np.concatenate([np.empty((0, 3)), *parts])
    scores = of_all[~np.isnan(of_all[:, 1])]
    if len(scores) == 0:
        raise ValueError("no query has a match in the gallery (of another camera): nothing to evaluate")
    first_hits = np.bincount(scores[:, 0].astype(np.int64), minlength=num_gallery)
    return Ranking(
        mAP=float(scores[:, 1].mean()),
        cmc=np.cumsum(first_hits) / len(scores),
        mINP=float(scores[:, 2].mean()),
        num_valid=len(scores),
        average_precisions=of_all[:, 1],
        first_matches=np.nan_to_num(of_all[:, 0] + 1).astype(np.int64),
    )
