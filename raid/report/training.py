"""The sections on the training that all methods have: alarms, loss and retrieval."""

from collections.abc import Container, Iterator, Sequence

from raid.report.charts import Axes, Point, Series, line_chart, percent, thinned, whole_percent
from raid.report.markup import Html
from raid.report.panels import alarm, folded, grid, note
from raid.report.run import Run

_RANKS = (1, 5, 10, 20, 50)


def alarms(run: Run) -> Iterator[Html]:
    """Yield the signs of collapse, or that there are none."""
    found = list(run.alarms())
    if not found:
        yield note("None: no epoch shows a sign of collapse.")
    boxes = [alarm(f"{where}: {line.removesuffix('.')}.") for where, line in found]
    yield folded(boxes, "alarms")


def fit(run: Run) -> Iterator[Html]:
    """Yield the loss of every step and epoch, mAP and rank-1 by epoch, and the CMC curve."""
    yield from fit_panels(run, [loss_chart(run, "Loss", "ClusterNCE", "train/loss")])
    yield diverged(run)


def fit_panels(run: Run, losses: Sequence[Html], *, retrieval_note: str = "") -> Iterator[Html]:
    """Yield charts of losses, with mAP and rank-1 by epoch and the CMC curve beside them."""
    evaluated = [_retrieval(run, retrieval_note), _cmc(run)]
    if not any(evaluated):
        yield note(
            "Nothing has been evaluated: that needs query and gallery images, and an epoch that is due."
        )
    yield grid([*losses, *evaluated])


def loss_chart(
    run: Run, title: str, label: str, key: str, epochs: Container[int] | None = None, *, said: str = ""
) -> Html:
    """Return the loss of every step and the mean of every epoch; empty where no step has a finite one.

    Args:
        run: whose steps are counted from 1 over the whole run.
        title: of the chart.
        label: of the loss.
        key: of the epochs' means.
        epochs: those to show, from 0; None: all.
        said: under the chart.
    """
    steps = [
        (float(step), value)
        for step, (epoch, value) in enumerate(run.losses, start=1)
        if (epochs is None or epoch in epochs) and _is_number(value)
    ]
    series = [
        Series("of a step", thinned(steps), 0, marked=False, background=True),
        Series("mean of an epoch", _epoch_means(run, key), 1),
    ]
    return line_chart(title, series, Axes("step", label, zero=True, show="{:.2f}".format), note=said)


def diverged(run: Run) -> Html:
    """Return an alarm where losses are not finite."""
    lost = sum(not _is_number(value) for _, value in run.losses)
    if not lost:
        return Html()
    return alarm(f"{lost} of {len(run.losses)} steps have a loss that is not finite: the training diverged.")


def _is_number(value: float) -> bool:
    return abs(value) < float("inf")  # NaN is not, either


def _retrieval(run: Run, said: str) -> Html:
    series = [Series("rank-1", run.points("eval/rank1"), 1), Series("mAP", run.points("eval/mAP"), 0)]
    axes = Axes("epoch", "of the queries", zero=True, show=percent, ticks=whole_percent)
    return line_chart("mAP and rank-1", series, axes, note=said)


def _epoch_means(run: Run, key: str) -> list[Point]:
    """Return the mean loss of every epoch, in the middle of its steps."""
    steps: dict[float, list[int]] = {}
    for step, (epoch, _) in enumerate(run.losses, start=1):
        steps.setdefault(epoch + 1, []).append(step)
    means = run.points(key)
    return [((steps[epoch][0] + steps[epoch][-1]) / 2, mean) for epoch, mean in means if epoch in steps]


def _cmc(run: Run) -> Html:
    if "cmc" not in run.record:
        return Html()
    shares = run.record["cmc"].tolist()
    points = [(float(place), share) for place, share in enumerate(shares, start=1)]
    told = ", ".join(f"rank-{k} {percent(shares[k - 1])}" for k in _RANKS if k <= len(shares))
    return line_chart(
        "CMC curve of the last epoch",
        [Series("found by the last place", points, 0, marked=False)],
        Axes("rank", "queries with a match", (0.0, 1.0), show=percent, ticks=whole_percent),
        note=f"{told}.",
    )
