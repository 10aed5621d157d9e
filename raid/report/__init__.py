"""The run as one page: a file that needs no network, no script and no other file to be read."""

from collections.abc import Callable, Iterator
from pathlib import Path

from raid.errors import InputError
from raid.evaluate import RetrievalSet
from raid.files import atomic_path
from raid.report import outcome, records, training
from raid.report.charts import percent
from raid.report.markup import Html, element, join
from raid.report.panels import seconds_text
from raid.report.run import Epoch, Run
from raid.report.style import style
from raid.run_folder import RunFolder

# Whatever a browser makes of the page, it loads nothing but what the page holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_FIGURES = {"mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mINP": "mINP"}
_SECTIONS: tuple[tuple[str, str, Callable[[Run], Iterator[Html]]], ...] = (
    ("alarms", "Alarms", training.alarms),
    ("labels", "Labels", training.labels),
    ("clusters", "Clusters", training.clusters),
    ("fit", "Loss and retrieval", training.fit),
    ("cameras", "Cameras", outcome.cameras),
    ("lists", "Ranked lists", outcome.lists),
    ("times", "Time", records.times),
    ("figures", "All figures", records.figures),
    ("configuration", "Configuration", records.configuration),
)


def write_report(folder: RunFolder, retrieval: RetrievalSet | None) -> Path:
    """Write `report.html` of what a run has recorded up to here, and return its path.

    The same files give the same page, byte for byte.

    Args:
        folder: of a run, finished or not, with at least one epoch.
        retrieval: the query and gallery that it was evaluated on, for the pictures; None: without.

    Raises:
        InputError: the folder holds no run or no epoch, a record in it is damaged, or the page cannot be
            written.
    """
    page = _page(Run.read(folder, retrieval))
    try:
        with atomic_path(folder.report) as temporary:
            temporary.write_bytes(page.encode(errors="replace"))  # a path may hold what is no text
    except OSError as error:
        raise InputError(f"{folder.report}: cannot be written: {error.strerror or error}") from error
    return folder.report


def _page(run: Run) -> str:
    title = f"{'ICSR' if run.refined else 'Baseline'}: {run.name}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        element("title", title),
        element("style", Html(style())),
    )
    main = [
        element("section", element("h2", name), *content(run), id=anchor)
        for anchor, name, content in _SECTIONS
    ]
    body = element("body", _header(run, title), _contents(), element("main", *main), _footer())
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _header(run: Run, title: str) -> Html:
    planned = run.config.get("inter.epochs")
    spent = sum(seconds for points in run.times.values() for _, seconds in points)
    facts = {
        "seed": run.config.get("seed"),
        "preset": run.config.get("preset"),
        "data": run.config.get("data.root"),
        "set": ", ".join(_set(run)) or None,
        "network": run.config.get("model.backbone"),
        "epochs": f"{len(run.epochs)} of {planned}" if not run.finished else str(len(run.epochs)),
        "time": seconds_text(spent) if spent else None,
        "last epoch recorded": run.written.strftime("%Y-%m-%d %H:%M UTC"),
    }
    shown = [
        element("li", f"{name} ", element("b", str(value)))
        for name, value in facts.items()
        if value is not None
    ]
    return element(
        "header", element("h1", title), element("ul", *shown, class_="facts"), _unfinished(run), _result(run)
    )


def _set(run: Run) -> Iterator[str]:
    """Yield which set it is: its name, and its version, boxes, split or protocol where they are known."""
    for name, value in run.set.items():
        if (name, value) != ("protocol", "standard"):
            yield value if name == "set" else f"{name.replace('_', ' ')} {value}"


def _unfinished(run: Run) -> Html:
    if run.finished:
        return Html()
    return element(
        "p", element("b", "Unfinished: "), "the run has not ended; these are no results.", class_="alarm"
    )


def _result(run: Run) -> Html:
    """Return the figures of the last evaluated epoch, and the best one's with its warning."""
    evaluated = [epoch for epoch in run.epochs if "eval/mAP" in epoch]
    if not evaluated:
        return element("p", "No epoch has been evaluated" + ("." if run.finished else " yet."))
    last, best = evaluated[-1], max(evaluated, key=lambda epoch: float(epoch["eval/mAP"]))
    cards = [
        element("li", element("b", percent(last[f"eval/{key}"])), element("span", name))
        for key, name in _FIGURES.items()
        if f"eval/{key}" in last
    ]
    of = "The result: the last epoch" if run.finished else "The last evaluated epoch"
    return join(
        [
            element("p", element("b", f"{of}, {last['epoch'] + 1}"), class_="result"),
            element("ul", *cards, class_="cards"),
            element("p", _best(best, last), class_="muted"),
        ]
    )


def _best(best: Epoch, last: Epoch) -> str:
    if best["epoch"] == last["epoch"]:
        return "No epoch before it has a higher mAP."
    shown = ", ".join(
        f"{name} {percent(best[f'eval/{key}'])}" for key, name in _FIGURES.items() if f"eval/{key}" in best
    )
    return f"Best epoch {best['epoch'] + 1}: {shown}. Known by looking at the test set: not the result."


def _contents() -> Html:
    links = [element("a", name, href=f"#{anchor}") for anchor, name, _ in _SECTIONS]
    return element("nav", *links, aria_label="Contents")


def _footer() -> Html:
    return element(
        "footer",
        "Written by raid. This page may hold pictures of people: it is kept and deleted as they are. A rank "
        "is not an identification.",
    )
