"""The sections on SLSR's GANs: how their training went, how good their images are, and the images."""

from collections.abc import Iterator
from typing import Any

from raid.report.charts import Axes, Series, line_chart, number, percent
from raid.report.image_clusters import none_made
from raid.report.markup import Html, element
from raid.report.panels import grid, note, table
from raid.report.pictures import SheetSize, stored_picture
from raid.report.run import Run
from raid.report.slsr_records import Gan
from raid.report.style import NUM_LOOKS
from raid.run_folder import GRID_GAP

_SHOWN_PIXELS, _EARLIER_PIXELS = 520_000, 120_000  # 720 x 720, 346 x 346
_MOST_EARLIER = 6
_LIMIT_LOOK = 6


def generators(run: Run) -> Iterator[Html]:
    """Yield losses and variance of every GAN, and the quality of what they generated."""
    if not run.slsr.gans:
        yield note(none_made(run) or "No GAN has begun yet.")
        return
    yield note(
        "A DCGAN a cluster. D: the discriminator's mean loss on real and on generated images; G: the "
        "generator's. Its epochs are counted for each GAN from 1."
    )
    for text in _remarks(run):
        yield note(text)
    yield grid([_variances(run), *(_losses(gan) for gan in run.slsr.gans)])
    if run.slsr.generated:
        yield _quality(run)
    else:
        yield note("How good they are is measured when they have generated their images.")


def _remarks(run: Run) -> Iterator[str]:
    """Yield which GANs have not ended, and which clusters have none."""
    planned = run.config.get("gan.epochs")
    for gan in run.slsr.gans:
        if not gan.result:
            yield f"{gan.name.capitalize()}: {len(gan.epochs)} of {planned} epochs are done."
    there = {gan.cluster for gan in run.slsr.gans}
    images, least = run.slsr.clusters["clusters"], run.config.get("gan.min_images", 0)
    for cluster in sorted(set(range(run.slsr.num_clusters)) - there):
        count = int((images == cluster).sum())
        if count < least:
            yield f"Cluster {cluster}: no GAN, for it has {count} images and gan.min_images is {least}."
        else:
            said = "no GAN is recorded" if run.slsr.generated else "its GAN has not begun yet"
            yield f"Cluster {cluster}: {said}."


def _losses(gan: Gan) -> Html:
    series = [
        Series("D, real", gan.points("real"), 0),
        Series("D, generated", gan.points("fake"), 1),
        Series("G", gan.points("generator"), 2),
    ]
    title = "Losses of the parent" if gan.cluster < 0 else f"Losses of {gan.name}"
    return line_chart(title, series, Axes("epoch", "cross-entropy", zero=True))


def _variances(run: Run) -> Html:
    """Return how much the samples vary, with the line below which they are all alike."""
    series = [
        Series(gan.name, gan.points("variance_ratio"), _LIMIT_LOOK if gan.cluster < 0 else _look(gan.cluster))
        for gan in run.slsr.gans
    ]
    ends = [x for line in series for x, _ in line.points]
    limit = run.config.get("gan.collapse")
    if ends and limit is not None:
        line = [(min(ends), float(limit)), (max(ends), float(limit))]
        series.append(Series("alarm below", line, _LIMIT_LOOK, dashed=True, marked=False))
    said = "Of the pixels, over samples; 1: as much as the cluster's real images."
    axes = Axes("epoch", "share of the real variance", zero=True)
    return line_chart("Variance of the samples", series, axes, note=said)


def _look(cluster: int) -> int:
    return cluster % NUM_LOOKS


def _quality(run: Run) -> Html:
    found = run.slsr.generated
    counts, limit = found["counts"], run.config.get("gan.collapse", 0.0)
    rows = [
        (
            str(row["cluster"]),
            str(counts[row["cluster"]]) if row["cluster"] < len(counts) else "–",
            str(row["samples"]),
            _warned(row["variance_ratio"], not (row["variance_ratio"] or 0.0) >= limit),  # NaN is not
            _shown(row["frechet"]),
            _shown(row["nearest_real"]),
            _shown(row["real_nearest"]),
            _warned(row["copies"], bool(row["copies"])),
        )
        for row in found["quality"]
    ]
    own = found.get("own_cluster")
    said = (
        "Variance: of the pixels, of the real images'. Fréchet: distance of the features' distributions, on "
        "the baseline's features. Nearest real: the least difference between a sample and a real image of "
        "its cluster (levels of 0 to 255, root mean square); beside it, what one in a hundred real images "
        "differs less than from its own nearest. Copies: samples that are a real image."
    )
    if own is not None:
        said += (
            f" A classifier of the colours of real images puts {percent(float(own))} of the generated ones "
            "into their own cluster"
        )
        real = found.get("own_cluster_real")
        said += "." if real is None else f", and {percent(float(real))} of real ones that it has not seen."
    head = (
        "cluster", "generated", "samples", "variance", "Fréchet", "nearest real", "among real", "copies",
    )  # fmt: skip
    return table("Quality of the generated images", head, rows, note=said)


def _shown(value: Any) -> str:
    return "–" if value is None else number(value)


def _warned(value: Any, bad: bool) -> str:
    return f"⚠ {_shown(value)}" if bad else _shown(value)


def images(run: Run) -> Iterator[Html]:
    """Yield samples of every GAN above real images of its cluster: the paper's figures 2 and 3."""
    shown = [gan for gan in run.slsr.gans if gan.grids or gan.real]
    if not shown:
        yield note(none_made(run) or "No picture has been drawn yet.")
        return
    yield note(
        "Above: samples, of the same noise after every epoch. Below: real images of the cluster, at the "
        "GAN's size."
    )
    yield grid([_grids(gan, run) for gan in shown])


def _grids(gan: Gan, run: Run) -> Html:
    """Return the newest grid of a GAN, the real images, and the earlier grids folded."""
    blur = _blur(run)
    counts, parts = run.slsr.generated.get("counts", []), []
    told = f", {counts[gan.cluster]} generated" if 0 <= gan.cluster < len(counts) else ""
    if gan.grids:
        epoch, path = gan.grids[-1]
        parts += [_said(f"Samples after epoch {epoch}"), _picture(gan, epoch, path, _SHOWN_PIXELS, blur)]
    if gan.real:
        shown = stored_picture(gan.real, f"{gan.name}: real images", most_pixels=_SHOWN_PIXELS, blur=blur)
        parts += [_said("Real images"), shown]
    return element(
        "figure", element("figcaption", f"{gan.name.capitalize()}{told}"), *parts, _earlier(gan, blur)
    )


def _blur(run: Run) -> SheetSize | None:
    """Return how the grids are blurred, if they are."""
    if not run.blur:
        return None
    height, width = (max(1, int(run.config.get(f"gan.{side}", 1))) for side in ("height", "width"))
    return SheetSize(height, width, GRID_GAP)


def _earlier(gan: Gan, blur: SheetSize | None) -> Html:
    before = gan.grids[:-1]
    if not before:
        return Html()
    count = min(len(before), _MOST_EARLIER)
    chosen = [before[i * len(before) // count] for i in range(count)]
    items = [
        element("div", _said(f"Epoch {epoch}"), _picture(gan, epoch, path, _EARLIER_PIXELS, blur))
        for epoch, path in chosen
    ]
    which = f"{count} of {len(before)} earlier grids" if count < len(before) else "Earlier grids"
    return element("details", element("summary", which), element("div", *items, class_="earlier"))


def _said(text: str) -> Html:
    return element("p", text, class_="muted said")


def _picture(gan: Gan, epoch: int, path: Any, most_pixels: int, blur: SheetSize | None) -> Html:
    what = f"{gan.name}: samples after epoch {epoch}"
    return stored_picture(path, what, most_pixels=most_pixels, blur=blur)
