"""A page: its head, the sections with a way to each, and the file that it becomes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from raid.errors import InputError
from raid.files import atomic_path
from raid.report.markup import Html, element
from raid.report.script import SCRIPT, script_hash
from raid.report.style import style

# Whatever a browser makes of the page, it loads nothing but what the page holds, sends nothing, and runs
# nothing but this one script.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    f"script-src {script_hash()}"
)
Section = tuple[str, str, Iterable[Html]]


def document(
    title: str,
    header: Html,
    sections: Sequence[Section],
    footer: str,
    *,
    rules: str = "",
    class_: str | None = None,
) -> str:
    """Return a page that needs no other file.

    Args:
        title: of the window.
        header: above the contents.
        sections: anchor, name and what is in it.
        footer: one line.
        rules: of style, beside those that all pages share.
        class_: of the body.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        element("title", title),
        element("style", Html(style() + rules)),
    )
    main = [
        element("section", element("h2", name), *content, id=anchor) for anchor, name, content in sections
    ]
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    contents = element("nav", *links, aria_label="Contents")
    script = element("script", Html(SCRIPT))
    parts = (header, contents, element("main", *main), element("footer", footer), script)
    body = element("body", *parts, class_=class_)
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def write_page(path: Path, page: str) -> Path:
    """Write a page, whole or not at all, and return its path.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(page.encode(errors="replace"))  # a path may hold what is no text
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
