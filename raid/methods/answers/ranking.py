"""`raid rank`: for each query the first places of the gallery, block by block of queries."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.packed import is_pack
from raid.errors import InputError
from raid.methods.answers.ranking_table import check_out, table_text, writing_table
from raid.methods.answers.sides import UNKNOWN, Ints, Side, Sides, opened, short
from raid.ops.hits import Rules, hit_positions
from raid.ops.ranked_lists import first_places
from raid.ops.ranking import distance_blocks, hit_scores
from raid.ops.rerank import rerank
from raid.report.answer_lists import AnswerLists, PageFacts, write_lists

_BLOCK_ROWS, _BLOCK_NUMBERS = 512, 2**26  # queries of a block of distances, and distances: 256 MiB
_JUNK = -1
_NOBODY = UNKNOWN + 1  # an identity that no query has
_LONE = UNKNOWN // 2  # from here on cameras of one image each


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        top: places of a list.
        same_camera: drop: a query's own identity at its own camera is left out, where both are known, and so
            is junk (identity -1), as the evaluation has it; keep: nothing is.
        rerank: order by k-reciprocal re-ranking.
        out: the table, .csv or .parquet.
        page: the page of ranked lists, .html.
        blur: blur the page's pictures.
        root: folder or pack of the gallery's pictures; None: what its file names.
    """

    top: int = 20
    same_camera: str = "drop"
    rerank: bool = False
    out: Path | None = None
    page: Path | None = None
    blur: bool = False
    root: str | None = None


def answer(
    query: Path, gallery: Path, wanted: Wanted, *, checkpoint: Path | None = None, device: str = "auto"
) -> str:
    """Rank the gallery for every query, write what is wanted, and return what was found as text.

    Args:
        query: see `raid.methods.answers.sides.opened`, as `gallery`, `checkpoint` and `device`.
        gallery: a file of features.
        wanted: what of it.
        checkpoint: what pictures go through.
        device: of their extraction.

    Returns:
        A line for every file written and the figures, where identities are known; the table itself, as CSV,
        where neither table nor page is wanted.

    Raises:
        InputError: as in `opened`; a file cannot be written, or would replace an input.

    Memory: the features, a block of distances (256 MiB at most; more with `rerank`, see there), and
    16 bytes a place of the lists.
    """
    for path, suffixes in ((wanted.out, (".csv", ".parquet")), (wanted.page, (".html",))):
        if path is not None:
            check_out(path, suffixes, (query, gallery))
    if wanted.root is not None and not (is_pack(wanted.root) or Path(wanted.root).is_dir()):
        raise InputError(f"--root: {wanted.root}: there is no such folder")
    shown = wanted.page is not None
    sides = opened(query, gallery, checkpoint, root=wanted.root, device=device, shown=shown)
    parts: Iterable[Part] = ranked(sides, wanted)
    listed = sides.query.listed, sides.gallery.listed
    if wanted.out is not None:
        with writing_table(wanted.out, *listed) as write:
            parts = [write(part) for part in parts]
    lists = put_together(listed, parts)
    if wanted.page is not None:
        facts = PageFacts(query.name, gallery.name, short(sides.model), wanted.same_camera, wanted.rerank)
        write_lists(wanted.page, lists, facts, blur=wanted.blur)
    if wanted.out is None and wanted.page is None:
        return table_text(lists)
    written = [f"{path}" for path in (wanted.out, wanted.page) if path is not None]
    return "\n".join([lists.summary(), *(f"written: {path}" for path in written)])


@dataclass(frozen=True, eq=False)
class Part:
    """The lists of consecutive queries; see `AnswerLists`."""

    rows: Ints
    scores: NDArray[np.float32]
    right: NDArray[np.int8]
    average_precision: NDArray[np.float64]


def ranked(sides: Sides, wanted: Wanted) -> Iterator[Part]:
    """Yield the lists, block by block of queries; equal ones come in the gallery's order.

    Raises:
        InputError: `rerank` of images that are queries and gallery both.
    """
    query, gallery = sides.query, sides.gallery
    if sides.same and wanted.rerank:
        raise InputError(
            "--rerank: the queries are the gallery, and each would be its own neighbour twice; give a file "
            "with splits query and gallery, or queries of their own"
        )
    rules = _rules(sides, drop=wanted.same_camera == "drop")
    block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // len(gallery)))
    blocks: Iterable[NDArray[np.float32]] = (
        rerank(query.features, gallery.features, block_rows=block_rows)
        if wanted.rerank
        else distance_blocks(query.features, gallery.features, block_rows=block_rows)
    )
    first = 0
    for distances in blocks:
        yield _part(distances, first, sides, rules, wanted)
        first += len(distances)


def put_together(listed: tuple[Any, Any], parts: Iterable[Part]) -> AnswerLists:
    """Return the lists of all queries."""
    found = list(parts)  # each of them small: the places of its lists
    return AnswerLists(
        query=listed[0],
        gallery=listed[1],
        rows=np.concatenate([part.rows for part in found]),
        scores=np.concatenate([part.scores for part in found]),
        right=np.concatenate([part.right for part in found]),
        average_precision=np.concatenate([part.average_precision for part in found]),
    )


def _part(distances: NDArray[np.float32], first: int, sides: Sides, rules: Rules, wanted: Wanted) -> Part:
    query, gallery = sides.query, sides.gallery
    places = min(wanted.top, len(gallery))
    rows = np.full((len(distances), places), -1, np.int64)
    for place, of_query in enumerate(distances):
        counted = rules.counted(first + place)
        if sides.same:
            counted[first + place] = False
        found = first_places(of_query, np.flatnonzero(counted), places)
        rows[place, : len(found)] = found
    own = slice(first, first + len(distances))
    if wanted.rerank:
        scores = _similarity(query.features[own], gallery.features, rows)
    else:
        scores = -np.take_along_axis(distances, rows, axis=1)
    return Part(
        rows,
        np.where(rows >= 0, scores, np.nan).astype(np.float32),
        _right(query.identities[own], gallery.identities, rows),
        hit_scores(*hit_positions(distances, first, rules), "noninterp")[:, 1],
    )


def _similarity(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], rows: Ints
) -> NDArray[np.float32]:
    """Return the cosine similarity of each query to its rows."""
    return np.stack([gallery[of] @ query for query, of in zip(queries, rows, strict=True)])


def _right(queries: Ints, gallery: Ints, rows: Ints) -> NDArray[np.int8]:
    """Return 1 where the identity is the query's, 0 where it is another, -1 where one is not known."""
    mine, theirs = queries[:, None], gallery[rows]
    known = (rows >= 0) & ~np.isin(mine, (UNKNOWN, _JUNK)) & ~np.isin(theirs, (UNKNOWN, _JUNK))
    return np.where(known, mine == theirs, -1).astype(np.int8)


def _rules(sides: Sides, *, drop: bool) -> Rules:
    """Return what counts: unknown is nobody, and a camera that is not known is no other's.

    An image that is query and gallery both is at one camera with itself alone, so that it is left out.
    """
    query, gallery = sides.query, sides.gallery
    identities = np.where(gallery.identities == UNKNOWN, _NOBODY, gallery.identities)
    if not drop:
        identities = np.where(identities == _JUNK, _NOBODY, identities)
    cameras = _cameras(query, gallery) if drop else (_unknown(query), _unknown(gallery))
    of_images = 0, (0 if sides.same else 1)  # even on one side, odd on the other
    ours, theirs = (
        np.where(of == UNKNOWN, _LONE + 2 * np.arange(len(of)) + odd, of)
        for of, odd in zip(cameras, of_images, strict=True)
    )
    mine = np.where(query.identities == UNKNOWN, _JUNK, query.identities)
    return Rules.of(mine, ours, identities, theirs)


def _unknown(side: Side) -> Ints:
    return np.full(len(side), UNKNOWN)


def _cameras(query: Side, gallery: Side) -> tuple[Ints, Ints]:
    """Return the cameras of both, by one numbering: two sets may name theirs in another order."""
    if not (query.camera_names and gallery.camera_names) or query.camera_names == gallery.camera_names:
        return query.cameras, gallery.cameras
    names = {name: number for number, name in enumerate(gallery.camera_names)}
    fresh = len(names) + int(gallery.cameras.max(initial=0)) + 1
    numbers = [names.get(name, fresh + number) for number, name in enumerate(query.camera_names)]
    known = (query.cameras >= 0) & (query.cameras < len(numbers))
    mapped = np.where(known, np.array(numbers)[np.where(known, query.cameras, 0)], query.cameras)
    return np.where(known | (query.cameras == UNKNOWN), mapped, fresh + len(numbers)), gallery.cameras
