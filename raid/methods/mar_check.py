"""What a configuration of MAR asks for, compared with the images there are."""

import logging

import numpy as np

from raid.errors import InputError
from raid.methods.mar_config import MarConfig
from raid.methods.mar_inputs import MarInputs

logger = logging.getLogger(__name__)


def check(config: MarConfig, inputs: MarInputs) -> None:
    """Compare the configuration with the images; warn of what weakens the result.

    Raises:
        InputError: a combination that cannot work.
    """
    source, target = inputs.source, inputs.target
    if config.model.batch_norm == "local" and config.run.workers > 1:
        logger.warning("model.batch_norm=local: the result depends on run.workers=%d", config.run.workers)
    if source.samples.fingerprint() == target.train.fingerprint():
        logger.warning("source and data are the same images: the target's identities are trained on")
    sizes = {"training.source": len(source.samples), "training.target": len(target.train)}
    asked = {"training.source": config.training.source, "training.target": config.training.target}
    if not config.training.epochs:
        asked = {}
    if config.pretraining.checkpoint is None:
        sizes["pretraining.batch_size"] = len(source.samples)
        asked["pretraining.batch_size"] = config.pretraining.batch_size
    for path, number in asked.items():
        if number > sizes[path]:
            raise InputError(
                f"{path}: a batch of {number} images, and the set has {sizes[path]}; ask for fewer"
            )
    if config.training.epochs:
        _check_adaptation(config, inputs)


def _check_adaptation(config: MarConfig, inputs: MarInputs) -> None:
    train, start = inputs.target.train, config.mining.start
    if config.losses.cml and not train.has_cameras:
        raise InputError(
            "losses.cml: some target images have no camera, and the loss compares cameras; give the cameras, "
            "or set losses.cml=false"
        )
    if config.losses.cml and np.bincount(train.cameras).max() < 2:
        raise InputError(
            "losses.cml: no camera has two target images, and the loss compares deviations; set "
            "losses.cml=false"
        )
    by_agreement = config.losses.mdl and config.mining.guide == "agreement"
    if by_agreement and isinstance(start, int) and start > len(train):
        raise InputError(f"mining.start: {start} images are to be drawn, and the target has {len(train)}")
    num_pairs = config.training.target * (config.training.target - 1) // 2
    if config.losses.mdl and config.mining.ratio * num_pairs < 10:
        logger.warning(
            "mining.ratio: %g of the %d pairs of a batch are %d: hardly enough to tell positive from hard "
            "negative pairs; raise it, or training.target",
            config.mining.ratio,
            num_pairs,
            max(1, int(config.mining.ratio * num_pairs)),
        )
