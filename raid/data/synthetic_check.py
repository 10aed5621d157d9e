"""What the rendered images are worth, in three figures.

Real pictures of people are hard to match by colour alone, look to an untrained network first of all like
their camera, and can nonetheless be learnt. `check` measures the three on a rendered set. The network is
torchvision's own, not this project's: a fault in the latter must not pass for one of the pictures.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from raid.data import market1501
from raid.data.augment import Augmentation, augment, draw, normalize
from raid.data.image_files import read_image
from raid.data.pixels import decode
from raid.data.streams import stream
from raid.data.synthetic import nearest_others
from raid.errors import InputError
from raid.ops.ranking import rank

_HUES, _SATURATIONS, _VALUES, _GREYS = 16, 2, 2, 4
_LEAST_SATURATION = 64
_TEMPERATURE = 0.07
_PEAK_RATE = 3e-3
_BATCH = 48
_AUGMENTATION = Augmentation(pad=4)
# Standard deviation of the logarithm of the factors by which training images differ in colour.
_COLOUR_JITTER = 0.1


@dataclass(frozen=True)
class SyntheticCheck:
    """The three figures of a rendered set.

    Attributes:
        histogram_mAP: mAP of colour histograms, query against gallery.
        untrained_same_camera: share of the training images whose nearest neighbour, in the features of an
            untrained ResNet-18, is of the same camera.
        supervised_mAP: mAP of a ResNet-18 trained from random weights on the training identities.
    """

    histogram_mAP: float
    untrained_same_camera: float
    supervised_mAP: float


@dataclass(frozen=True, eq=False)
class Pictures:
    """The decoded images of one split.

    Attributes:
        images: (N, 3, H, W) uint8.
        identities: (N,) int64, -1 = junk.
        cameras: (N,) int64.
    """

    images: Tensor
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splits:
    """A decoded set."""

    train: Pictures
    query: Pictures
    gallery: Pictures


def check(root: Path, *, epochs: int = 6) -> SyntheticCheck:
    """Measure the three figures of the set in `root` (minutes, nearly all of it training).

    Args:
        root: a folder in Market-1501's layout.
        epochs: of the supervised training.

    Raises:
        InputError: the set cannot be read, or is too small to train on.
    """
    splits = read(root)
    if len(splits.train.images) < _BATCH:
        raise InputError(
            f"{root}: {len(splits.train.images)} training images are too few to learn from; "
            f"render at least {_BATCH}"
        )
    return SyntheticCheck(
        histogram_mAP(splits), untrained_same_camera(splits.train), supervised_mAP(splits, epochs=epochs)
    )


def read(root: Path, *, height: int = 64, width: int = 32) -> Splits:
    """Decode the set in `root` to images of `height` x `width`."""
    samples = market1501.load(root)

    def pictures(name: str) -> Pictures:
        chosen = samples.split(name)
        files = (read_image(chosen.root, path) for path in chosen.paths)
        images = np.stack([decode(file, height, width) for file in files])
        return Pictures(torch.from_numpy(images), chosen.identities, chosen.cameras)

    return Splits(pictures("train"), pictures("query"), pictures("gallery"))


def hsv_histogram(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colour histogram of each image.

    Coloured pixels are counted by hue, saturation and value; grey ones, whose hue means nothing, by value.

    Args:
        images: (N, 3, H, W) uint8, RGB.

    Returns:
        (N, D) float32 unit rows: the roots of the shares, so that a dot product is their Bhattacharyya
        coefficient.
    """
    num_bins = _GREYS + _HUES * _SATURATIONS * _VALUES
    rows = np.empty((len(images), num_bins), dtype=np.float32)
    for row, image in zip(rows, images, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).convert("HSV")
        row[:] = np.bincount(_colour_bins(np.asarray(picture, dtype=np.int64)), minlength=num_bins)
    roots: NDArray[np.float32] = np.sqrt(rows / rows.sum(1, keepdims=True))
    return roots


def _colour_bins(picture: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin of each pixel of `picture` (H, W, 3), HSV in 0..255: (H * W,)."""
    hue, saturation, value = picture.reshape(-1, 3).T
    colourful = (saturation - _LEAST_SATURATION).clip(0) * _SATURATIONS // (256 - _LEAST_SATURATION)
    coloured = ((hue * _HUES // 256) * _SATURATIONS + colourful) * _VALUES + value * _VALUES // 256
    return np.where(saturation < _LEAST_SATURATION, value * _GREYS // 256, _GREYS + coloured)


def histogram_mAP(splits: Splits) -> float:
    """Return the mAP of colour histograms."""
    return _mean_average_precision(
        splits, hsv_histogram(splits.query.images.numpy()), hsv_histogram(splits.gallery.images.numpy())
    )


def untrained_same_camera(pictures: Pictures, *, seed: int = 0) -> float:
    """Return the share of 1-nearest neighbours of the same camera for an untrained ResNet-18."""
    return same_camera_share(extract(resnet18(seed), pictures.images), pictures.cameras)


def same_camera_share(features: NDArray[np.float32], cameras: NDArray[np.int64]) -> float:
    """Return the share of rows of `features` (N, D) whose nearest other row is of the same camera."""
    return float((cameras[nearest_others(features)] == cameras).mean())


def supervised_mAP(splits: Splits, *, epochs: int = 6, seed: int = 0) -> float:
    """Train a ResNet-18 from random weights on the training identities; return its mAP on the others."""
    network = train(splits.train, epochs=epochs, seed=seed)
    return _mean_average_precision(
        splits, extract(network, splits.query.images), extract(network, splits.gallery.images)
    )


def resnet18(seed: int) -> nn.Module:
    """Build a randomly initialised ResNet-18 with last stride 1: images (B, 3, H, W) to (B, 512)."""
    from torchvision.models import resnet  # here: it takes a second, and few commands build a network

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs' as well
        network: Any = resnet.resnet18(weights=None)
    block = network.layer4[0]
    for strided in (block.conv1, block.downsample[0]):
        strided.stride = (1, 1)
    # The neck of the usual baseline; untrained, it changes nothing.
    network.fc = nn.BatchNorm1d(network.fc.in_features)
    untrained: nn.Module = network
    return untrained


@torch.no_grad()
def extract(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Return the unit features (N, D) of `images` (N, 3, H, W) uint8."""
    network.eval()
    blocks = [network(normalize(block, _AUGMENTATION)) for block in images.split(64)]
    features: NDArray[np.float32] = functional.normalize(torch.cat(blocks)).numpy()
    return features


def train(pictures: Pictures, *, epochs: int, seed: int = 0) -> nn.Module:
    """Train a ResNet-18 with a cosine softmax over the identities of `pictures`."""
    _, numbers = np.unique(pictures.identities, return_inverse=True)
    labels = torch.from_numpy(numbers)
    network = resnet18(seed)
    start = stream(seed, 0).normal(size=(int(labels.max()) + 1, 512)).astype(np.float32)
    proxies = nn.Parameter(torch.from_numpy(start) * 0.05)
    optimizer = torch.optim.AdamW([*network.parameters(), proxies], weight_decay=5e-3)
    num_steps = epochs * (len(labels) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _PEAK_RATE, total_steps=num_steps, pct_start=0.25
    )
    network.train()
    for rows, generator in _batches(len(labels), epochs, seed):
        features = functional.normalize(network(_distort(pictures.images[rows], generator)))
        logits = features @ functional.normalize(proxies).T / _TEMPERATURE
        loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def _batches(count: int, epochs: int, seed: int) -> Iterator[tuple[NDArray[np.int64], np.random.Generator]]:
    """Yield the rows of each batch and the generator of its augmentation; what is left over is dropped."""
    for epoch in range(epochs):
        generator = stream(seed, 1, epoch)
        order = generator.permutation(count)
        for start in range(0, count - _BATCH + 1, _BATCH):
            yield order[start : start + _BATCH], generator


def _distort(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Flip, shift, erase and change the colours of `images` (B, 3, H, W) uint8; normalised float32."""
    count, _, height, width = images.shape
    noise = generator.normal(size=(count, 5, 1, 1)).astype(np.float32) * _COLOUR_JITTER
    gains = np.exp(noise[:, :3] + noise[:, 3:4])
    gamma = np.exp(noise[:, 4:])
    coloured = (images.float() / 255 * torch.from_numpy(gains)).clamp(1e-3, 1) ** torch.from_numpy(gamma)
    draws = draw(_AUGMENTATION, count, height, width, generator)
    return augment((255 * coloured).to(torch.uint8), draws, _AUGMENTATION)


def _mean_average_precision(
    splits: Splits, query_features: NDArray[np.float32], gallery_features: NDArray[np.float32]
) -> float:
    query, gallery = splits.query, splits.gallery
    ranking = rank(
        query_features, query.identities, query.cameras,
        gallery_features, gallery.identities, gallery.cameras,
    )  # fmt: skip
    return ranking.mAP


def main() -> None:
    """Print the three figures of a folder."""
    parser = argparse.ArgumentParser(description="Measure how realistic a rendered set is.")
    parser.add_argument("root", type=Path, help="folder in Market-1501's layout")
    print(check(parser.parse_args().root))


if __name__ == "__main__":
    main()
