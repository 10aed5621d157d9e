"""Features of images: a model in evaluation mode over fixed blocks, shared by the workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from tqdm import tqdm

from raid.data.ahead import Ahead
from raid.data.augment import Augmentation, normalize
from raid.data.fetched import Fetched
from raid.data.images import Images
from raid.distributed.group import Group
from raid.models.backbone import Backbone
from raid.models.inference import for_evaluation
from raid.ops.neighbors import Block, row_blocks

# Unit rows; the pooled features of any length; the last convolution's maps, flattened: C * h * w numbers.
Kind = Literal["unit", "pooled", "map"]
BatchSize = int | Literal["auto"]
USUAL_BATCH, _DOUBLED = 128, 5  # images of a block where it is not given, and the sizes that are tried
_FILLED = 0.8  # of a GPU's memory, at most
_IN_CACHE = 16  # images that a CPU takes through the network at once: what they become stays in its cache


def extract(
    model: Backbone,
    images: Images,
    *,
    group: Group,
    batch_size: BatchSize,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    kind: Kind = "unit",
    flip: bool = False,
) -> Tensor:
    """Return the features of all `images`, on the CPU of every worker: (N, D), `dtype`.

    The images are cut into blocks of `batch_size`, whatever the number of workers, and a worker takes
    whole blocks: so a row's bits do not depend on who computed it. A block is gathered, sent and normalised
    while the one before is in the network, and its features come back while the next is.

    Args:
        model: images (B, 3, H, W) -> features; it is left as it is.
        images: decoded, uint8.
        group: the workers; all of them call this.
        batch_size: images of a block; auto: see `fitting_batch`.
        augmentation: gives the normalisation's mean and deviation.
        device: of the model.
        dtype: of the model.
        kind: of the features.
        flip: the pooled features of an image and of its mirror image are added, before the sum is made a
            unit row.

    Raises:
        ValueError: `flip` of maps.

    Memory: N * D numbers, two blocks' images and what the network makes of one; each of several workers about
    twice as many numbers, while they are gathered.
    """
    check_kind(kind, flip)
    if batch_size == "auto":
        batch_size = fitting_batch(model, images.height, images.width, group, device, dtype)
    network = for_evaluation(model)
    blocks = row_blocks(len(images), batch_size)
    mine = blocks[group.slice(len(blocks))]
    bar = tqdm(mine, "features", unit="block", delay=2, leave=False, disable=None if group.is_first else True)
    length = feature_length(model, kind, images.height, images.width)
    ahead = Ahead(
        lambda _, number: _normalised(images, mine[number], augmentation, device, dtype), len(mine), device
    )
    on_device = (_features(network, ahead.take(0, number), kind, flip) for number, _ in enumerate(bar))
    parts = _arrived(on_device)
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
    network: Backbone,
    images: Images,
    block: Block,
    augmentation: Augmentation,
    device: torch.device,
    dtype: torch.dtype,
    *,
    kind: Kind = "unit",
    flip: bool = False,
) -> Tensor:
    """Return the features of the images start..stop-1 of `block`, on the CPU, by `for_evaluation`'s network.

    The rest is as in `extract`.
    """
    check_kind(kind, flip)
    return _features(network, _normalised(images, block, augmentation, device, dtype), kind, flip).cpu()


def check_kind(kind: Kind, flip: bool) -> None:
    """Look at what is to be extracted.

    Raises:
        ValueError: `flip` of maps.
    """
    if flip and kind == "map":
        raise ValueError("the map of a mirror image is mirrored too: it is not added to that of the image")


def _normalised(
    images: Images, block: Block, augmentation: Augmentation, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the images of a block as the network wants them, on the device."""
    pixels = images.gather(np.arange(*block))
    if device.type == "cuda":  # nobody waits for their way
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    batch = normalize(pixels, augmentation, dtype=dtype)
    return batch.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _features(network: Backbone, batch: Tensor, kind: Kind, flip: bool) -> Tensor:
    """Return the features of normalised images, on the device."""
    if batch.device.type == "cpu" and len(batch) > _IN_CACHE:
        return torch.cat([_features(network, part, kind, flip) for part in batch.split(_IN_CACHE)])
    if kind == "map":
        return network.maps(batch).flatten(1)
    features = network.pooled(batch)
    if flip:
        # A forward of its own: a batch of twice the height would have other bits, and twice the memory.
        features = features + network.pooled(batch.flip(-1))
    return functional.normalize(features) if kind == "unit" else features


def _arrived(parts: Iterable[Tensor]) -> Iterator[NDArray[np.floating]]:
    """Yield the parts on the host, each when the next has been queued."""
    waiting: Fetched | None = None
    for part in parts:
        before, waiting = waiting, Fetched(part)
        if before is not None:
            yield before.arrays()[0]
    if waiting is not None:
        yield waiting.arrays()[0]


def fitting_batch(
    model: Backbone, height: int, width: int, group: Group, device: torch.device, dtype: torch.dtype
) -> int:
    """Return how many images a block had best have: 128 on a CPU, on a GPU the most that fit, up to 2048.

    It is found by trying, beside what is in the memory now, of which a fifth stays free: optimisers and
    gradients may come later. Of several workers' numbers the least counts.

    Args:
        model: on the device; it is left as it is.
        height: of the images, as is the width.
        width: in pixels.
        group: the workers; all of them call this.
        device: of the network.
        dtype: of the images.
    """
    if device.type != "cuda":
        return USUAL_BATCH

    network = for_evaluation(model)

    total = torch.cuda.get_device_properties(device).total_memory

    @torch.no_grad()
    def run(size: int) -> None:
        torch.cuda.reset_peak_memory_stats(device)
        shape = (size, 3, height, width)
        network.pooled(torch.zeros(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last))
        torch.cuda.synchronize(device)
        if torch.cuda.max_memory_allocated(device) > _FILLED * total:
            raise torch.OutOfMemoryError("too little is left")

    found = largest_that_fits(run, [USUAL_BATCH * 2**doubled for doubled in range(_DOUBLED)])
    torch.cuda.empty_cache()
    return int(group.gather_rows(torch.tensor([found]), equal=True).min())


def block_size(chosen: BatchSize) -> int:
    """Return how many images a block has where no memory is tried."""
    return USUAL_BATCH if chosen == "auto" else chosen


def largest_that_fits(run: Callable[[int], object], sizes: Sequence[int]) -> int:
    """Return the last of the rising `sizes` that `run` has memory for; the first is not doubted."""
    found = sizes[0]
    for size in sizes[1:]:
        try:
            run(size)
        except torch.OutOfMemoryError:
            break
        found = size
    return found


@contextmanager
def _evaluation_mode(model: Backbone) -> Iterator[None]:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        try:
            yield
        finally:
            model.train(was_training)
