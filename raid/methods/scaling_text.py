"""What `raid scaling` prints."""

from collections.abc import Iterator, Sequence

from raid.methods.makespan import makespans
from raid.methods.plan_text import describe_enough, describe_makespans, time_text
from raid.methods.scaled_runs import GROUPS, OF_TRAINING
from raid.methods.scaling import Scaling, StageScaling

_NAMES = {"data_wait": "waiting", "collective": "collectives"}
_ABOUT = (
    "seconds: of an epoch, by the first worker's clock: medians over the epochs after a start, summed over "
    "what they were spent on.",
    "compute: forward, backward and optimiser; collectives: gathering rows and waiting for the sum of the "
    "gradients, slower workers included; waiting: for images, which are gathered and augmented. While the "
    "first worker clusters, the others wait too.",
)
Row = list[str]


def as_text(scaling: Scaling) -> str:
    """Return the tables, in columns."""
    lines: list[str] = []
    for stage in scaling.stages:
        lines += [_title(scaling, stage), *_columns(_rows(stage)), ""]
        lines += [*_columns(_fits(stage)), *_about_fits(stage), ""]
    lines += _ABOUT
    if scaling.of_cameras is not None:
        lines += ["", *describe_makespans(scaling.camera_seconds, _about_cameras(scaling))]
    return "\n".join(lines)


def as_markdown(scaling: Scaling) -> str:
    """Return the same in Markdown."""
    lines: list[str] = []
    for stage in scaling.stages:
        lines += [f"**{_title(scaling, stage)}**", "", *_table(_rows(stage)), ""]
        lines += [*_table(_fits(stage)), "", *_about_fits(stage), ""]
    lines += [f"{paragraph}\n" for paragraph in _ABOUT]
    if scaling.of_cameras is not None:
        lines += [f"**{_about_cameras(scaling)}**", "", *_table(_makespans(scaling)), ""]
        lines += [describe_enough(scaling.camera_seconds)]
    return "\n".join(lines)


def _title(scaling: Scaling, stage: StageScaling) -> str:
    what = f"{scaling.runs[0].method}, stage {stage.name}"
    batch = stage.times[0].batch
    match stage.mode:
        case "strong":
            return f"{what}: strong scaling, {batch} images a step on any number of workers"
        case "weak":
            each = batch // stage.runs[0].workers
            return f"{what}: weak scaling, {each} images a step on each worker"
    return f"{what}: {stage.workers[0]} worker{'s' if stage.workers[0] > 1 else ''} alone"


def _rows(stage: StageScaling) -> list[Row]:
    """Return the table of the runs, with its head."""
    groups = [group for group in GROUPS if any(group in of.seconds for of in stage.times)]
    head = ["workers", "images each", "epochs", "seconds", *(_name(group) for group in groups), "efficiency"]
    rows = [head]
    for run, of, efficiency in zip(stage.runs, stage.times, stage.efficiencies, strict=True):
        spent = of.of_epoch
        shares = [f"{spent[group] / of.total:.1%}" if group in spent else "-" for group in groups]
        each = f"{of.batch / run.workers:g}"
        reached = "-" if efficiency is None else f"{efficiency:.2f}"
        rows.append([str(run.workers), each, str(of.epochs), f"{of.total:.2f}", *shares, reached])
    return rows


def _fits(stage: StageScaling) -> list[Row]:
    """Return the table of the fits, with its head; nothing of one number of workers."""
    if not stage.fits:
        return []
    # In strong scaling all epochs train on the same images.
    images = stage.times[0].images if stage.mode == "strong" else None
    rows = [["T(W) = a + b/W", "a", "b", "residual", "of"]]
    for group, fit in stage.fits.items():
        factor, unit = 1.0, "s each time"
        if group in OF_TRAINING:
            factor, unit = (1000.0, "ms an image") if images is None else (float(images), "s an epoch")
        figures = [f"{factor * figure:.3f}" for figure in (fit.a, fit.b, fit.residual)]
        rows.append([_name(group), *figures, unit])
    return rows


def _about_fits(stage: StageScaling) -> Iterator[str]:
    if stage.mode is None:
        yield (
            "One number of workers tells neither an efficiency nor what more would bring: run the same on "
            "another (run.workers=W), and name both."
        )
        return
    yield f"efficiency: what a worker does of what it does among {stage.workers[0]} (the fewest here)."
    if stage.residual is None:
        yield "A line through two numbers of workers meets both: a third would tell how good it is."
    else:
        yield f"By all lines together the epochs are off by {stage.residual:.1%}."


def _about_cameras(scaling: Scaling) -> str:
    assert scaling.of_cameras is not None
    number, path = len(scaling.camera_seconds), scaling.of_cameras.path
    cameras = "1 camera" if number == 1 else f"{number} cameras, the largest first"
    return f"stage 1: {cameras}, each as long as in {path}, on so many processes"


def _makespans(scaling: Scaling) -> list[Row]:
    rows = [["processes", "takes", "at least"]]
    for each in makespans(scaling.camera_seconds):
        rows.append([str(each.processes), time_text(each.seconds), time_text(each.bound)])
    return rows


def _name(group: str) -> str:
    return _NAMES.get(group, group)


def _columns(rows: Sequence[Row]) -> Iterator[str]:
    """Yield rows as lines, every column as wide as its widest cell; the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join([f"{first:<{widths[0]}}", *cells])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield rows in Markdown."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"| {' | '.join(['---:'] * len(row))} |"
