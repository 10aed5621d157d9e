"""Extraction on the pool (`extract.on: pool`): the training workers stay free, or wait."""

import uuid
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid import extract
from raid.data.images import Images
from raid.distributed.fanout import FanOut
from raid.distributed.group import Group
from raid.extract import Kind, block_size, extract_block, filled
from raid.methods.encoder import Encoder, EncoderSettings, build_model, finite
from raid.models.backbone import Backbone
from raid.models.inference import for_evaluation
from raid.ops.neighbors import Block, row_blocks


@dataclass(frozen=True)
class PoolExtraction:
    """What a process of the pool needs to extract any block; `version` names the weights."""

    settings: EncoderSettings
    weights: dict[str, Tensor]
    version: str
    images: Images
    kind: Kind
    flip: bool


def features_of(
    encoder: Encoder,
    images: Images,
    fanout: FanOut,
    on: Literal["workers", "pool"],
    *,
    flip: bool = False,
) -> Tensor:
    """Return the features of `images` on every worker, from the workers or from the pool: (N, D) unit rows.

    Args:
        encoder: every worker's.
        images: N decoded images.
        fanout: the pool.
        on: who extracts.
        flip: add the features of the mirror images, which is for retrieval; clustering never does.

    Raises:
        InputError: the training has diverged.
    """
    if on == "workers":
        return encoder.extract(images, flip=flip)

    def extracted() -> Tensor:
        features = extract_on_pool(encoder.model, encoder.settings, images, fanout, flip=flip)
        return finite(features, encoder.rate_path)

    return encoder.group.once(extracted)


def feature_length(settings: EncoderSettings, kind: Kind, height: int, width: int) -> int:
    """Return D of the features of an image of `height` x `width`; no weights are drawn for it.

    N images take N * D * `settings.dtype.itemsize` bytes: what a check of the memory wants to know.
    """
    with torch.device("meta"):
        model = build_model(settings, Group.solo())
    return extract.feature_length(model, kind, height, width)


def extract_on_pool(
    model: Backbone,
    settings: EncoderSettings,
    images: Images,
    fanout: FanOut,
    *,
    kind: Kind = "unit",
    flip: bool = False,
) -> Tensor:
    """Return what `raid.extract.extract` returns, bit for bit on CPUs: the blocks are the same.

    Args:
        model: whose weights are sent, once for all blocks.
        settings: that it was built with.
        images: N decoded images.
        fanout: the pool.
        kind: of the features.
        flip: see `raid.extract.extract`.

    Raises:
        ValueError: `flip` of maps.

    Memory: N * D numbers (see `feature_length`), and the blocks that come back out of their order; a process
    of the pool holds one block.
    """
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    job = fanout.share(PoolExtraction(settings, weights, uuid.uuid4().hex, images, kind, flip))
    blocks = row_blocks(len(images), block_size(settings.numerics.extract_batch))
    length = extract.feature_length(model, kind, images.height, images.width)
    rows = torch.empty((len(images), length), dtype=settings.dtype)
    return filled(rows, fanout.map(_extract, blocks, job))


_loaded: dict[str, Backbone] = {}  # by the latest weights that this process has seen


def loaded_network(
    settings: EncoderSettings, weights: dict[str, Tensor], version: str, device: torch.device
) -> Backbone:
    """Return the network for evaluation, which this process keeps until it is asked for another version."""
    if version not in _loaded:
        # Of the weights' dtype before they are loaded, or they would lose digits.
        model = build_model(settings, Group.solo()).to(device=device, dtype=settings.dtype)
        model.load_state_dict(weights)
        _loaded.clear()
        _loaded[version] = for_evaluation(model)
    return _loaded[version]


def _extract(block: Block, job: PoolExtraction) -> NDArray[np.floating]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = extract_block(
        loaded_network(job.settings, job.weights, job.version, device),
        job.images,
        block,
        job.settings.augmentation,
        device,
        job.settings.dtype,
        kind=job.kind,
        flip=job.flip,
    )
    result: NDArray[np.floating] = features.numpy()
    return result
