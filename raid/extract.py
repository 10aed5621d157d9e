"""Features of images: a model in evaluation mode over fixed blocks, shared by the workers."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from raid.data.augment import Augmentation, normalize
from raid.data.images import Images
from raid.distributed.group import Group
from raid.models.backbone import Backbone
from raid.ops.neighbors import Block, row_blocks


def extract(
    model: Backbone,
    images: Images,
    *,
    group: Group,
    batch_size: int,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the features of all `images`, on the CPU of every worker: (N, D), unit rows, `dtype`.

    The images are cut into blocks of `batch_size`, whatever the number of workers, and a worker takes
    whole blocks: so a row's bits do not depend on who computed it.

    Args:
        model: images (B, 3, H, W) -> unit features (B, D); its mode is put back afterwards.
        images: decoded, uint8.
        group: the workers; all of them call this.
        batch_size: images of a block.
        augmentation: gives the normalisation's mean and deviation.
        device: of the model.
        dtype: of the model.
    """
    features = [torch.zeros((0, model.num_features), dtype=dtype)]  # a worker may have none
    blocks = row_blocks(len(images), batch_size)
    mine = blocks[group.slice(len(blocks))]
    bar = tqdm(mine, "features", unit="block", delay=2, leave=False, disable=None if group.is_first else True)
    for block in bar:
        features.append(extract_block(model, images, block, augmentation, device, dtype))
    return group.gather_rows(torch.cat(features))


@torch.no_grad()
def extract_block(
    model: Backbone,
    images: Images,
    block: Block,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return the features of the images start..stop-1 of `block`, on the CPU; the model's mode stays."""
    was_training = model.training
    model.eval()
    try:
        batch = images.gather(np.arange(*block)).to(device)
        features: Tensor = model(normalize(batch, augmentation, dtype=dtype)).cpu()
        return features
    finally:
        model.train(was_training)
