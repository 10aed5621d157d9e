"""The labelled images of a run of SLSR."""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.samples import relabel
from raid.errors import InputError
from raid.methods.inputs import Inputs, open_inputs
from raid.methods.slsr.config import SlsrConfig

Ints = NDArray[np.int64]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlsrInputs:
    """What SLSR trains on: `inputs` with an identity for every training image."""

    inputs: Inputs

    @cached_property
    def labels(self) -> Ints:
        """Return (N,) 0..K-1, the identity of every training image."""
        return relabel(self.inputs.train.identities)

    @property
    def num_identities(self) -> int:
        """K."""
        return int(self.labels.max()) + 1

    @property
    def origins(self) -> dict[str, Any]:
        """What a pack of the set was made of."""
        return self.inputs.origins

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the set."""
        return {**self.inputs.facts, "identities": str(self.num_identities)}


def open_slsr_inputs(config: SlsrConfig) -> SlsrInputs:
    """Read the set and decode its images once; training images of nobody known are left out.

    Raises:
        InputError: the set cannot be read, or has fewer than two identities.
    """
    inputs = open_inputs(config.data, multi_query=config.evaluate.multi_query)
    known = np.flatnonzero(inputs.train.identities >= 0)
    left_out = len(inputs.train) - len(known)
    if len(np.unique(inputs.train.identities[known])) < 2:
        raise InputError(
            f"data.root: {config.data.root}: SLSR learns from labelled images, and the training images have "
            "fewer than two known identities; give identities, or use a method without (raid icsr)"
        )
    if left_out:
        logger.warning("data.root: %d training images have no identity and are left out", left_out)
        inputs = replace(inputs, train=inputs.train.take(known), train_images=inputs.train_images.take(known))
    return SlsrInputs(inputs)
