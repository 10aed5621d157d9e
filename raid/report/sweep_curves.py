"""The objective by epoch, a line a trial, coloured by the values of the axis that matters most."""

from collections.abc import Iterator, Mapping

from raid.report.charts import LEFT, RIGHT, TOP, UNDER, Axes, figure, frame, mark, thinned
from raid.report.charts import WIDTH as CHART_WIDTH
from raid.report.charts import Point as Place
from raid.report.markup import Html, element
from raid.report.panels import note
from raid.report.scale import Scale, fitted, linear
from raid.report.sweep_colours import Colours, colours, swatch
from raid.report.sweep_effects import told_of
from raid.report.sweep_importance import SEED, Influence
from raid.report.sweep_reading import Sweep
from raid.report.sweep_rows import WIDTH
from raid.report.sweep_values import Shown
from raid.sweep_folder import Axis, Trial

_HEIGHT = 260
_MAP = "eval/mAP"
_CROSS = "M-3.5 -3.5L3.5 3.5M-3.5 3.5L3.5 -3.5"
Curves = Mapping[int, list[Place]]


def curves(sweep: Sweep, influence: Influence | None) -> Iterator[Html]:
    """Yield the objective by epoch, and mAP where that is another figure."""
    names = {sweep.record.objective.key: sweep.record.objective.name}
    names.setdefault(_MAP, "mAP")
    found = {key: {trial.number: sweep.curve(trial.number, key) for trial in sweep.trials} for key in names}
    shown = [key for key, of in found.items() if any(len(curve) > 1 for curve in of.values())]
    if not shown:
        yield note("There is nothing to draw: no trial has the figure of more than one epoch.")
        return
    axis = _chosen(sweep, influence)
    if axis is not None:
        why = "the axis that varies" if len(sweep.varying) == 1 else "the most important axis"
        yield note(f"Coloured by {axis.path}, {why}.")
    look = colours(sweep, axis)
    yield look.key
    yield element(
        "div", *(_chart(sweep, key, names[key], found[key], look) for key in shown), class_="grid large"
    )


def _chosen(sweep: Sweep, influence: Influence | None) -> Axis | None:
    """Return the axis whose values are coloured: the only one, or the most important."""
    if len(sweep.varying) == 1:
        return sweep.varying[0]
    if influence is None or influence.r2 <= 0:
        return None
    by_path = {axis.path: axis for axis in sweep.varying}
    return next(by_path[path] for path, _, _ in influence.axes if path != SEED)


def _chart(sweep: Sweep, key: str, name: str, of: Curves, look: Colours) -> Html:
    places = [place for curve in of.values() for place in curve]
    epochs = [x for x, _ in places]
    right = WIDTH - (CHART_WIDTH - RIGHT)
    x_scale = linear(min(epochs), max(epochs), LEFT + 6, right - 6, whole=True)
    y_scale = fitted((y for _, y in places), _HEIGHT - UNDER, TOP)
    shown = Shown.of(key)
    parts = [frame(x_scale, y_scale, Axes("epoch", name, ticks=shown.tick), height=_HEIGHT, width=WIDTH)]
    # The best point's lines are drawn last, above the others.
    drawn = [trial for trial in sweep.trials if of[trial.number]]
    for trial in sorted(drawn, key=lambda trial: trial.number in sweep.best_numbers):
        parts.append(_curve(sweep, trial, of[trial.number], x_scale, y_scale, look))
    last = [of[trial.number][-1][1] for trial in drawn]
    said = (
        f"{name} by epoch, {len(drawn)} trials. At their last epochs between {shown.one(min(last))} and "
        f"{shown.one(max(last))}."
    )
    return figure(name, parts, said, _legend(sweep, look), height=_HEIGHT, width=WIDTH)


def _curve(
    sweep: Sweep, trial: Trial, curve: list[Place], x_scale: Scale, y_scale: Scale, look: Colours
) -> Html:
    """Return a trial's line, with a mark at its end: a cross where that came early."""
    places = [(x_scale(x), y_scale(y)) for x, y in thinned(curve)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    best, (x, y) = trial.number in sweep.best_numbers, places[-1]
    style = look.styles[trial.number]
    parts = [element("path", d=path, class_="edge line")] if best else []
    parts.append(element("path", d=path, class_=f"line {style} {'strong' if best else 'thin'}"))
    parts.append(element("path", d=path, class_="reach"))
    if trial.state in ("stopped", "failed"):
        parts.append(
            element("path", d=_CROSS, class_=f"line {style}", transform=f"translate({x:.1f} {y:.1f})")
        )
    elif trial.number in look.marks:
        parts.append(mark(look.marks[trial.number], x, y))
    elif len(places) == 1:
        parts.append(element("path", d=f"M{x:.1f} {y:.1f}h.1", class_=f"line {style} strong"))
    return element("g", element("title", told_of(sweep, trial)), *parts, class_="trial")


def _legend(sweep: Sweep, look: Colours) -> list[tuple[Html, str, str]]:
    entries = list(look.legend)
    if sweep.best is not None:
        entries.append((swatch("line c6 strong"), "thick: the best point", ""))
    if any(trial.state in ("stopped", "failed") for trial in sweep.trials):
        cross = element("path", d=_CROSS, class_="line c6", transform="translate(14 6)")
        shown = element("svg", cross, viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
        entries.append((shown, "stopped early, or failed", ""))
    return entries
