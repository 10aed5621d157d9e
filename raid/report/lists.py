"""Ranked lists as pictures: what the model finds for the best, the median and the worst queries."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from raid.data.images import Images
from raid.data.samples import Samples
from raid.errors import InputError
from raid.evaluate import Record, RetrievalSet
from raid.report.charts import percent
from raid.report.markup import Html, element

_MOST_PIXELS = 160  # height of a picture in the page
_TITLES = {"best": "Best queries", "median": "Median queries", "worst": "Worst queries"}


def ranked_lists(record: Record, retrieval: RetrievalSet | None) -> Html:
    """Return the lists of a record (`raid.evaluate.final_record`), with pictures where they are at hand."""
    kinds = record["shown_kind"].tolist()
    parts = []
    for kind, title in _TITLES.items():
        lists = [_list(record, row, retrieval) for row, of in enumerate(kinds) if of == kind]
        if lists:
            parts.append(element("div", element("h3", title), *lists))
    return element("div", *parts)


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
    strip = element("ol", *items, class_="strip")
    named = f"query {query + 1}, {title}"
    scroll = element("div", strip, class_="scroll", tabindex=0, role="group", aria_label=named)
    return element("div", element("p", f"Query {query + 1}, {title}", class_="muted"), scroll, class_="box")


def _query(row: int, retrieval: RetrievalSet | None) -> Html:
    side = None if retrieval is None else (retrieval.query, retrieval.query_images)
    picture = _picture(row, "query", side)
    return element("li", element("small", "query"), picture, class_="query")


def _found(place: int, row: int, similarity: float, right: bool, retrieval: RetrievalSet | None) -> Html:
    verdict = "right" if right else "wrong"
    side = None if retrieval is None else (retrieval.gallery, retrieval.gallery_images)
    picture = _picture(row, f"place {place}, {verdict}", side)
    sign = "✓" if right else "✗"
    shown = element("b", f"{sign} {similarity:.2f}")
    return element("li", element("small", str(place)), picture, shown, class_=verdict)


def _picture(row: int, what: str, of: tuple[Samples, Images] | None) -> Html:
    """Return a picture with words for who cannot see it; its number where the images are not at hand."""
    if of is None:
        return element("span", f"image {row + 1}", class_="gone", title=what)
    samples, images = of
    words = f"{what}: {samples.paths[row]}"
    try:
        source = _data_uri(images, row)
    except InputError:  # the file has gone since the training: no reason to be without a report
        return _picture(row, what, None)
    ratio = f"{images.width}/{images.height}"
    return element("img", src=source, alt=words, title=words, style=f"aspect-ratio:{ratio}")


def _data_uri(images: Images, row: int) -> str:
    pixels = images.gather(np.array([row]))[0].numpy().transpose(1, 2, 0)
    picture = Image.fromarray(pixels)
    if picture.height > _MOST_PIXELS:
        width = max(1, round(picture.width * _MOST_PIXELS / picture.height))
        picture = picture.resize((width, _MOST_PIXELS), Image.Resampling.LANCZOS)
    file = BytesIO()
    picture.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
