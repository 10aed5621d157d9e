"""The demonstration: a colour histogram, the untrained network, the baseline and ICSR, side by side.

Baseline and ICSR have the same images, starting weights and steps of stage 2; ICSR alone has stage 1 and
the refinement.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raid.data import render
from raid.data.images import Images
from raid.data.synthetic_check import hsv_histogram
from raid.distributed.backend import Backend
from raid.distributed.group import Group
from raid.evaluate import RetrievalSet
from raid.methods import icsr
from raid.methods.encoder import Encoder, device_of, starting_weights
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import open_inputs
from raid.run_folder import RunFolder

Figures = dict[str, float]
logger = logging.getLogger(__name__)

# Small enough for two CPU cores; cameras are milder than the default's, so that minutes of training from
# random weights can overcome them. Seeds of a comparison are those of the training.
PEOPLE = render.Settings(
    num_identities=100,
    num_cameras=4,
    height=64,
    width=32,
    min_frames=3,
    max_frames=5,
    camera_strength=0.5,
)
_SHOWN = ("eval/mAP", "eval/rank1")


def compare(config: IcsrConfig, backend: Backend, *, num_seeds: int) -> str:
    """Render the set if it is not there, train the baseline and ICSR, and return the comparison as text.

    Args:
        config: of the ICSR run; the runs go below its `run.folder`.
        backend: where they run, one after the other.
        num_seeds: train with so many seeds, the first being that of `config`.
    """
    assert config.data.root is not None  # Data.problems
    render.write_market1501(config.data.root, PEOPLE)
    inputs = open_inputs(config.data, multi_query=config.evaluate.multi_query)
    assert inputs.retrieval is not None
    logger.info(
        "%d training images, %d queries, %d gallery images",
        len(inputs.train), len(inputs.retrieval.query), len(inputs.retrieval.gallery),
    )  # fmt: skip
    seeds = range(config.seed, config.seed + num_seeds)
    rows: dict[str, list[Figures]] = {"colour histogram": [_histogram(inputs.retrieval, config)] * num_seeds}
    for seed in seeds:
        seeded = replace(config, seed=seed)
        rows.setdefault("untrained network", []).append(_untrained(inputs.retrieval, seeded))
        baseline = replace(seeded, refine=replace(seeded.refine, enabled=False))
        rows.setdefault("baseline", []).append(_trained(baseline, backend, f"baseline_seed{seed}"))
        rows.setdefault("ICSR", []).append(_trained(seeded, backend, f"icsr_seed{seed}"))
    return table(rows, seeds)


def table(rows: dict[str, list[Figures]], seeds: Sequence[int]) -> str:
    """Return the figures as text: of the one seed, or mean, deviation and paired differences of several.

    Args:
        rows: figures of every seed by what was measured, as shares of 1.
        seeds: of the figures.
    """
    lines = [f"{'':<20}{'mAP':>15}{'rank-1':>15}"]
    lines += [_line(name, [_values(figures, key) for key in _SHOWN], "") for name, figures in rows.items()]
    if len(seeds) == 1:
        return "\n".join(lines)
    lines += ["", "paired differences by seed (same seed, same start), in percentage points"]
    for name, reference in (("baseline", "untrained network"), ("ICSR", "baseline")):
        differences = [_values(rows[name], key) - _values(rows[reference], key) for key in _SHOWN]
        lines.append(_line(f"{name} - {reference.split()[0]}", differences, "+"))
        each = ", ".join(
            f"seed {seed}: {value:+.1f}" for seed, value in zip(seeds, differences[0], strict=True)
        )
        lines.append(f"    mAP {each}")
    return "\n".join(lines)


def _line(name: str, columns: list[NDArray[np.float64]], sign: str) -> str:
    return f"{name:<20}" + "".join(f"{_cell(values, sign):>15}" for values in columns)


def _cell(values: NDArray[np.float64], sign: str) -> str:
    mean = f"{values.mean():{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} +- {values.std(ddof=1):.1f}"


def _values(figures: list[Figures], key: str) -> NDArray[np.float64]:
    return 100.0 * np.array([of_seed[key] for of_seed in figures])


def _histogram(retrieval: RetrievalSet, config: IcsrConfig) -> Figures:
    def histogram(images: Images) -> NDArray[np.float32]:
        return hsv_histogram(images.gather(np.arange(len(images))).numpy())

    return retrieval.figures(retrieval.features(histogram), config.evaluate)


def _untrained(retrieval: RetrievalSet, config: IcsrConfig) -> Figures:
    settings = config.training.encoder
    weights = starting_weights(settings)
    encoder = Encoder(settings, weights, Group.solo(), device_of(config.run.device))
    found = retrieval.features(lambda images: encoder.extract(images).numpy().astype(np.float32, copy=False))
    return retrieval.figures(found, config.evaluate)


def _trained(config: IcsrConfig, backend: Backend, name: str) -> Figures:
    logger.info("== %s", name)
    run = replace(config.run, folder=config.run.folder / name)
    folder: RunFolder = icsr.run(replace(config, run=run), backend, fresh=True)
    return folder.metrics()[-1]
