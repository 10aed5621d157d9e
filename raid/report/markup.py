"""HTML and SVG elements as values: what is not markup is escaped, whoever wrote it."""

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"img", "input", "link", "meta", "wbr"})  # of those that the report uses


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | None) -> Html:
    """Return an element with its children in order; text among them is escaped.

    Args:
        tag: name of the element.
        children: markup (`Html`) or text.
        attributes: by name; `_` stands for `-`, and one at the end is dropped (`class_`). Those of value
            None are left out.
    """
    shown = "".join(
        f' {name.removesuffix("_").replace("_", "-")}="{escape(_text(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    start = f"<{tag}{shown}>"
    return Html(start if tag in _VOID else f"{start}{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """Return the parts one after the other; text among them is escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def _text(value: str | float) -> str:
    """Pixels to a tenth: nobody sees more, and a report has thousands."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
