"""Lists that the page's script goes to, filters and sorts, and what they are filtered by."""

from collections.abc import Iterable, Sequence

from raid.data.samples import Samples, camera_name
from raid.report.markup import Html, element
from raid.report.pictures import strip

Choice = tuple[str, str]  # value and words of an option


def article(title: str, items: Sequence[Html], **known: str | float | None) -> Html:
    """Return a ranked list.

    Args:
        title: what the list is of.
        items: the query, then what was found.
        known: `order` of the lists; `camera` of the query; `first`, right or wrong; `ap`, `top` to sort by;
            `text` to be searched.
    """
    given = {f"data_{name}": value for name, value in known.items()}
    return element("article", strip(title, items), class_="list", **given)


def controls(
    cameras: Iterable[tuple[str, str, Sequence[str]]],
    *,
    judged: bool = False,
    text: bool = False,
    sorts: Sequence[Choice] = (),
    what: str = "lists",
) -> Html:
    """Return what lists and pairs are filtered and sorted by; without a script nothing is shown of it.

    Args:
        cameras: of whom (query, gallery, or pair), in words, and by name; fewer than two are no choice.
        judged: whether it is known what is right.
        text: offer a search of paths and identities.
        sorts: ways to sort: "NAME SIGN" of the lists' data, and words.
        what: is counted.
    """
    parts = []
    if text:
        search = element("input", type="search", name="text", placeholder="path or identity")
        parts.append(element("label", element("span", "Filter ( / )"), search))
    for name, words, names in cameras:
        if len(names) > 1:
            choices = [("", "all"), *((camera, camera) for camera in names)]
            parts.append(_select(name, words, choices))
    if sorts:
        parts.append(_select("sort", "Order", sorts))
    if judged:
        box = element("input", type="checkbox", name="wrong")
        parts.append(element("label", box, "first is wrong", class_="check"))
    if not parts:
        return Html()
    shown = element("output", aria_live="polite")
    return element("div", *parts, shown, class_="controls", role="search", aria_label=what, data_what=what)


def camera_of(samples: Samples, row: int) -> str | None:
    """Return what the set calls the camera of an image; None where it is not known."""
    camera = samples.table["camera"][row].as_py()
    return None if camera is None else camera_name(samples.camera_names, camera)


def cameras_of(samples: Samples, rows: Iterable[int]) -> list[str]:
    """Return the names of the cameras of some images, in the set's order."""
    numbers = {samples.table["camera"][row].as_py() for row in set(rows)} - {None}
    return [camera_name(samples.camera_names, number) for number in sorted(numbers)]


def _select(name: str, what: str, choices: Sequence[Choice]) -> Html:
    options = [element("option", words, value=value) for value, words in choices]
    return element("label", element("span", what), element("select", *options, name=name))
