"""The page of ranked lists: for each query what was found, with scores and what is right."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raid.data.image_files import Root
from raid.errors import InputError
from raid.report.charts import percent
from raid.report.controls import article, controls
from raid.report.document import document, write_page
from raid.report.markup import Html, element, join
from raid.report.panels import note
from raid.report.previews import Previews

logger = logging.getLogger(__name__)

MOST_LISTS = 200
MOST_BYTES = 24 * 2**20  # of a page: what a phone still opens
_VERDICTS = {1: ("right", "✓ "), 0: ("wrong", "✗ "), -1: (None, "")}
_SORTS = {
    "order 1": "of the queries",
    "ap 1": "average precision, worst first",
    "ap -1": "average precision, best first",
    "top 1": "top score, lowest first",
    "top -1": "top score, highest first",
}
_FOOTER = (
    "Written by raid. This page may hold pictures of people: it is kept and deleted as they are. A rank "
    "is not an identification."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed:
    """What is told of N images.

    Attributes:
        root: folder that the paths are relative to, or the pack of the images.
        paths: of the images.
        identities: None = not known, -1 = junk.
        cameras: by name; None = not known.
    """

    root: Root
    paths: Sequence[str]
    identities: Sequence[int | None]
    cameras: Sequence[str | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerLists:
    """Ranked lists of Q queries, P places each.

    Attributes:
        query: the queries.
        gallery: G images.
        rows: (Q, P) rows of the gallery, best first; -1 where there are no more.
        scores: (Q, P) cosine similarity; NaN where there are no more.
        right: (Q, P) 1 = the query's identity, 0 = another, -1 = not known.
        average_precision: (Q,) over the whole gallery; NaN for a query without a match.
    """

    query: Listed
    gallery: Listed
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    right: NDArray[np.int8]
    average_precision: NDArray[np.float64]

    def summary(self) -> str:
        """Return what was ranked, and how well where that is known, as one line."""
        said = f"{len(self.rows):,} queries, {len(self.gallery.paths):,} gallery images"
        figures = "".join(f", {name} {shown}" for name, shown in self.figures().items())
        return said + figures

    def figures(self) -> dict[str, str]:
        """Return mAP and rank-1 over the queries with a match; nothing where there is none."""
        valid = np.isfinite(self.average_precision)
        if not valid.any():
            return {}
        found = {"mAP": self.average_precision[valid].mean(), "rank-1": (self.right[valid, 0] == 1).mean()}
        shown = {name: percent(float(value)) for name, value in found.items()}
        return {**shown, "queries with a match": f"{valid.sum():,}"}


@dataclass(frozen=True)
class PageFacts:
    """What the head of the page says of the lists."""

    query: str
    gallery: str
    model: str
    same_camera: str
    reranked: bool


def write_lists(path: Path, lists: AnswerLists, facts: PageFacts, *, blur: bool = False) -> Path:
    """Write the page and return its path; of many lists a choice, which it says.

    Args:
        path: of the page.
        lists: of all queries.
        facts: of them.
        blur: blur the pictures.

    Raises:
        InputError: it cannot be written.
    """
    previews = Previews(blur)
    shown = chosen(lists, MOST_LISTS)
    articles = _fitting(lists, shown, previews)
    if previews.gone:
        one = min(previews.gone)
        logger.warning("%d pictures cannot be shown, such as %s: moved?", len(previews.gone), one)
    content = [*_said(lists, len(articles), facts), _controls(lists, shown, articles), *articles]
    sections = [("lists", "Ranked lists", content)]
    title = f"Ranked lists: {facts.query}"
    return write_page(
        path, document(title, _header(title, lists, facts), sections, _FOOTER, class_="answers")
    )


def chosen(lists: AnswerLists, most: int) -> NDArray[np.int64]:
    """Return the queries that are shown, rising: all, or `most` evenly from the worst to the best.

    By average precision; queries without one come after them, by their top score.
    """
    count = len(lists.rows)
    if count <= most:
        return np.arange(count)
    order = np.lexsort((np.nan_to_num(lists.scores[:, 0], nan=-2.0), lists.average_precision))  # NaN last
    return np.sort(order[np.linspace(0, count - 1, most).round().astype(np.int64)])


def _fitting(lists: AnswerLists, shown: NDArray[np.int64], previews: Previews) -> list[Html]:
    """Return the lists, fewer where all would make too large a page."""
    while True:
        articles, size = [], 0
        for query in shown.tolist():
            articles.append(_article(lists, query, previews))
            size += len(articles[-1])
            if size > MOST_BYTES and len(articles) > 1:
                break
        else:
            return articles
        fewer = max(1, int(len(articles) * 0.9))
        if fewer >= len(shown):
            raise InputError(f"a list of {lists.rows.shape[1]} places makes too large a page; lower --top")
        shown = shown[np.linspace(0, len(shown) - 1, fewer).round().astype(np.int64)]


def _header(title: str, lists: AnswerLists, facts: PageFacts) -> Html:
    rule = "left out (as in an evaluation)" if facts.same_camera == "drop" else "kept"
    told = {
        "gallery": facts.gallery,
        "queries": f"{len(lists.rows):,}",
        "gallery images": f"{len(lists.gallery.paths):,}",
        "same person, same camera": rule,
        "order": "k-reciprocal re-ranking" if facts.reranked else "cosine similarity",
        "model": facts.model,
    }
    items = [element("li", f"{name} ", element("b", value)) for name, value in told.items()]
    cards = [
        element("li", element("b", value), element("span", name)) for name, value in lists.figures().items()
    ]
    shown = [element("ul", *cards, class_="cards")] if cards else []
    return element("header", element("h1", title), element("ul", *items, class_="facts"), *shown)


def _said(lists: AnswerLists, num_shown: int, facts: PageFacts) -> Iterator[Html]:
    judged = bool((lists.right >= 0).any())
    words = "The gallery by falling similarity; the figure is its cosine."
    if facts.reranked:
        words = "The gallery re-ranked by k-reciprocal neighbours; the figure is the cosine similarity."
    if judged:
        words += " ✓ and a solid frame: the query's identity; ✗ and a dashed frame: another."
    yield note(words)
    if num_shown < len(lists.rows):
        by = "average precision" if np.isfinite(lists.average_precision).any() else "top score"
        yield element(
            "p",
            element("b", f"{num_shown} of {len(lists.rows):,} lists"),
            f" are shown, chosen evenly from the worst {by} to the best. The table (--out) has all.",
        )


def _controls(lists: AnswerLists, shown: NDArray[np.int64], articles: Sequence[Html]) -> Html:
    if len(articles) < 2 and len(lists.rows) < 2:
        return Html()
    found = lists.rows[shown]
    judged = bool((lists.right[shown] >= 0).any())
    precise = bool(np.isfinite(lists.average_precision[shown]).any())
    query = _sorted(lists.query.cameras[query] for query in shown.tolist())
    gallery = _sorted(lists.gallery.cameras[row] for row in found[found >= 0].tolist())
    return controls(
        [("query", "Query camera", query), ("gallery", "Gallery camera", gallery)],
        judged=judged,
        text=True,
        sorts=[(value, words) for value, words in _SORTS.items() if precise or not value.startswith("ap")],
    )


def _sorted(cameras: Iterable[str | None]) -> list[str]:
    """Return the names, those that are numbers by their value."""
    known = {camera for camera in cameras if camera is not None}
    return sorted(known, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))


def _article(lists: AnswerLists, query: int, previews: Previews) -> Html:
    precision, path = float(lists.average_precision[query]), lists.query.paths[query]
    identity, camera = lists.query.identities[query], lists.query.cameras[query]
    told = [f"Query {query + 1}", path]
    told += [] if identity is None else [f"identity {identity}"]
    told += [] if camera is None else [f"camera {camera}"]
    told += [f"average precision {percent(precision)}"] if np.isfinite(precision) else []
    rows, right = lists.rows[query], lists.right[query]
    items = [_item(lists.query, query, "query", "query", None, previews)]
    items += [_found(lists, query, place, previews) for place in range(len(rows)) if rows[place] >= 0]
    top = float(lists.scores[query, 0])
    return article(
        " · ".join(told),
        items,
        order=query,
        camera=camera,
        first=_VERDICTS[int(right[0])][0] if rows[0] >= 0 else None,
        ap=f"{precision:.6f}" if np.isfinite(precision) else None,
        top=f"{top:.6f}" if np.isfinite(top) else None,
        text=_text(lists.query, query),
    )


def _found(lists: AnswerLists, query: int, place: int, previews: Previews) -> Html:
    verdict, sign = _VERDICTS[int(lists.right[query, place])]
    score = f"{sign}{lists.scores[query, place]:.3f}"
    what = ", ".join(filter(None, (f"place {place + 1}", verdict)))
    row = int(lists.rows[query, place])
    return _item(lists.gallery, row, str(place + 1), what, score, previews, verdict=verdict)


def _item(
    of: Listed,
    row: int,
    label: str,
    what: str,
    score: str | None,
    previews: Previews,
    *,
    verdict: str | None = None,
) -> Html:
    """Return a picture with what is known of it."""
    path, camera = of.paths[row], of.cameras[row]
    words = f"{what}: {path}"
    found = previews.of(of.root, path)
    if found is None:
        shown = element("span", "no picture", class_="gone", title=words)
    else:
        source, ratio = found
        shown = element("img", src=source, alt=words, title=words, style=f"aspect-ratio:{ratio}")
    told = [] if score is None else [element("b", score)]
    told += [] if camera is None else [element("span", f"cam. {camera}", class_="camera")]
    return element(
        "li",
        element("small", label),
        shown,
        join(told),
        class_="query" if score is None else verdict,
        data_camera=camera,
        data_text=_text(of, row),
    )


def _text(of: Listed, row: int) -> str:
    """Return what a search looks in."""
    identity = of.identities[row]
    return of.paths[row] if identity is None else f"{of.paths[row]} identity {identity}"
