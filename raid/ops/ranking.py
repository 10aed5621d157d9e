"""CMC, mAP and mINP of a query-gallery ranking, by blocks of queries."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """

    mAP: float
    cmc: NDArray[np.float64]
    mINP: float
    num_valid: int


@dataclass(frozen=True)
class _Side:
    """Features, identities and cameras of the queries or of the gallery."""

    features: NDArray[np.float32]
    identities: NDArray[Any]
    cameras: NDArray[Any] | None


def rank(
    query_features: NDArray[Any],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_features: NDArray[Any],
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    ap: str = "noninterp",
    block_rows: int = 256,
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
        block_rows: queries per block.
        map_blocks: what runs the blocks; same signature as builtin `map` with one iterable.

    Raises:
        ValueError: no query has a match, an unknown `ap`, features that are not finite, or shapes that do
            not fit.

    Memory: block_rows * G * 4 bytes per block that runs at a time.
    """
    if ap not in AP_VARIANTS:
        raise ValueError(f"unknown ap {ap!r}: choose one of {', '.join(AP_VARIANTS)}")
    queries = _side("query", query_features, query_identities, query_cameras)
    gallery = _side("gallery", gallery_features, gallery_identities, gallery_cameras)
    if queries.features.shape[1] != gallery.features.shape[1]:
        raise ValueError("queries and gallery differ in their number of dimensions")
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("give cameras of both queries and gallery, or of neither")
    score = partial(_score_block, queries=queries, gallery=gallery, ap=ap)
    parts = list(map_blocks(score, row_blocks(len(queries.features), block_rows)))
    scores = np.concatenate([np.empty((0, 3)), *parts])
    if len(scores) == 0:
        raise ValueError("no query has a match in the gallery (of another camera): nothing to evaluate")
    first_hits = np.bincount(scores[:, 0].astype(np.int64), minlength=len(gallery.features))
    return Ranking(
        mAP=float(scores[:, 1].mean()),
        cmc=np.cumsum(first_hits) / len(scores),
        mINP=float(scores[:, 2].mean()),
        num_valid=len(scores),
    )


def average_precision(hit_positions: NDArray[Any], ap: str = "noninterp") -> float:
    """Return the average precision of matches at `hit_positions`, (n,) rising, counted from 0.

    With n matches, the j-th (from 0) at position pos_j:
      - `noninterp` (torchreid, Cluster-Contrast, ICSR): mean of (j + 1) / (pos_j + 1).
      - `market_trapezoid` (the Market-1501 Matlab code, SLSR): mean of the average of that and of the
        precision one place before, j / pos_j, which is 1 where pos_j = 0.
      - `mar_official` (MAR): the same, but the precision before the first match is always 1 (a bug, kept
        for comparison).

    Raises:
        ValueError: an unknown `ap`.
    """
    hits = np.arange(len(hit_positions))
    here = (hits + 1) / (hit_positions + 1)
    if ap == "noninterp":
        return float(here.mean())
    if ap not in AP_VARIANTS:
        raise ValueError(f"unknown ap {ap!r}: choose one of {', '.join(AP_VARIANTS)}")
    before = np.where(hit_positions > 0, hits / np.maximum(hit_positions, 1), 1.0)
    if ap == "mar_official":
        before[0] = 1.0
    return float(((before + here) / 2).mean())


def _side(name: str, features: NDArray[Any], identities: NDArray[Any], cameras: NDArray[Any] | None) -> _Side:
    rows = as_features(features, f"{name}_features")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}_features are not finite")  # NaN has no place in an order
    for what, values in (("identities", identities), ("cameras", cameras)):
        if values is not None and values.shape != (len(rows),):
            raise ValueError(f"{name}_{what} must have shape ({len(rows)},), got {values.shape}")
    return _Side(rows, identities, cameras)


def _score_block(block: Block, queries: _Side, gallery: _Side, ap: str) -> NDArray[np.float64]:
    """Return (first hit's position, AP, INP) of each valid query of the block, (V, 3)."""
    similarity = similarity_rows(block, queries.features, gallery.features).numpy()
    scores = []
    for row, query in zip(similarity, range(*block), strict=True):
        identity = queries.identities[query]
        if identity == -1:
            continue
        match = gallery.identities == identity
        counted = gallery.identities != -1
        if queries.cameras is not None and gallery.cameras is not None:
            counted &= ~(match & (gallery.cameras == queries.cameras[query]))
        hits = _hit_positions(row[counted], match[counted])
        if len(hits):
            scores.append((hits[0], average_precision(hits, ap), len(hits) / (hits[-1] + 1)))
    return np.array(scores, np.float64).reshape(-1, 3)


def _hit_positions(similarity: NDArray[np.float32], match: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the positions (from 0, rising) of the matches when sorted by falling similarity, then index.

    The order of the rest is of no interest: values are sorted without their indices, and indices are
    looked at only where a match has equals.
    """
    places = np.flatnonzero(match)
    values = similarity[places]
    ordered = np.sort(similarity)
    above = len(ordered) - np.searchsorted(ordered, values, side="right")
    equal = len(ordered) - np.searchsorted(ordered, values, side="left") - above
    for tied in np.flatnonzero(equal > 1):
        above[tied] += np.count_nonzero(similarity[: places[tied]] == values[tied])
    return np.sort(above)
