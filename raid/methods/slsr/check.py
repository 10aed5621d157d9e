"""What a configuration of SLSR asks for, compared with the images there are."""

import logging

from raid.errors import InputError
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.inputs import SlsrInputs

logger = logging.getLogger(__name__)


def check(config: SlsrConfig, inputs: SlsrInputs) -> None:
    """Compare the configuration with the images; warn of what weakens the result.

    Raises:
        InputError: a combination that cannot work.
    """
    if config.model.batch_norm == "local" and config.run.workers > 1:
        logger.warning("model.batch_norm=local: the result depends on run.workers=%d", config.run.workers)
    check_sizes(config, len(inputs.labels))


def check_sizes(config: SlsrConfig, num_images: int) -> None:
    """Compare batches and clusters with the number of training images.

    Raises:
        InputError: a batch is larger than its set, or there are more clusters than images.
    """
    asked = {}
    if config.baseline_epochs:
        asked["baseline.batch_size"] = config.baseline.batch_size, num_images
    if config.finetuning.epochs:
        generated = config.generated.count if config.uses_images else 0
        asked["finetuning.batch_size"] = config.finetuning.batch_size, num_images + generated
    for path, (number, size) in asked.items():
        if number > size:
            raise InputError(f"{path}: a batch of {number} images, and the set has {size}; ask for fewer")
    clusters = config.clusters.num_clusters
    if config.makes_images and clusters > num_images:
        raise InputError(f"clusters.num_clusters: {clusters}, and there are {num_images} training images")
    if config.uses_images and config.generated.count < clusters:
        raise InputError(
            f"generated.count: {config.generated.count} images of {clusters} clusters; ask for more"
        )
