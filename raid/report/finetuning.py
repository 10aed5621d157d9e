"""The sections on SLSR's two supervised trainings: the baseline, and the network on generated images too."""

from collections.abc import Iterator

from raid.report.charts import Axes, Series, line_chart, percent, whole_percent
from raid.report.image_clusters import none_made
from raid.report.markup import Html
from raid.report.panels import grid, note
from raid.report.run import Run
from raid.report.training import diverged, fit_panels, loss_chart

_ACCURACY = Axes("epoch", "of the training images", (0.0, 1.0), show=percent, ticks=whole_percent)
_LABELS = {
    "sparse": "by the identities of its cluster, each as likely as the others (eq. 9)",
    "uniform": "by all identities alike (LSRO)",
    "all_in_one": "as a class of its own, the same for all of them",
}


def baseline(run: Run) -> Iterator[Html]:
    """Yield loss and accuracy of the baseline."""
    if not run.baseline:
        checkpoint = run.config.get("baseline.checkpoint")
        taken = f"the run took {checkpoint}" if checkpoint else "none is recorded"
        yield note(f"No epoch of the baseline is in this run: {taken}.")
        return
    network = run.config.get("baseline.backbone") or run.config.get("model.backbone")
    yield note(
        f"Stage 1: {network} learns who is who on the real training images alone. The clusters are of its "
        "features."
    )
    accuracy = Series("classified right", run.points("baseline/accuracy"), 0)
    epochs = {epoch["epoch"] for epoch in run.baseline}
    yield grid(
        [
            loss_chart(run, "Baseline loss", "cross-entropy", "baseline/loss", epochs),
            line_chart("Baseline accuracy", [accuracy], _ACCURACY),
        ]
    )


def finetuning(run: Run) -> Iterator[Html]:
    """Yield losses and accuracies of real and generated images, and the retrieval."""
    trained = {epoch["epoch"] for epoch in run.epochs if "train/loss" in epoch}
    why = none_made(run)
    if why is not None or trained:
        yield note(why or _labelled(run))
    if not trained and run.config.get("finetuning.epochs") != 0:
        yield note("No epoch of fine-tuning has been recorded yet.")
    parts = [
        Series("real", run.points("train/loss_real"), 0),
        Series("generated", run.points("train/loss_generated"), 1),
    ]
    accuracy = [
        Series("real", run.points("train/accuracy"), 0),
        Series("generated", run.points("train/accuracy_generated"), 1),
    ]
    said = "Generated: put into an identity of their cluster." if accuracy[1].points else ""
    charts = [
        loss_chart(run, "Total loss", "cross-entropy", "train/loss", trained),
        line_chart("Loss by kind of image", parts, Axes("epoch", "mean", zero=True)),
        line_chart("Accuracy", accuracy, _ACCURACY, note=said),
    ]
    yield from fit_panels(run, charts, retrieval_note=_before(run))
    yield diverged(run)


def _labelled(run: Run) -> str:
    """Return how the generated images are labelled, in words."""
    how = _LABELS.get(str(run.config.get("generated.label")), "")
    if run.config.get("generated.control") == "permuted":
        how += ", but of another cluster: a control, whose labels tell nothing"
    return f"The network on real and generated images together. A generated image is labelled {how}."


def _before(run: Run) -> str:
    evaluated = [epoch["epoch"] + 1 for epoch in run.baseline if "eval/mAP" in epoch]
    return f"Epoch {evaluated[-1]} is stage 1's baseline." if evaluated else ""
