"""The demonstration of MAR: what the unlabelled images of other cameras add to a labelled set.

All arms of a seed start from the same pretrained networks and see the same batches in the same number of
steps; they differ in the losses. The last is a control: all of MAR, but agreement tells nothing.
"""

import logging
from typing import Any

from raid.config import flatten, load
from raid.data import render
from raid.distributed.backend import Backend
from raid.methods.demo import Figures, histogram_figures, render_set, table
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import open_mar_inputs

logger = logging.getLogger(__name__)

_SIZE = {"height": 64, "width": 32, "num_cameras": 4, "min_frames": 3, "max_frames": 5}
# The labelled set: 200 people at four mild cameras. Everybody is a reference person.
SOURCE = render.Settings(
    seed=1, num_identities=200, camera_strength=0.5, distractor_share=0.0, junk_share=0.0, **_SIZE
)
# The unlabelled set: other people at four other cameras, which differ more from each other.
TARGET = render.Settings(seed=0, num_identities=200, camera_strength=1.2, **_SIZE)
ARMS: dict[str, dict[str, Any]] = {
    "source only": {"losses.mdl": False, "losses.cml": False, "losses.rj": False},
    "feature-guided": {"mining.guide": "feature"},
    "MAR": {},
    "MAR, agents permuted": {"multilabel.control": "permuted"},
}
COMPARED = [("MAR", "source only"), ("MAR", "feature-guided"), ("MAR", "MAR, agents permuted")]


def render_people(config: MarConfig) -> None:
    """Render the sets if they are not there."""
    render_set(config.data, TARGET)
    render_set(config.source, SOURCE)


def compare(config: MarConfig, backend: Backend, *, num_seeds: int) -> str:
    """Render the sets if they are not there, train all arms, and return the comparison as text.

    Args:
        config: of the arm MAR; the runs go below its `run.folder`.
        backend: where they run, one after the other.
        num_seeds: train with so many seeds, the first being that of `config`.
    """
    render_people(config)
    inputs = open_mar_inputs(config)
    retrieval = inputs.target.retrieval
    assert retrieval is not None
    logger.info(
        "%d labelled images of %d people; %d unlabelled images, %d queries, %d gallery images",
        len(inputs.source.samples), inputs.source.num_people, len(inputs.target.train),
        len(retrieval.query), len(retrieval.gallery),
    )  # fmt: skip
    seeds = range(config.seed, config.seed + num_seeds)
    histogram = histogram_figures(retrieval, config.evaluate)
    rows: dict[str, list[Figures]] = {
        "colour histogram": [histogram] * num_seeds,
        "pretrained (the start)": [],
    }
    for seed in seeds:
        start = config.run.folder / f"pretrained_seed{seed}"
        stage_1 = {"seed": seed, "training.epochs": 0}
        rows["pretrained (the start)"].append(_trained(config, backend, start.name, stage_1))
        for arm, switches in ARMS.items():
            name = f"{arm.replace(',', '').replace(' ', '_')}_seed{seed}".lower()
            stage_2 = {"seed": seed, "pretraining.checkpoint": str(start / "pretrained.pt"), **switches}
            rows.setdefault(arm, []).append(_trained(config, backend, name, stage_2))
    return table(rows, seeds, COMPARED)


def _trained(config: MarConfig, backend: Backend, name: str, values: dict[str, Any]) -> Figures:
    logger.info("== %s", name)
    folder = {"run.folder": str(config.run.folder / name)}
    changed = load(MarConfig, overrides={**flatten(config), **values, **folder})
    return mar.run(changed, backend, fresh=True).metrics()[-1]
