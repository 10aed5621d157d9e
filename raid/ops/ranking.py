"""CMC, mAP and mINP of a query-gallery ranking, and its first places, by blocks of queries."""

from dataclasses import dataclass, field
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
        average_precisions: (Q,) float64; NaN for a query that is not valid.
    """

    mAP: float
    cmc: NDArray[np.float64]
    mINP: float
    num_valid: int
    average_precisions: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class RankedLists:
    """The first P places of the ranking of each of Q queries.

    Attributes:
        rows: (Q, P) int64 rows of the gallery, best first; -1 where fewer items count.
        similarity: (Q, P) float32, falling; NaN where there is no item.
        right: (Q, P) bool, whether the item has the query's identity.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]
    right: NDArray[np.bool_]


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
    queries, gallery = _sides(
        (query_features, query_identities, query_cameras),
        (gallery_features, gallery_identities, gallery_cameras),
    )
    score = partial(_score_block, queries=queries, gallery=gallery, ap=ap)
    parts = list(map_blocks(score, row_blocks(len(queries.features), block_rows)))
    of_all = np.concatenate([np.empty((0, 3)), *parts])
    scores = of_all[~np.isnan(of_all[:, 1])]
    if len(scores) == 0:
        raise ValueError("no query has a match in the gallery (of another camera): nothing to evaluate")
    first_hits = np.bincount(scores[:, 0].astype(np.int64), minlength=len(gallery.features))
    return Ranking(
        mAP=float(scores[:, 1].mean()),
        cmc=np.cumsum(first_hits) / len(scores),
        mINP=float(scores[:, 2].mean()),
        num_valid=len(scores),
        average_precisions=of_all[:, 1],
    )


def ranked_lists(
    query_features: NDArray[Any],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_features: NDArray[Any],
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    num_places: int,
    block_rows: int = 256,
    map_blocks: MapBlocks = map,
) -> RankedLists:
    """Return the first `num_places` places of what `rank` scores: the same rules, for the eye.

    Args and memory as in `rank`; a query of identity -1 has an empty list.

    Raises:
        ValueError: as in `rank`, but for queries without a match, or `num_places` below 1.
    """
    if num_places < 1:
        raise ValueError(f"num_places must be at least 1, got {num_places}")
    queries, gallery = _sides(
        (query_features, query_identities, query_cameras),
        (gallery_features, gallery_identities, gallery_cameras),
    )
    search = partial(_list_block, queries=queries, gallery=gallery, num_places=num_places)
    parts = list(map_blocks(search, row_blocks(len(queries.features), block_rows)))
    rows = np.concatenate([np.empty((0, num_places), np.int64), *(part[0] for part in parts)])
    similarity = np.concatenate([np.empty((0, num_places), np.float32), *(part[1] for part in parts)])
    right = (rows >= 0) & (gallery.identities[rows] == queries.identities[:, None])
    return RankedLists(rows, similarity, right)


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


_Given = tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]


def _sides(query: _Given, gallery: _Given) -> tuple[_Side, _Side]:
    """Check features, identities and cameras of both sides."""
    queries, galleries = _side("query", *query), _side("gallery", *gallery)
    if queries.features.shape[1] != galleries.features.shape[1]:
        raise ValueError("queries and gallery differ in their number of dimensions")
    if (queries.cameras is None) != (galleries.cameras is None):
        raise ValueError("give cameras of both queries and gallery, or of neither")
    return queries, galleries


def _side(name: str, features: NDArray[Any], identities: NDArray[Any], cameras: NDArray[Any] | None) -> _Side:
    rows = as_features(features, f"{name}_features")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}_features are not finite")  # NaN has no place in an order
    for what, values in (("identities", identities), ("cameras", cameras)):
        if values is not None and values.shape != (len(rows),):
            raise ValueError(f"{name}_{what} must have shape ({len(rows)},), got {values.shape}")
    return _Side(rows, identities, cameras)


def _score_block(block: Block, queries: _Side, gallery: _Side, ap: str) -> NDArray[np.float64]:
    """Return (first hit's position, AP, INP) of each query of the block, (rows, 3); NaN if not valid."""
    similarity = similarity_rows(block, queries.features, gallery.features).numpy()
    scores = np.full((len(similarity), 3), np.nan)
    for place, query in enumerate(range(*block)):
        match, counted = _rules(query, queries, gallery)
        hits = _hit_positions(similarity[place, counted], match[counted])
        if len(hits):
            scores[place] = hits[0], average_precision(hits, ap), len(hits) / (hits[-1] + 1)
    return scores


def _list_block(
    block: Block, queries: _Side, gallery: _Side, num_places: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows of the gallery and similarities, (rows, num_places), of the queries of the block."""
    similarity = similarity_rows(block, queries.features, gallery.features).numpy()
    rows = np.full((len(similarity), num_places), -1, np.int64)
    values = np.full(rows.shape, np.nan, np.float32)
    for place, query in enumerate(range(*block)):
        counted = np.flatnonzero(_rules(query, queries, gallery)[1])
        first = counted[np.argsort(-similarity[place, counted], kind="stable")[:num_places]]
        rows[place, : len(first)], values[place, : len(first)] = first, similarity[place, first]
    return rows, values


def _rules(query: int, queries: _Side, gallery: _Side) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return what has the query's identity, and what counts for it, each (G,)."""
    identity = queries.identities[query]
    if identity == -1:
        nothing = np.zeros(len(gallery.identities), np.bool_)
        return nothing, nothing
    match = gallery.identities == identity
    counted = gallery.identities != -1
    if queries.cameras is not None and gallery.cameras is not None:
        counted &= ~(match & (gallery.cameras == queries.cameras[query]))
    return match, counted


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
