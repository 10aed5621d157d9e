"""Ranked lists as pictures: what the model finds for the best, the median and the worst queries."""

from collections.abc import Iterable, Sequence

from raid.data.samples import Samples, camera_name
from raid.evaluate import Record, RetrievalSet
from raid.report.charts import percent
from raid.report.markup import Html, element
from raid.report.pictures import picture, strip

_TITLES = {"best": "Best queries", "median": "Median queries", "worst": "Worst queries"}
Choice = tuple[str, str]  # value and words of an option


def ranked_lists(record: Record, retrieval: RetrievalSet | None) -> Html:
    """Return the lists of a record (`raid.evaluate.final_record`), with pictures where they are at hand."""
    kinds = record["shown_kind"].tolist()
    parts = [_controls(record, retrieval)] if retrieval is not None else []
    for kind, title in _TITLES.items():
        lists = [_list(record, row, retrieval) for row, of in enumerate(kinds) if of == kind]
        if lists:
            parts.append(element("div", element("h3", title), *lists))
    return element("div", *parts)


def article(title: str, items: Sequence[Html], **known: str | float | None) -> Html:
    """Return a ranked list that the page's script can go to, filter and sort.

    Args:
        title: what the list is of.
        items: the query, then what was found.
        known: `order` of the lists; `camera` of the query; `first`, right or wrong; `ap`, `top` to sort by;
            `text` to be searched.
    """
    given = {f"data_{name}": value for name, value in known.items()}
    return element("article", strip(title, items), class_="list", **given)


def controls(
    *,
    query_cameras: Iterable[str],
    gallery_cameras: Iterable[str],
    judged: bool,
    text: bool = False,
    sorts: Sequence[Choice] = (),
) -> Html:
    """Return what lists are filtered and sorted by; nothing is shown of it where no script runs.

    Args:
        query_cameras: names of the queries' cameras; fewer than two are no choice.
        gallery_cameras: likewise.
        judged: whether it is known what is right.
        text: offer a search of paths and identities.
        sorts: ways to sort: "NAME SIGN" of the lists' data, and words.
    """
    parts = []
    if text:
        search = element("input", type="search", name="text", placeholder="path or identity")
        parts.append(element("label", element("span", "Filter ( / )"), search))
    for name, what, cameras in (
        ("query", "Query camera", query_cameras),
        ("gallery", "Gallery camera", gallery_cameras),
    ):
        choices = [(camera, camera) for camera in cameras]
        if len(choices) > 1:
            parts.append(_select(name, what, [("", "all"), *choices]))
    if sorts:
        parts.append(_select("sort", "Order", sorts))
    if judged:
        box = element("input", type="checkbox", name="wrong")
        parts.append(element("label", box, "first is wrong", class_="check"))
    if not parts:
        return Html()
    shown = element("output", aria_live="polite")
    return element("div", *parts, shown, class_="controls", role="search", aria_label="Lists")


def _select(name: str, what: str, choices: Sequence[Choice]) -> Html:
    options = [element("option", words, value=value) for value, words in choices]
    return element("label", element("span", what), element("select", *options, name=name))


def _controls(record: Record, retrieval: RetrievalSet) -> Html:
    """Return the choice among the cameras of the shown lists."""
    found = record["list_rows"][record["list_rows"] >= 0]
    return controls(
        query_cameras=_cameras(retrieval.query, record["shown_rows"].tolist()),
        gallery_cameras=_cameras(retrieval.gallery, found.tolist()),
        judged=True,
    )


def _cameras(samples: Samples, rows: Sequence[int]) -> list[str]:
    """Return the names of the cameras of some images, in the set's order."""
    numbers = {samples.table["camera"][row].as_py() for row in set(rows)} - {None}
    return [camera_name(samples.camera_names, number) for number in sorted(numbers)]


def _list(record: Record, row: int, retrieval: RetrievalSet | None) -> Html:
    """Return one query and what was found for it."""
    query = int(record["shown_rows"][row])
    title = f"average precision {percent(float(record['average_precision'][query]))}"
    items = [_query(query, retrieval)]
    found = zip(
        record["list_rows"][row], record["list_similarity"][row], record["list_right"][row], strict=True
    )
    items += [
        _found(place, int(gallery), float(similarity), bool(right), retrieval)
        for place, (gallery, similarity, right) in enumerate(found, start=1)
        if gallery >= 0
    ]
    camera = None if retrieval is None else _camera(retrieval.query, query)
    at = "" if camera is None else f", camera {camera}"
    first = "right" if record["list_right"][row][0] else "wrong"
    return article(f"Query {query + 1}{at}, {title}", items, order=row, camera=camera, first=first)


def _query(row: int, retrieval: RetrievalSet | None) -> Html:
    side = None if retrieval is None else (retrieval.query, retrieval.query_images)
    shown = picture(row, "query", side)
    return element("li", element("small", "query"), shown, class_="query")


def _found(place: int, row: int, similarity: float, right: bool, retrieval: RetrievalSet | None) -> Html:
    verdict = "right" if right else "wrong"
    side = None if retrieval is None else (retrieval.gallery, retrieval.gallery_images)
    shown = picture(row, f"place {place}, {verdict}", side)
    sign = "✓" if right else "✗"
    score = element("b", f"{sign} {similarity:.2f}")
    camera = None if retrieval is None else _camera(retrieval.gallery, row)
    at = [] if camera is None else [element("span", f"cam. {camera}", class_="camera")]
    return element("li", element("small", str(place)), shown, score, *at, class_=verdict, data_camera=camera)


def _camera(samples: Samples, row: int) -> str | None:
    """Return what the set calls the camera of an image; None where it is not known."""
    camera = samples.table["camera"][row].as_py()
    return None if camera is None else camera_name(samples.camera_names, camera)
