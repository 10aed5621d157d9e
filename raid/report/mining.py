"""The sections on MAR's training: the pretraining, its losses, and what was mined."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from raid.health import mining_remarks
from raid.report.charts import (
    Axes,
    Series,
    Stack,
    line_chart,
    number,
    percent,
    stacked_bars,
    whole_percent,
)
from raid.report.markup import Html
from raid.report.panels import folded, grid, note
from raid.report.reading import Epoch
from raid.report.run import Run
from raid.report.training import diverged, fit_panels, loss_chart

_LOSSES = {
    "mdl": "Discriminative loss (MDL, eq. 4)",
    "cml": "Cross-view loss (CML, eq. 6)",
    "al": "Agent loss (AL, eq. 7)",
    "rj": "Joint embedding loss (RJ, eq. 8)",
}
_SHARE = Axes("epoch", "of the pairs", (0.0, 1.0), show=percent, ticks=whole_percent)


def pretraining(run: Run) -> Iterator[Html]:
    """Yield loss and accuracy of the pretraining on the labelled source."""
    if not run.pretrained:
        checkpoint = run.config.get("pretraining.checkpoint")
        started = f"the run started from {checkpoint}" if checkpoint else "none is recorded"
        yield note(f"No epoch of pretraining is in this run: {started}.")
        return
    yield note("A plain softmax over the source's people; the target is not seen.")
    axes = Axes("epoch", "of the source images", (0.0, 1.0), show=percent, ticks=whole_percent)
    accuracy = Series("classified right", run.points("pretraining/accuracy"), 2)
    epochs = {epoch["epoch"] for epoch in run.pretrained}
    yield grid(
        [
            loss_chart(run, "Pretraining loss", "cross-entropy", "pretraining/loss", epochs),
            line_chart("Pretraining accuracy", [accuracy], axes),
        ]
    )


def losses(run: Run) -> Iterator[Html]:
    """Yield the total of every step, its parts by epoch, the accuracy on the source, and the retrieval."""
    trained = {epoch["epoch"] for epoch in run.epochs} - {epoch["epoch"] for epoch in run.pretrained}
    total = loss_chart(run, "Total loss", "eq. 10", "train/loss", trained)
    parts = [_part(run, name, title, look) for look, (name, title) in enumerate(_LOSSES.items(), start=2)]
    axes = Axes("epoch", "of the source images", (0.0, 1.0), show=percent, ticks=whole_percent)
    accuracy = [Series("classified right by the agents", run.points("source/accuracy"), 2)]
    if not trained:
        ends = run.config.get("training.epochs") == 0
        yield note(
            "This run ends with the pretraining: training.epochs is 0."
            if ends
            else "No epoch of MAR has been recorded yet."
        )
    source_only = [epoch["epoch"] + 1 for epoch in run.pretrained if "eval/mAP" in epoch]
    said = f"Epoch {source_only[-1]} is the source alone, before MAR." if source_only else ""
    charts = [total, *parts, line_chart("Accuracy on the source", accuracy, axes)]
    yield from fit_panels(run, charts, retrieval_note=said)
    yield diverged(run)


def _part(run: Run, name: str, title: str, look: int) -> Html:
    """Return a loss as it is, and in words what it makes of the total."""
    weight, points = _weights(run.config).get(name), run.points(f"train/{name}")
    said = ""
    if points and weight is not None:
        said = f"Times {number(weight)} in the total: {number(weight * points[-1][1])} in the last epoch."
    axes = Axes("epoch", "mean, unweighted", zero=True, show=number)
    return line_chart(title, [Series(name.upper(), points, look)], axes, note=said)


def _weights(config: dict[str, Any]) -> dict[str, float]:
    """Return what the losses are multiplied by (eq. 9 and 10); nothing where they are not known."""
    first, second, beta = (config.get(f"losses.{name}") for name in ("lambda1", "lambda2", "beta"))
    if first is None or second is None or beta is None:
        return {}
    return {"mdl": 1.0, "cml": first, "al": second, "rj": second * beta}


def mining(run: Run) -> Iterator[Html]:
    """Yield how many pairs were mined, how right they are, the threshold, and what it parts."""
    if not any(key.startswith("mining/") for epoch in run.epochs for key in epoch):
        off = run.config.get("losses.mdl") is False
        yield note("Nothing is mined: losses.mdl is off." if off else f"No pair has been mined.{_begin(run)}")
        return
    yield note(
        f"Of the pairs of a batch's target images, the most similar by their features are parted by their "
        f"{run.guide}: those above the threshold are mined as positive, the others as hard negative (eq. 3)."
        f"{_begin(run)}"
    )
    base = run.points("mining/base_rate")
    if not base:
        yield note("The target's training images have no identities, so the pairs cannot be scored.")
    remarks = [(epoch["epoch"] + 1, line) for epoch in run.epochs for line in mining_remarks(epoch)]
    yield folded([note(f"Epoch {epoch}: {line}.") for epoch, line in remarks], "remarks")
    others = [(epoch, 1 - share) for epoch, share in base]
    yield grid(
        [
            _counts(run),
            _precision(run, "Positives: one person", "positive", base),
            _precision(run, "Hard negatives: two persons", "negative", others),
            _threshold(run),
            *_histograms(run),
        ]
    )


def _begin(run: Run) -> str:
    match run.config.get("mining.begin", 1):
        case 0:
            return ""
        case 1:
            return " The first epoch of MAR mines none."
        case epochs:
            return f" The first {epochs} epochs of MAR mine none."


def _counts(run: Run) -> Html:
    series = [
        Series("positive", run.points("mining/positives"), 2),
        Series("hard negative", run.points("mining/negatives"), 1),
    ]
    return line_chart("Pairs mined", series, Axes("epoch", "mean of a step", zero=True, show=number))


def _precision(run: Run, title: str, kind: str, base: list[tuple[float, float]]) -> Html:
    series = [
        Series("of the mined", run.points(f"mining/{kind}_precision"), 2 if kind == "positive" else 1),
        Series("of all similar pairs", base, 6, dashed=True),
    ]
    return line_chart(title, series, _SHARE)


def _threshold(run: Run) -> Html:
    series = [
        Series("threshold, at the end", run.points("mining/threshold"), 0),
        Series("reached by a batch, mean", run.points("mining/reached"), 3),
    ]
    said = f"Reached: the K-th largest {run.guide} of a batch with K similar pairs."
    said += " The threshold follows it." if run.guide == "agreement" else " The threshold is their median."
    return line_chart("Threshold", series, Axes("epoch", run.guide), note=said)


def _histograms(run: Run) -> Iterator[Html]:
    """Yield what the guide says of the similar pairs, by truth, in the first and the last mining epoch."""
    for line in [run.mar.mining[0], run.mar.mining[-1]] if len(run.mar.mining) > 1 else run.mar.mining:
        thresholds = [
            epoch.get("mining/threshold") for epoch in run.epochs if epoch["epoch"] == line["epoch"]
        ]
        yield _histogram(run, line, thresholds[0] if thresholds else None)


def _histogram(run: Run, line: Epoch, threshold: float | None) -> Html:
    edges = line["edges"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    width = edges[1] - edges[0]
    stacks = [
        Stack(name, list(zip(middles, line[key], strict=True)), look)
        for key, name, look in (
            ("same", "one person", 2),
            ("different", "two persons", 1),
            ("unknown", "not known", 6),
        )
        if any(line[key])
    ]
    axes = Axes(
        run.guide,
        "pairs",
        show=number,
        show_x=lambda x: f"{x - width / 2:.2f} to {x + width / 2:.2f}",
    )
    return stacked_bars(
        f"Similar pairs of epoch {line['epoch'] + 1}",
        stacks,
        axes,
        width=width,
        rule=None if threshold is None else ("threshold", threshold),
    )
