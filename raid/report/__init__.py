"""The run as one page: a file that needs no network, no script and no other file to be read."""

from collections.abc import Callable, Iterator
from pathlib import Path

from raid.errors import InputError
from raid.evaluate import RetrievalSet
from raid.files import atomic_path
from raid.report import (
    clusters,
    finetuning,
    generators,
    image_clusters,
    mining,
    outcome,
    pairs,
    records,
    training,
)
from raid.report.header import header, title
from raid.report.markup import Html, element
from raid.report.pictures import TrainingSets
from raid.report.run import Run
from raid.report.style import style
from raid.run_folder import RunFolder

__all__ = ["TrainingSets", "write_report"]

# Whatever a browser makes of the page, it loads nothing but what the page holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_Section = tuple[str, str, Callable[[Run], Iterator[Html]]]
_ALARMS: _Section = ("alarms", "Alarms", training.alarms)
_OUTCOME: tuple[_Section, ...] = (
    ("cameras", "Cameras", outcome.cameras),
    ("lists", "Ranked lists", outcome.lists),
    ("times", "Time", records.times),
    ("figures", "All figures", records.figures),
    ("configuration", "Configuration", records.configuration),
)
_ICSR: tuple[_Section, ...] = (
    _ALARMS,
    ("labels", "Labels", clusters.labels),
    ("clusters", "Clusters", clusters.clusters),
    ("fit", "Loss and retrieval", training.fit),
    *_OUTCOME,
)
_MAR: tuple[_Section, ...] = (
    _ALARMS,
    ("pretraining", "Pretraining", mining.pretraining),
    ("losses", "Losses and retrieval", mining.losses),
    ("mining", "Mining", mining.mining),
    ("agents", "Reference agents", pairs.agents),
    ("pairs", "Mined pairs", pairs.pairs),
    *_OUTCOME,
)
_SLSR: tuple[_Section, ...] = (
    _ALARMS,
    ("baseline", "Baseline", finetuning.baseline),
    ("clusters", "Clusters", image_clusters.clusters),
    ("generators", "Generators", generators.generators),
    ("generated", "Generated images", generators.images),
    ("finetuning", "Fine-tuning", finetuning.finetuning),
    *_OUTCOME,
)
_SECTIONS = {"icsr": _ICSR, "mar": _MAR, "slsr": _SLSR}


def write_report(
    folder: RunFolder, retrieval: RetrievalSet | None, training: TrainingSets | None = None
) -> Path:
    """Write `report.html` of what a run has recorded up to here, and return its path.

    The same files give the same page, byte for byte.

    Args:
        folder: of a run, finished or not, with at least one epoch.
        retrieval: the query and gallery that it was evaluated on, for the pictures; None: without.
        training: the sets that MAR was trained on, for the pictures; None: without.

    Raises:
        InputError: the folder holds no run or no epoch, a record in it is damaged, or the page cannot be
            written.
    """
    page = _page(Run.read(folder, retrieval, training))
    try:
        with atomic_path(folder.report) as temporary:
            temporary.write_bytes(page.encode(errors="replace"))  # a path may hold what is no text
    except OSError as error:
        raise InputError(f"{folder.report}: cannot be written: {error.strerror or error}") from error
    return folder.report


def _page(run: Run) -> str:
    sections = _SECTIONS[run.method]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        element("title", title(run)),
        element("style", Html(style())),
    )
    main = [
        element("section", element("h2", name), *content(run), id=anchor)
        for anchor, name, content in sections
    ]
    body = element("body", header(run), _contents(sections), element("main", *main), _footer())
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _contents(sections: tuple[_Section, ...]) -> Html:
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    return element("nav", *links, aria_label="Contents")


def _footer() -> Html:
    return element(
        "footer",
        "Written by raid. This page may hold pictures of people: it is kept and deleted as they are. A rank "
        "is not an identification.",
    )
