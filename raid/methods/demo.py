"""What the demonstrations have in common: a colour histogram to beat, and a table of runs and seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raid.data import render
from raid.data.images import Images
from raid.data.synthetic_check import hsv_histogram
from raid.evaluate import RetrievalSet
from raid.methods import seed_table
from raid.methods.sections import ImageSet
from raid.protocols import Options

Figures = dict[str, float]

# The set of ICSR's and SLSR's, small enough for two CPU cores; cameras are milder than the default's, so that
# minutes of training from random weights can overcome them. Seeds of a comparison are those of the training.
PEOPLE = render.Settings(
    num_identities=100,
    num_cameras=4,
    height=64,
    width=32,
    min_frames=3,
    max_frames=5,
    camera_strength=0.5,
)


def render_set(section: ImageSet, people: render.Settings) -> None:
    """Render people where `section` looks for them, unless they are there; a pack has them."""
    if section.layout == "pack":
        return
    assert isinstance(section.root, Path)  # ImageSet.problems
    render.write_market1501(section.root, people)


def table(
    rows: Mapping[str, list[Figures]], seeds: Sequence[int], compared: Sequence[tuple[str, str]]
) -> str:
    """Return the figures as text: of the one seed, or mean, deviation and paired differences of several.

    Args:
        rows: figures of every seed by what was measured, as shares of 1.
        seeds: of the figures.
        compared: rows whose differences are of interest.
    """
    width = 2 + max(map(len, [*rows, *(f"{name} - {reference}" for name, reference in compared)]))
    lines = [seed_table.head(width)]
    for name, figures in rows.items():
        lines.append(seed_table.line(name, [_values(figures, key) for key in seed_table.SHOWN], width))
    if len(seeds) == 1:
        return "\n".join(lines)
    lines += ["", "paired differences by seed (same seed, same start), in percentage points"]
    for name, reference in compared:
        differences = [_values(rows[name], key) - _values(rows[reference], key) for key in seed_table.SHOWN]
        lines.append(seed_table.line(f"{name} - {reference}", differences, width, signed=True))
        lines.append(seed_table.by_seed(seeds, differences[0]))
    return "\n".join(lines)


def _values(figures: list[Figures], key: str) -> NDArray[np.float64]:
    return 100.0 * np.array([of_seed[key] for of_seed in figures])


def histogram_figures(retrieval: RetrievalSet, options: Options) -> Figures:
    """Return the figures of a colour histogram: what a training has to beat."""

    def histogram(images: Images) -> NDArray[np.float32]:
        return hsv_histogram(images.gather(np.arange(len(images))).numpy())

    return retrieval.figures(retrieval.features(histogram), options)
