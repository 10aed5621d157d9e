"""Ranked lists as pictures: what the model finds for the best, the median and the worst queries."""

from raid.evaluate import Record, RetrievalSet
from raid.report.charts import percent
from raid.report.controls import article, camera_of, cameras_of, controls
from raid.report.markup import Html, element
from raid.report.pictures import picture

_TITLES = {"best": "Best queries", "median": "Median queries", "worst": "Worst queries"}


def ranked_lists(record: Record, retrieval: RetrievalSet | None) -> Html:
    """Return the lists of a record (`raid.evaluate.final_record`), with pictures where they are at hand."""
    kinds = record["shown_kind"].tolist()
    parts = [_controls(record, retrieval)] if retrieval is not None else []
    for kind, title in _TITLES.items():
        lists = [_list(record, row, retrieval) for row, of in enumerate(kinds) if of == kind]
        if lists:
            parts.append(element("div", element("h3", title), *lists))
    return element("div", *parts)


def _controls(record: Record, retrieval: RetrievalSet) -> Html:
    """Return the choice among the cameras of the shown lists."""
    found = record["list_rows"][record["list_rows"] >= 0]
    query = cameras_of(retrieval.query, record["shown_rows"].tolist())
    gallery = cameras_of(retrieval.gallery, found.tolist())
    return controls([("query", "Query camera", query), ("gallery", "Gallery camera", gallery)], judged=True)


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
    camera = None if retrieval is None else camera_of(retrieval.query, query)
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
    camera = None if retrieval is None else camera_of(retrieval.gallery, row)
    at = [] if camera is None else [element("span", f"cam. {camera}", class_="camera")]
    return element("li", element("small", str(place)), shown, score, *at, class_=verdict, data_camera=camera)
