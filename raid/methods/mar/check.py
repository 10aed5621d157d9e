"""What a configuration of MAR asks for, compared with the images there are."""

import logging

import numpy as np

from raid.errors import InputError
from raid.methods.encoder import device_of
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import MarInputs
from raid.methods.mar.memory import MarSizes, first_worker_bytes, what_would_fit
from raid.methods.mar.start import mines_by_agreement

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
    check_batches(config, len(source.samples), len(target.train))
    if config.training.epochs:
        _check_adaptation(config, inputs)


def check_batches(config: MarConfig, num_source: int, num_target: int) -> None:
    """Compare the batches with the images of both sets.

    Raises:
        InputError: a batch is larger than its set.
    """
    asked = {}
    if config.training.epochs:
        asked["training.source"] = config.training.source, num_source
        asked["training.target"] = config.training.target, num_target
    if config.pretraining.checkpoint is None:
        asked["pretraining.batch_size"] = config.pretraining.batch_size, num_source
    for path, (number, size) in asked.items():
        if number > size:
            raise InputError(f"{path}: a batch of {number} images, and the set has {size}; ask for fewer")


def check_memory(config: MarConfig, inputs: MarInputs, dimensions: int, available: int) -> None:
    """Compare what the first worker holds when stage 2 begins with the memory of its machine.

    Args:
        config: of the run.
        inputs: its images.
        dimensions: D of the features.
        available: bytes.

    Raises:
        InputError: there is too little of it.
    """
    if not config.training.epochs or not (config.losses.cml or mines_by_agreement(config)):
        return
    device = device_of(config.run.device)
    sizes = MarSizes(len(inputs.target.train), inputs.source.num_people, dimensions)

    def needed(config: MarConfig) -> float:
        return first_worker_bytes(config, sizes, device)

    if needed(config) > available:
        raise InputError(
            f"data.root: the multilabels of {sizes.images} images over {sizes.people} reference persons take "
            f"about {needed(config) / 2**30:.1f} GiB on the first worker, and its machine has "
            f"{available / 2**30:.1f}; {what_would_fit(config, needed, available)} (`raid plan` says what "
            "every step needs)"
        )


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
    if mines_by_agreement(config) and isinstance(start, int) and start > len(train):
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
