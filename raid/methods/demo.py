"""The demonstration: a colour histogram, the untrained network, the baseline and ICSR, side by side.

Baseline and ICSR have the same data, starting weights, batches to draw from and steps; ICSR alone has
stage 1 and the refinement.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from raid.data.images import Images
from raid.data.render import DEMO_SET, write_market1501
from raid.data.synthetic_check import hsv_histogram
from raid.distributed.group import Group
from raid.evaluate import RetrievalSet, metrics
from raid.methods import icsr
from raid.methods.contrastive import Encoder, device_of, starting_weights
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import open_inputs
from raid.methods.inter_camera import evaluated

Figures = dict[str, float]
logger = logging.getLogger(__name__)

# Of the rendered people; the seeds of a comparison are those of the training.
DATA_SEED = 0


def compare(config: IcsrConfig, *, num_seeds: int) -> str:
    """Render the set if it is not there, train the baseline and ICSR, and return the comparison as text.

    Args:
        config: of the ICSR run; the runs go below its `run.folder`.
        num_seeds: train with seeds 1..num_seeds; one seed: the seed of `config`.
    """
    assert config.data.root is not None  # Data.problems
    write_market1501(config.data.root, DEMO_SET, seed=DATA_SEED)
    seeds = [config.seed] if num_seeds == 1 else list(range(1, num_seeds + 1))
    rows: dict[str, list[Figures]] = {"colour histogram": [_histogram(config)] * len(seeds)}
    for seed in seeds:
        seeded = replace(config, seed=seed)
        rows.setdefault("untrained network", []).append(_untrained(seeded))
        baseline = replace(seeded, refine=replace(seeded.refine, enabled=False))
        rows.setdefault("baseline", []).append(_trained(baseline, f"baseline_seed{seed}"))
        rows.setdefault("ICSR", []).append(_trained(seeded, f"icsr_seed{seed}"))
    return _table(rows, seeds)


def _histogram(config: IcsrConfig) -> Figures:
    retrieval = _retrieval(config)
    query, gallery = (_in_blocks(hsv_histogram, images) for images in _image_pair(retrieval))
    return metrics(retrieval.rank(query, gallery, ap=config.evaluate.ap))


def _untrained(config: IcsrConfig) -> Figures:
    weights = starting_weights(config.training)
    encoder = Encoder(config.training, weights, Group.solo(), device_of(config.run.device))
    return evaluated(encoder, _retrieval(config), config.evaluate.ap)


def _trained(config: IcsrConfig, name: str) -> Figures:
    logger.info("== %s", name)
    run = replace(config.run, folder=config.run.folder / name)
    return icsr.run(replace(config, run=run), fresh=True).metrics()[-1]
