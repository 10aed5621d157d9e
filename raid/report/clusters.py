"""The sections on ICSR's labels and clusters."""

from collections.abc import Iterator

from raid.report.charts import Axes, Series, line_chart, number, percent, whole_percent
from raid.report.markup import Html
from raid.report.panels import grid, note
from raid.report.run import Run


def labels(run: Run) -> Iterator[Html]:
    """Yield the paper's figure 2, with the coverage, and how much was discarded."""
    panels = _quality(run)
    if not any(panels):
        yield note("The training images of this set have no identities, so the labels cannot be scored.")
    elif run.refined:
        yield note(
            "Global: before the refinement. Local: of stage 1, each camera by itself. Refined leaves the "
            "discarded images out, as the paper's figure 2 does; with each discard as a cluster of its own "
            "it can be compared with global. Read it with the coverage."
        )
    if not run.refined:
        yield note(
            "This is the baseline (refine.enabled is false): no local labels, and nothing is discarded."
        )
    coverage = Series("in a cluster", run.points("cluster/coverage"), 1 if run.refined else 0)
    axes = Axes("epoch", "share of images", (0.0, 1.0), show=percent, ticks=whole_percent)
    yield grid([*panels, line_chart("Coverage", [coverage], axes), _discards(run)])


def _quality(run: Run) -> list[Html]:
    """Return B-cubed precision, recall, F and expansion of global, local and refined clusters."""
    lines = [("global", "global", 0, False), ("local", "local (within a camera)", 2, False)]
    if run.refined:
        lines.append(("refined", "refined", 1, False))
        lines.append(("refined_all", "refined, discards as singletons", 1, True))
    score = Axes("epoch", "0 to 1", (0.0, 1.0))
    panels = []
    for key, title, axes in (
        ("bcubed_precision", "B-cubed precision", score),
        ("bcubed_recall", "B-cubed recall", score),
        ("bcubed_f", "B-cubed F", score),
        ("expansion", "Expansion", Axes("epoch", "clusters that an identity is spread over")),
    ):
        series = [
            Series(name, run.points(f"quality/{of}/{key}"), look, dashed) for of, name, look, dashed in lines
        ]
        panels.append(line_chart(title, series, axes))
    return panels


def _discards(run: Run) -> Html:
    """Return the schedule of the discard probability and what was discarded."""
    if not run.refined:
        return Html()
    series = [
        Series("discard probability", run.points("refine/discard_probability"), 3, dashed=True),
        Series("discarded", run.points("refine/discarded"), 1),
    ]
    axes = Axes("epoch", "probability, share of images", (0.0, 1.0), show=percent, ticks=whole_percent)
    return line_chart("Discards", series, axes)


def clusters(run: Run) -> Iterator[Html]:
    """Yield number, sizes and health of the global clusters."""
    yield grid(
        [
            line_chart(
                "Number of clusters",
                [
                    Series("clusters", run.points("cluster/num"), 0),
                    Series("of one image", run.points("cluster/singletons"), 1),
                ],
                Axes("epoch", "clusters", zero=True, show=number),
            ),
            line_chart(
                "Cluster sizes",
                [
                    Series("largest", run.points("cluster/size_max"), 1),
                    Series("median", run.points("cluster/size_median"), 0),
                ],
                Axes("epoch", "images (logarithmic)", logarithmic=True, show=number),
            ),
            line_chart(
                "Health without identities",
                [
                    Series("camera purity", run.points("cluster/camera_purity"), 0),
                    Series("churn", run.points("cluster/churn"), 1),
                    Series("silhouette", run.points("cluster/silhouette"), 2),
                    Series("recall of the neighbours", run.points("neighbors/recall"), 3),
                ],
                Axes("epoch", "0 to 1"),
            ),
        ]
    )
    said = (
        "Camera purity 1: every cluster is of one camera, the model sees cameras rather than people. Churn: "
        "how much the clusters differ from the epoch before."
    )
    if run.points("neighbors/recall"):
        said += " Recall of the neighbours: what the approximate search found of the true ones."
    yield note(said)
