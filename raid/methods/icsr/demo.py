"""The demonstration of ICSR: a colour histogram, the untrained network, the baseline and ICSR, side by side.

Baseline and ICSR have the same images, starting weights and steps of stage 2; ICSR alone has stage 1 and
the refinement.
"""

import logging
from dataclasses import replace

import numpy as np

from raid.distributed.backend import Backend
from raid.distributed.group import Group
from raid.evaluate import RetrievalSet
from raid.methods.demo import PEOPLE, Figures, histogram_figures, render_set, table
from raid.methods.encoder import Encoder, device_of, starting_weights
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import open_inputs

logger = logging.getLogger(__name__)


def render_people(config: IcsrConfig) -> None:
    """Render the set if it is not there."""
    render_set(config.data, PEOPLE)


def compare(config: IcsrConfig, backend: Backend, *, num_seeds: int) -> str:
    """Render the set if it is not there, train the baseline and ICSR, and return the comparison as text.

    Args:
        config: of the ICSR run; the runs go below its `run.folder`.
        backend: where they run, one after the other.
        num_seeds: train with so many seeds, the first being that of `config`.
    """
    render_people(config)
    inputs = open_inputs(config.data, multi_query=config.evaluate.multi_query)
    assert inputs.retrieval is not None
    logger.info(
        "%d training images, %d queries, %d gallery images",
        len(inputs.train), len(inputs.retrieval.query), len(inputs.retrieval.gallery),
    )  # fmt: skip
    seeds = range(config.seed, config.seed + num_seeds)
    rows: dict[str, list[Figures]] = {
        "colour histogram": [histogram_figures(inputs.retrieval, config.evaluate)] * num_seeds
    }
    for seed in seeds:
        seeded = replace(config, seed=seed)
        rows.setdefault("untrained network", []).append(_untrained(inputs.retrieval, seeded))
        baseline = replace(seeded, refine=replace(seeded.refine, enabled=False))
        rows.setdefault("baseline", []).append(_trained(baseline, backend, f"baseline_seed{seed}"))
        rows.setdefault("ICSR", []).append(_trained(seeded, backend, f"icsr_seed{seed}"))
    return table(rows, seeds, [("baseline", "untrained network"), ("ICSR", "baseline")])


def _untrained(retrieval: RetrievalSet, config: IcsrConfig) -> Figures:
    settings = config.training.encoder
    weights = starting_weights(settings)
    encoder = Encoder(settings, weights, Group.solo(), device_of(config.run.device))
    flip = config.evaluate.flip
    found = retrieval.features(
        lambda images: encoder.extract(images, flip=flip).numpy().astype(np.float32, copy=False)
    )
    return retrieval.figures(found, config.evaluate)


def _trained(config: IcsrConfig, backend: Backend, name: str) -> Figures:
    logger.info("== %s", name)
    run = replace(config.run, folder=config.run.folder / name)
    return icsr.run(replace(config, run=run), backend, fresh=True).metrics()[-1]
