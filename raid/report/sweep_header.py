"""What a reader of a sweep should know first: what was compared, by what, and which point is the best."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from raid.report.markup import Html, element, join
from raid.report.panels import note, seconds_text
from raid.report.sweep_reading import Sweep, counted
from raid.report.sweep_values import Shown, text_of
from raid.sweep_points import Point, badness, deviation, mean_of

_DIRECTIONS = {"max": "higher is better", "min": "lower is better"}
_ON_TEST_SET = (
    "the best point is the one that did best on the queries of the test set. Its figure is optimistic, and "
    "it is not a result: a result is what the chosen point comes to on queries that chose nothing."
)


def title(sweep: Sweep) -> str:
    """Return what was swept."""
    return f"Sweep of {sweep.record.method}: {sweep.record.name}"


def header(sweep: Sweep) -> Html:
    """Return the heading, the facts, and what makes the figures less than they seem."""
    shown = [
        element("li", f"{name} ", element("b", str(value)))
        for name, value in _facts(sweep).items()
        if value is not None
    ]
    objective = sweep.record.objective
    said = element(
        "p",
        "Objective: ",
        element("b", objective.name),
        f" ({objective.key}), {_DIRECTIONS[objective.mode]}. {_sentence(objective.meaning)}",
    )
    return element(
        "header",
        element("h1", title(sweep)),
        element("ul", *shown, class_="facts"),
        said,
        _alarm("Selected on the test set: ", _ON_TEST_SET) if objective.on_test_set else "",
        _unfinished(sweep),
    )


def best(sweep: Sweep) -> Iterator[Html]:
    """Yield the best point with its figure, and how to run it."""
    seeds = sweep.record.seeds
    if sweep.best is None:
        yield element("p", f"There is none yet: no point is done{_all_seeds(len(seeds))}, and has a value.")
        return
    counted_points = sum(point.complete(seeds) for point in sweep.points)
    yield _cards(sweep, sweep.best)
    yield note(
        f"The best mean of {sweep.record.objective.name} among the {_points(counted_points)} done"
        f"{_all_seeds(len(seeds))}, of {len(sweep.points)} begun. {_as_good(sweep, sweep.best)}"
    )
    yield _command(sweep)


def _facts(sweep: Sweep) -> dict[str, Any]:
    record = sweep.record
    ended = [trial.ended_s for trial in sweep.trials if trial.ended_s is not None]
    started = min(trial.started_s for trial in sweep.trials)
    many = len(record.seeds) > 1
    return {
        "trials": f"{len(sweep.trials)}{_of(record.num_trials)}: {counted(sweep.trials)}",
        "points": len(sweep.points),
        "axes": len(record.axes),
        "seeds" if many else "seed": ", ".join(map(str, record.seeds)),
        "search": record.search if record.search == "grid" else f"{record.search}, seed {record.seed}",
        "scheduler": None if record.scheduler == "none" else record.scheduler,
        "begun": _moment(started),
        "last trial ended": _moment(max(ended)) if ended else None,
        "took": seconds_text(max(ended) - started) if ended else None,
    }


def _of(planned: int | None) -> str:
    return "" if planned is None else f" of {planned}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sentence(meaning: str) -> str:
    return f"{meaning[:1].upper()}{meaning[1:].rstrip('.')}." if meaning else ""


def _alarm(name: str, told: str) -> Html:
    return element("p", element("b", name), told, class_="alarm")


def _unfinished(sweep: Sweep) -> Html:
    """Return a warning where trials are still to come, or did not come to an end."""
    going = sum(trial.state == "running" for trial in sweep.trials)
    planned = sweep.record.num_trials or 0
    missing = planned - len(sweep.trials)
    parts = [f"{missing} of {planned} trials have not begun"] if missing > 0 else []
    parts += [f"{going} {'has' if going == 1 else 'have'} begun and not ended"] if going else []
    return _alarm("Unfinished: ", f"{', and '.join(parts)}.") if parts else Html()


def _all_seeds(count: int) -> str:
    return "" if count == 1 else f" with each of the {count} seeds"


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _cards(sweep: Sweep, point: Point) -> Html:
    """Return the figure, and the values of the axes that vary; of all where none does."""
    objective = sweep.record.objective
    shown, figures = Shown.of(objective.key), list(point.figures.values())
    told = objective.name + (f", {len(figures)} seeds" if len(figures) > 1 else "")
    cards = [element("li", element("b", shown.whole(figures)), element("span", told))]
    for axis in sweep.varying or sweep.record.axes:
        value = element("b", text_of(axis, point.values), class_="value")
        cards.append(element("li", value, element("span", sweep.names[axis.path]), title=axis.path))
    return element("ul", *cards, class_="cards best")


def _as_good(sweep: Sweep, best: Point) -> str:
    """Return how sure it is that this point is the best."""
    others = [point for point in sweep.points if point is not best and point.complete(sweep.record.seeds)]
    if not others:
        return ""
    objective, around = sweep.record.objective, deviation(list(best.figures.values()))
    reach = badness(objective, mean_of(best)) + (around or 0.0)
    as_good = sum(badness(objective, mean_of(point)) <= reach for point in others)
    are = "other point is" if as_good == 1 else "other points are"
    if around is None:
        equal = f"{as_good} {are} equal to it. " if as_good else ""
        return (
            f"{equal}One seed: how much of a lead is chance is not known; try the best few with more seeds."
        )
    if not as_good:
        return "No other point is within one deviation of it."
    return f"{as_good} {are} as good within one deviation: seeds may choose between them."


def _command(sweep: Sweep) -> Html:
    path = sweep.folder.best
    if not path.exists():
        return note(f"{path.name}, the point as a run file, has not been written yet.")
    command = shlex.join(["raid", sweep.record.method, str(path.absolute())])
    return join(
        [
            element("p", "As a run file: ", element("a", path.name, href=path.name), ". To train with it:"),
            element("pre", command, class_="box"),
            element(
                "details", element("summary", path.name), element("pre", path.read_text(errors="replace"))
            ),
        ]
    )
