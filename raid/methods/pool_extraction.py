"""Extraction on the pool (`extract.on: pool`): the training workers stay free, or wait."""

import uuid
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.images import Images
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.extract import extract_block
from raid.methods.encoder import Encoder, EncoderSettings, build_model, finite
from raid.models.backbone import Backbone
from raid.ops.neighbors import Block, row_blocks


@dataclass(frozen=True)
class PoolExtraction:
    """What a process of the pool needs to extract any block; `version` names the weights."""

    settings: EncoderSettings
    weights: dict[str, Tensor]
    version: str
    images: Images


def features_of(encoder: Encoder, images: Images, fanout: FanOut, on: Literal["workers", "pool"]) -> Tensor:
    """Return the features of `images` on every worker, from the workers or from the pool: (N, D)."""
    if on == "workers":
        return encoder.extract(images)
    return encoder.group.once(
        lambda: finite(extract_on_pool(encoder.model, encoder.settings, images, fanout), encoder.rate_path)
    )


def extract_on_pool(model: Backbone, settings: EncoderSettings, images: Images, fanout: FanOut) -> Tensor:
    """Return what `raid.extract.extract` returns, bit for bit on CPUs: the blocks are the same.

    Args:
        model: whose weights are sent, once for all blocks.
        settings: that it was built with.
        images: N decoded images.
        fanout: the pool.
    """
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    job = fanout.share(PoolExtraction(settings, weights, uuid.uuid4().hex, images))
    blocks = row_blocks(len(images), settings.numerics.extract_batch)
    return torch.from_numpy(np.concatenate(list(fanout.map(_extract, blocks, job))))


_loaded: dict[str, Backbone] = {}  # the latest weights that this process has seen


def _extract(block: Block, job: PoolExtraction) -> NDArray[np.floating]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if job.version not in _loaded:
        # Of the weights' dtype before they are loaded, or they would lose digits.
        model = build_model(job.settings, Group.solo()).to(device=device, dtype=job.settings.dtype)
        model.load_state_dict(job.weights)
        _loaded.clear()
        _loaded[job.version] = model
    features = extract_block(
        _loaded[job.version], job.images, block, job.settings.augmentation, device, job.settings.dtype
    )
    result: NDArray[np.floating] = features.numpy()
    return result
