"""Features of images: a model in evaluation mode over fixed blocks, shared by the workers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from raid.data.augment import Augmentation, normalize
from raid.data.images import Images
from raid.distributed.group import Group
from raid.models.backbone import Backbone
from raid.ops.neighbors import Block, row_blocks

# Unit rows; the pooled features of any length; the last convolution's maps, flattened: C * h * w numbers.
Kind = Literal["unit", "pooled", "map"]


def extract(
    model: Backbone,
    images: Images,
    *,
    group: Group,
    batch_size: int,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kind: Kind = "unit",
    flip: bool = False,
) -> Tensor:
    """Return the features of all `images`, on the CPU of every worker: (N, D), `dtype`.

    The images are cut into blocks of `batch_size`, whatever the number of workers, and a worker takes
    whole blocks: so a row's bits do not depend on who computed it.

    Args:
        model: images (B, 3, H, W) -> features; its mode is put back afterwards.
        images: decoded, uint8.
        group: the workers; all of them call this.
        batch_size: images of a block.
        augmentation: gives the normalisation's mean and deviation.
        device: of the model.
        dtype: of the model.
        kind: of the features.
        flip: the pooled features of an image and of its mirror image are added, before the sum is made a
            unit row.

    Raises:
        ValueError: `flip` of maps.

    Memory: N * D numbers, and those of a block; each of several workers about twice as many, while they
    are gathered.
    """
    blocks = row_blocks(len(images), batch_size)
    mine = blocks[group.slice(len(blocks))]
    bar = tqdm(mine, "features", unit="block", delay=2, leave=False, disable=None if group.is_first else True)
    length = feature_length(model, kind, images.height, images.width)
    parts = (
        extract_block(model, images, block, augmentation, device, dtype, kind=kind, flip=flip).numpy()
        for block in bar
    )
    num_rows = sum(stop - start for start, stop in mine)
    return group.gather_rows(filled(torch.empty((num_rows, length), dtype=dtype), parts))


def feature_length(model: Backbone, kind: Kind, height: int, width: int) -> int:
    """Return D of an image of `height` x `width`; nothing is computed for it, shapes alone.

    A ResNet-50's map of 256 x 128 pixels with the last stride 2 has 65,536 numbers, 256 KiB in float32.
    """
    if kind != "map":
        return model.num_features
    dtype = next(model.parameters()).dtype
    weights = {key: value.to("meta") for key, value in model.body.state_dict().items()}
    with _evaluation_mode(model):
        shape = torch.empty((1, 3, height, width), device="meta", dtype=dtype)
        return int(functional_call(model.body, weights, shape).numel())


def filled(rows: Tensor, parts: Iterable[NDArray[np.floating]]) -> Tensor:
    """Return `rows` (N, D) with `parts` copied into them one after the other, so that few are held twice."""
    start, target = 0, rows.numpy()
    for part in parts:
        target[start : start + len(part)] = part
        start += len(part)
    assert start == len(rows), f"{start} rows were computed, {len(rows)} wanted"
    return rows


def extract_block(
    model: Backbone,
    images: Images,
    block: Block,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: Kind = "unit",
    flip: bool = False,
) -> Tensor:
    """Return the features of the images start..stop-1 of `block`, on the CPU; see `extract`."""
    if flip and kind == "map":
        raise ValueError("the map of a mirror image is mirrored too: it is not added to that of the image")
    with _evaluation_mode(model):
        batch = normalize(images.gather(np.arange(*block)).to(device), augmentation, dtype=dtype)
        if kind == "map":
            return model.maps(batch).flatten(1).cpu()
        features = model.pooled(batch)
        if flip:
            # A forward of its own: a batch of twice the height would have other bits, and twice the memory.
            features = features + model.pooled(batch.flip(-1))
        return (functional.normalize(features) if kind == "unit" else features).cpu()


@contextmanager
def _evaluation_mode(model: Backbone) -> Iterator[None]:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        try:
            yield
        finally:
            model.train(was_training)
