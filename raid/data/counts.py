"""The published numbers of each set (methods.md section 1), compared with what was read.

A difference is a warning and no error: some numbers were never published by a set's makers, and copies
differ. It names both numbers, so that half a download, or another version, is seen before it is trained on.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raid.data.image_files import Root
from raid.data.samples import Samples

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass(frozen=True)
class Split:
    """Numbers of one split; None: not published."""

    identities: int
    images: int | None


@dataclass(frozen=True)
class Counts:
    """Numbers of one set.

    Attributes:
        of: its name in a warning.
        splits: by split.
        cameras: of all splits.
        train_images: of camera 0, 1, ...; empty: not published.
        train_identities: seen by camera 0, 1, ... in training.
        distractors: gallery images of identity 0; None: identity 0 is a person.
        junk: gallery images of identity -1.
        images: of all splits; None: those of the splits say it.
    """

    of: str
    splits: dict[str, Split]
    cameras: int
    train_images: tuple[int, ...] = ()
    train_identities: tuple[int, ...] = ()
    distractors: int | None = None
    junk: int = 0
    images: int | None = None


MARKET1501 = Counts(
    of="Market-1501",
    splits={"train": Split(751, 12_936), "query": Split(750, 3_368), "gallery": Split(750, 19_732)},
    cameras=6,
    train_images=(2017, 1709, 2707, 920, 2338, 3245),
    train_identities=(652, 541, 694, 241, 576, 558),
    distractors=2_798,
    junk=3_819,
)
DUKEMTMC = Counts(
    of="DukeMTMC-reID",
    # The gallery: 702 people and 408 whom no query looks for.
    splits={"train": Split(702, 16_522), "query": Split(702, 2_228), "gallery": Split(1_110, 17_661)},
    cameras=8,
    train_images=(2809, 3009, 1088, 1395, 1685, 3700, 1330, 1506),
    train_identities=(404, 378, 201, 165, 218, 348, 217, 265),
)
MSMT17 = Counts(
    of="MSMT17",
    splits={"train": Split(1_041, 32_621), "query": Split(3_060, 11_659), "gallery": Split(3_060, 82_161)},
    cameras=15,
    train_images=(4910, 203, 454, 1614, 4296, 1678, 3453, 795, 1396, 655, 3154, 1364, 3635, 3876, 1138),
    train_identities=(669, 14, 81, 173, 679, 207, 670, 137, 154, 58, 389, 308, 379, 649, 254),
)
MSMT17_WITHOUT_VALIDATION = replace(
    MSMT17, splits={**MSMT17.splits, "train": Split(1_041, 30_248)}, train_images=(), train_identities=()
)
CUHK03_NEW = {
    "detected": Counts(
        of="CUHK03 (new protocol, detected)",
        splits={"train": Split(767, 7_365), "query": Split(700, 1_400), "gallery": Split(700, 5_332)},
        cameras=2,
    ),
    "labelled": Counts(
        of="CUHK03 (new protocol, labelled)",
        splits={"train": Split(767, 7_368), "query": Split(700, 1_400), "gallery": Split(700, 5_328)},
        cameras=2,
    ),
}
# Of any of the 20 splits. The images of a split are known of the first alone, for detected boxes.
CUHK03_CLASSIC = {
    "detected": Counts(
        of="CUHK03 (detected)",
        splits={"train": Split(1_367, None), "gallery": Split(100, None)},
        cameras=2,
        images=14_097,
    ),
    "labelled": Counts(
        of="CUHK03 (labelled)",
        splits={"train": Split(1_367, None), "gallery": Split(100, None)},
        cameras=2,
        images=14_096,  # as the new protocol, which has all
    ),
}
CUHK03_CLASSIC_FIRST = replace(
    CUHK03_CLASSIC["detected"],
    of="CUHK03 (split 0, detected)",
    splits={"train": Split(1_367, 13_113), "gallery": Split(100, 984)},
)
VIPER = Counts(
    of="VIPeR",
    splits={"train": Split(316, 632), "query": Split(316, 316), "gallery": Split(316, 316)},
    cameras=2,
)


def warn_of_differences(samples: Samples, published: Counts) -> None:
    """Log a warning for each number of `samples` that is not the published one."""
    for what, found, expected in _compared(samples, published):
        warn_unless_equal(samples.root, published.of, what, found, expected)


def warn_unless_equal(root: Root, of: str, what: str, found: int | str, published: int | str) -> None:
    """Log a warning that names both numbers, if they differ."""
    if found != published:
        logger.warning(
            "%s: %s: %s, but %s were published for %s; check that the set is whole and of that version",
            root, what, found, published, of,
        )  # fmt: skip


def _compared(samples: Samples, published: Counts) -> Iterator[tuple[str, int | str, int | str]]:
    """Yield (what, found, published) of every number that was published."""
    identities, cameras = samples.identities, samples.cameras
    split_of = np.array(samples.table["split"].to_pylist(), dtype=str)
    people = identities > 0 if published.distractors is not None else identities >= 0
    for split, expected in published.splits.items():
        rows = split_of == split
        if expected.images is not None:
            yield f"{split} images", int(rows.sum()), expected.images
        yield f"{split} identities", len(np.unique(identities[rows & people])), expected.identities
    if published.images is not None:
        yield "images", len(samples), published.images
    if published.distractors is not None:
        gallery = identities[split_of == "gallery"]
        yield "distractors in the gallery", int((gallery == 0).sum()), published.distractors
        yield "junk images in the gallery", int((gallery == -1).sum()), published.junk
    yield "cameras", len(np.unique(cameras)), published.cameras
    train = split_of == "train"
    for what, expected_numbers, found in (
        ("training images", published.train_images, _images(cameras[train])),
        ("training identities", published.train_identities, _people(cameras[train], identities[train])),
    ):
        yield from _by_camera(what, expected_numbers, found)


def _images(cameras: NDArray[np.int64]) -> list[int]:
    return np.bincount(cameras).tolist()  # type: ignore[no-any-return]


def _people(cameras: NDArray[np.int64], identities: NDArray[np.int64]) -> list[int]:
    return np.bincount(np.unique(np.stack([cameras, identities]), axis=1)[0]).tolist()  # type: ignore[no-any-return]


def _by_camera(what: str, expected: tuple[int, ...], found: list[int]) -> Iterator[tuple[str, str, str]]:
    """Yield the cameras that differ as one difference; cameras beyond the published ones do not count."""
    found = [*found, *[0] * len(expected)]
    wrong = [camera for camera, number in enumerate(expected) if number != found[camera]]
    if not wrong:
        return
    shown = ", ".join(str(camera + 1) for camera in wrong[:_SHOWN])
    if len(wrong) > _SHOWN:
        shown += f" and {len(wrong) - _SHOWN} more"
    yield f"{what} of camera {shown}", _at(found, wrong), _at(expected, wrong)


def _at(numbers: Sequence[int], cameras: list[int]) -> str:
    return ", ".join(str(numbers[camera]) for camera in cameras[:_SHOWN])
