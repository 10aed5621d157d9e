"""The table of published numbers against sets of these very numbers: rows alone, no files."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raid.data import counts
from raid.data.counts import Counts
from raid.data.samples import Samples

SETS = [
    counts.MARKET1501,
    counts.DUKEMTMC,
    counts.MSMT17,
    counts.MSMT17_WITHOUT_VALIDATION,
    *counts.CUHK03_NEW.values(),
    counts.CUHK03_CLASSIC_FIRST,
    counts.VIPER,
]
Columns = tuple[Sequence[int], Sequence[int], Sequence[str]]  # identities, cameras, splits


def whole_set(published: Counts) -> Columns:
    """Rows of a set that has every published number."""
    identities: list[int] = []
    cameras: list[int] = []
    splits: list[str] = []
    for split, expected in published.splits.items():
        images = expected.images
        assert images is not None
        if split == "gallery" and published.distractors is not None:
            identities += [0] * published.distractors + [-1] * published.junk
            images -= published.distractors + published.junk
        if split == "train" and published.train_images:
            people, seen_by = train_people(published)
            identities += people
            cameras += seen_by
        else:
            identities += [1 + number % expected.identities for number in range(images)]
        splits += [split] * (len(identities) - len(splits))
        cameras += [number % published.cameras for number in range(len(splits) - len(cameras))]
    return identities, cameras, splits


def train_people(published: Counts) -> tuple[list[int], list[int]]:
    """Each camera sees the next of its number of people, round and round, so that all are seen."""
    everybody = itertools.cycle(range(1, published.splits["train"].identities + 1))
    identities: list[int] = []
    cameras: list[int] = []
    for camera, (images, people) in enumerate(
        zip(published.train_images, published.train_identities, strict=True)
    ):
        seen = list(itertools.islice(everybody, people))
        identities += itertools.islice(itertools.cycle(seen), images)
        cameras += [camera] * images
    return identities, cameras


def samples_of(identities: Sequence[int], cameras: Sequence[int], splits: Sequence[str]) -> Samples:
    columns = {"identity": pa.array(identities), "camera": pa.array(cameras), "split": pa.array(splits)}
    return Samples(Path("set"), pa.table(columns), "set")


def warnings(samples: Samples, published: Counts, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        counts.warn_of_differences(samples, published)
    return (message.removeprefix("set: ").partition(" were published")[0] for message in caplog.messages)


@pytest.mark.parametrize("published", SETS, ids=lambda published: published.of)
def test_the_published_numbers_agree_with_each_other(
    published: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    columns = whole_set(published)
    assert len(columns[0]) == sum(split.images or 0 for split in published.splits.values())
    assert not list(warnings(samples_of(*columns), published, caplog))


def test_the_sums_that_the_specification_gives() -> None:
    def images(of: Counts, *splits: str) -> int:
        return sum(of.splits[split].images or 0 for split in splits or of.splits)

    market = counts.MARKET1501
    assert images(market) == 36_036
    assert images(market, "gallery") == 13_115 + 2_798 + 3_819
    assert images(counts.DUKEMTMC) == 36_411
    assert images(counts.MSMT17, "train") == 30_248 + 2_373
    assert images(counts.MSMT17_WITHOUT_VALIDATION, "train") == 30_248
    for of in (market, counts.DUKEMTMC, counts.MSMT17):
        assert sum(of.train_images) == images(of, "train")
        assert len(of.train_images) == len(of.train_identities) == of.cameras
    for boxes, new in counts.CUHK03_NEW.items():
        assert images(new) == counts.CUHK03_CLASSIC[boxes].images
        assert sum(new.splits[split].identities for split in ("train", "gallery")) == 1_467
    assert images(counts.CUHK03_CLASSIC_FIRST) == counts.CUHK03_CLASSIC["detected"].images


def test_one_image_that_is_missing_shows(caplog: pytest.LogCaptureFixture) -> None:
    whole = samples_of(*whole_set(counts.MARKET1501))
    third = np.flatnonzero((whole.cameras == 2) & (np.array(whole.table["split"]) == "train"))
    less = whole.take(np.delete(np.arange(len(whole)), third[-1]))
    assert list(warnings(less, counts.MARKET1501, caplog)) == [
        "train images: 12935, but 12936",
        "training images of camera 3: 2706, but 2707",
    ]
    assert "for Market-1501; check that the set is whole" in caplog.text


def test_junk_and_distractors_are_no_people(caplog: pytest.LogCaptureFixture) -> None:
    identities, cameras, splits = whole_set(counts.MARKET1501)
    junk = [0 if identity == -1 else identity for identity in identities]
    said = list(warnings(samples_of(junk, cameras, splits), counts.MARKET1501, caplog))
    assert said == [
        "distractors in the gallery: 6617, but 2798",
        "junk images in the gallery: 0, but 3819",
    ]
