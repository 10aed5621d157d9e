"""CMC, mAP and mINP where the gallery holds one drawn image of each identity (CUHK03's classic protocol)."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raid.ops.hits import Ints, Rules
from raid.ops.ranking import Ranking, check_ap, hit_scores, placed_blocks


def rank_single_shot(
    blocks: Iterable[NDArray[Any]],
    query_identities: NDArray[Any],
    query_cameras: NDArray[Any] | None,
    gallery_identities: NDArray[Any],
    gallery_cameras: NDArray[Any] | None,
    *,
    repeats: int,
    ap_gallery: Literal["sampled", "full"],
    ap: str = "noninterp",
    seed: int = 0,
) -> Ranking:
    """Score the ranking of galleries that are drawn for each query anew (Li et al., CVPR 2014).

    What counts for a query is what counts in `raid.ops.ranking.rank`. Of that, one image of each identity
    is drawn, `repeats` times; CMC is the mean over valid queries and repeats.

    Args:
        blocks: of distances, shape (rows, G), together the Q queries in their order, as in
            `raid.ops.ranking.rank_blocks`.
        query_identities: (Q,), -1 = not valid.
        query_cameras: (Q,) or None.
        gallery_identities: (G,), -1 = junk.
        gallery_cameras: (G,) or None.
        repeats: galleries that are drawn for a query.
        ap_gallery: what average precision and INP are of: `sampled`, the drawn galleries, in which a query
            has one match, so that the non-interpolated precision is the reciprocal of its rank (SLSR's
            release); `full`, everything that counts (torchreid).
        ap: variant of average precision, see `raid.ops.ranking.average_precision`.
        seed: 0 to 2**64 - 1, of the draws. Those of a query depend on it, on the query's number and on the
            order of its ranking alone: not on blocks, on the order of the gallery, or on names.

    Returns:
        The ranking; `cmc` has as many places as the gallery has identities.

    Raises:
        ValueError: as in `raid.ops.ranking.rank_blocks`, or `repeats` below 1.

    Memory: a block, and a few numbers for every drawn image of one query.
    """
    check_ap(ap)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    rules = Rules.of(query_identities, query_cameras, gallery_identities, gallery_cameras)
    num_queries, num_gallery = len(query_identities), len(gallery_identities)
    firsts, scores = [], np.full((num_queries, 2), np.nan)  # scores: AP and INP
    for first, block in placed_blocks(blocks, num_queries, num_gallery):
        if np.isnan(block).any():
            raise ValueError("a distance is not a number (NaN): it has no place in an order")
        for query, distances in enumerate(block, first):
            ranked = _ranked(distances, gallery_identities, rules.counted(query))
            match = ranked == query_identities[query]  # junk is not ranked: a query of it has none
            if match.any():
                places = _drawn_places(ranked, match, repeats, seed, query)
                firsts.append(places)
                scores[query] = _scores(places, np.flatnonzero(match), ap_gallery, ap)
    if not firsts:
        raise ValueError("no query has a match in the gallery (of another camera): nothing to evaluate")
    num_identities = len(np.unique(gallery_identities[gallery_identities != -1]))
    num_firsts = np.bincount(np.concatenate(firsts), minlength=num_identities)
    return Ranking(
        mAP=float(np.nanmean(scores[:, 0])),
        cmc=np.cumsum(num_firsts) / (len(firsts) * repeats),
        mINP=float(np.nanmean(scores[:, 1])),
        num_valid=len(firsts),
        average_precisions=scores[:, 0],
    )


def draws(counts: Ints, *, repeats: int, seed: int, query: int) -> Ints:
    """Return which image of each identity is drawn for a query, (repeats, I) of 0 .. counts - 1.

    Args:
        counts: (I,) images of the identities, in the order of their best places.
        repeats: galleries.
        seed: with `query` the key of the random numbers (Philox).
        query: number of the query.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([seed, query], np.uint64)))
    drawn: Ints = random.integers(0, counts, (repeats, len(counts)))
    return drawn


def _ranked(
    distances: NDArray[Any], gallery_identities: NDArray[Any], counted: NDArray[np.bool_]
) -> NDArray[Any]:
    """Return the identities of what counts, best first; equal distances by row of the gallery."""
    rows = np.flatnonzero(counted)
    ranked: NDArray[Any] = gallery_identities[rows[np.argsort(distances[rows], kind="stable")]]
    return ranked


def _drawn_places(
    ranked: NDArray[Any], match: NDArray[np.bool_], repeats: int, seed: int, query: int
) -> Ints:
    """Return the place of the drawn match among the drawn images, (repeats,)."""
    _, best, person = np.unique(ranked, return_index=True, return_inverse=True)
    person = np.argsort(np.argsort(best))[person]  # by their best places, whatever their names
    counts = np.bincount(person)
    by_person = np.argsort(person, kind="stable")  # places of the first person, rising, of the second, ...
    drawn = draws(counts, repeats=repeats, seed=seed, query=query)
    places = by_person[np.cumsum(counts) - counts + drawn]
    own = places[:, person[np.flatnonzero(match)[0]]]
    before: Ints = (places < own[:, None]).sum(axis=1)
    return before


def _scores(drawn: Ints, full: Ints, ap_gallery: str, ap: str) -> NDArray[np.float64]:
    """Return AP and INP of a query, (2,): mean over drawn galleries of one match each, or of the full."""
    hits, counts = (drawn, np.ones_like(drawn)) if ap_gallery == "sampled" else (full, np.array([len(full)]))
    scores: NDArray[np.float64] = hit_scores(hits, counts, ap)[:, 1:].mean(axis=0)
    return scores
