"""The protocols of retrieval: from features and labels to rankings, for every method and every set.

What they have in common: for a query, gallery items of its identity *and* camera do not count (without
cameras all do), nor does junk (identity -1); identity 0 is an identity like any other (Market-1501's
distractors); queries without a match are left out of all means.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from raid.config import Schema
from raid.ops.neighbors import MapBlocks
from raid.ops.ranking import Ranking, distance_blocks, rank, rank_blocks
from raid.ops.rerank import rerank
from raid.ops.single_shot import rank_single_shot

Protocol = Literal["standard", "cuhk03_classic", "viper"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# Galleries that CUHK03's classic protocol draws for a query, and what average precision is of.
CUHK03: dict[str, tuple[int, Literal["sampled", "full"]]] = {
    "sls": (100, "sampled"),
    "torchreid": (10, "full"),
}


@dataclass(frozen=True, kw_only=True)
class Options(Schema):
    """What is chosen of an evaluation; the protocol itself belongs to the set."""

    ap: Annotated[
        Literal["noninterp", "market_trapezoid", "mar_official"], "variant of average precision"
    ] = "noninterp"
    multi_query: Annotated[
        bool, "also with every query averaged over the set's further images of its person and camera"
    ] = False
    rerank: Annotated[bool, "also re-ranked with k-reciprocal neighbours (Zhong et al. 2017)"] = False
    rerank_k1: Annotated[PositiveInt, "neighbours of the k-reciprocal sets"] = 20
    rerank_k2: Annotated[PositiveInt, "neighbours averaged in the query expansion"] = 6
    rerank_weight: Annotated[float, Field(ge=0, le=1), "share of the original distance"] = 0.3
    cuhk03: Annotated[
        Literal["sls", "torchreid"],
        "CUHK03's classic splits: 100 drawn galleries a query and average precision on them, or 10 and "
        "average precision on the full gallery",
    ] = "sls"
    seed: Annotated[NonNegativeInt, Field(lt=2**63), "of the galleries that are drawn"] = 0


@dataclass(frozen=True, eq=False)
class Side:
    """N images of one side of a retrieval.

    Attributes:
        features: (N, D) float32 unit rows.
        identities: (N,) int64, -1 = junk.
        cameras: (N,) int64, or None on every side.
    """

    features: NDArray[np.float32]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64] | None


def rankings(
    query: Side,
    gallery: Side,
    more: Side | None = None,
    *,
    protocol: Protocol = "standard",
    options: Options,
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> dict[str, Ranking]:
    """Return the ranking of every protocol that applies.

    Args:
        query: Q queries.
        gallery: G images; the same object as `query` where a set's images are both.
        more: images that multi-query averages; protocol standard alone knows them.
        protocol: of the set, see `rank_protocol`.
        options: what is chosen.
        block_rows: queries per block.
        map_blocks: what runs the blocks, as in `raid.ops.ranking.rank`.

    Returns:
        Under "" the single query, and, where they were chosen, "multi_query", "rerank" and
        "multi_query/rerank".

    Raises:
        ValueError: as `raid.ops.ranking.rank`.

    Memory: that of `raid.ops.ranking.rank` or `raid.ops.rerank.rerank`; never Q x G.
    """
    sides = {"": query}
    if options.multi_query and more is not None and protocol == "standard":
        sides["multi_query"] = averaged(query, more)
    found = {}
    for name, side in sides.items():
        for reranked in (False, True) if options.rerank else (False,):
            found["/".join(filter(None, (name, "rerank" if reranked else "")))] = rank_protocol(
                side,
                gallery,
                protocol=protocol,
                options=options,
                reranked=reranked,
                block_rows=block_rows,
                map_blocks=map_blocks,
            )
    return found


def rank_protocol(
    query: Side,
    gallery: Side,
    *,
    protocol: Protocol = "standard",
    options: Options,
    reranked: bool = False,
    block_rows: int = 512,
    map_blocks: MapBlocks = map,
) -> Ranking:
    """Rank the gallery for the queries as they are.

      - `standard` (Market-1501, DukeMTMC-reID, MSMT17, CUHK03's new protocol): the whole gallery.
      - `cuhk03_classic` (Li et al. 2014): one drawn image of each identity, as `options.cuhk03` has it
        (see `raid.ops.single_shot`); queries and gallery are the same images.
      - `viper`: query and gallery change sides, and the two are averaged. The ranking's
        `average_precisions` are those of the queries, then those of the gallery as queries.

    Args, memory and errors as in `rankings`; `reranked` says which distances.
    """

    def ranked(one: Side, other: Side) -> Ranking:
        labels = (one.identities, one.cameras, other.identities, other.cameras)
        how: dict[str, Any] = {"block_rows": block_rows, "map_blocks": map_blocks}
        if protocol != "cuhk03_classic" and not reranked:
            # Scores its blocks where they are computed.
            return rank(one.features, *labels[:2], other.features, *labels[2:], ap=options.ap, **how)
        blocks = _distances(one, other, options, reranked=reranked, **how)
        if protocol != "cuhk03_classic":
            return rank_blocks(blocks, *labels, ap=options.ap)
        repeats, ap_gallery = CUHK03[options.cuhk03]
        return rank_single_shot(
            blocks, *labels, repeats=repeats, ap_gallery=ap_gallery, ap=options.ap, seed=options.seed
        )

    forward = ranked(query, gallery)
    return mean_of_both(forward, ranked(gallery, query)) if protocol == "viper" else forward


def averaged(query: Side, more: Side) -> Side:
    """Return the queries with the mean feature of the images of `more` of their identity and camera.

    The mean of unit rows is not made a unit row again (SLSR's release): a ranking by dot product is the same
    either way, a re-ranking is not. A query without such images keeps its own feature. Without cameras the
    images of its identity are averaged.
    """
    features = query.features.astype(np.float32)
    rows: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(_keys(more)):
        rows.setdefault(key, []).append(row)
    for row, key in enumerate(_keys(query)):
        if key in rows:
            features[row] = more.features[rows[key]].mean(axis=0, dtype=np.float64)
    return replace(query, features=features)


def mean_of_both(forward: Ranking, backward: Ranking) -> Ranking:
    """Return the mean of two rankings; `num_valid` and what is of a query are those of both together."""
    places = max(len(forward.cmc), len(backward.cmc))
    # A shorter gallery has been seen to its end: a curve stays at its last value.
    curves = [np.pad(each.cmc, (0, places - len(each.cmc)), mode="edge") for each in (forward, backward)]
    return Ranking(
        mAP=(forward.mAP + backward.mAP) / 2,
        cmc=(curves[0] + curves[1]) / 2,
        mINP=(forward.mINP + backward.mINP) / 2,
        num_valid=forward.num_valid + backward.num_valid,
        average_precisions=np.concatenate([forward.average_precisions, backward.average_precisions]),
        first_matches=np.concatenate([forward.first_matches, backward.first_matches]),
    )


def _distances(
    query: Side, gallery: Side, options: Options, *, reranked: bool, block_rows: int, map_blocks: MapBlocks
) -> Iterable[NDArray[np.float32]]:
    """Return blocks of distances of the queries to the gallery, (rows, G)."""
    if not reranked:
        return distance_blocks(query.features, gallery.features, block_rows=block_rows, map_blocks=map_blocks)
    return rerank(
        query.features,
        gallery.features,
        k1=options.rerank_k1,
        k2=options.rerank_k2,
        weight=options.rerank_weight,
        block_rows=block_rows,
        map_blocks=map_blocks,
    )


def _keys(side: Side) -> list[tuple[int, int]]:
    """Return (identity, camera) of every image; without cameras they have one."""
    cameras = np.zeros_like(side.identities) if side.cameras is None else side.cameras
    return list(zip(side.identities.tolist(), cameras.tolist(), strict=True))
