"""Sections that the methods share, where no method's own test shows what they do."""

import pytest
from config_fields import with_value

from raid.data.augment import Augmentation
from raid.data.statistics import Statistics
from raid.methods.icsr.config import IcsrConfig
from raid.methods.mar.config import MarConfig
from raid.methods.sections import crop_problems
from raid.methods.slsr.config import SlsrAugment, SlsrData

STATISTICS = Statistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_an_augmentation_is_drawn_with_what_its_section_says():
    section = SlsrAugment(
        flip=0.25, pad=3, erase_probability=0.75, erase_area=(0.1, 0.2), input_size=(20, 10),
        erase_fill=(0.7, 0.8, 0.9),
    )  # fmt: skip
    assert section.as_drawn(STATISTICS) == Augmentation(
        flip=0.25, pad=3, erase_probability=0.75, erase_area=(0.1, 0.2), input_size=(20, 10),
        erase_fill=(0.7, 0.8, 0.9), mean=STATISTICS.mean, std=STATISTICS.std,
    )  # fmt: skip


def test_the_methods_defaults_are_drawn_as_published():
    assert IcsrConfig().augment.as_drawn() == Augmentation()
    assert MarConfig().augment.as_drawn() == Augmentation(pad=7, erase_probability=0.0)
    slsr = SlsrAugment().as_drawn()
    assert (slsr.input_size, slsr.pad, slsr.erase_fill) == ((256, 128), 0, (0.4914, 0.4822, 0.4465))
    assert slsr.slack(288, 144) == (32, 16)


@pytest.mark.parametrize("method", [IcsrConfig, MarConfig])
def test_only_slsr_adds_mirror_images_without_being_asked(method):
    assert not method().evaluate.flip
    assert with_value(method(), "evaluate.flip", True).evaluate.flip


@pytest.mark.parametrize(
    ("size", "pad", "fits"),
    [
        ((288, 144), 0, True),
        (None, 0, True),
        ((289, 144), 0, False),
        ((288, 145), 0, False),
        ((290, 146), 1, True),
        ((290, 147), 1, False),
    ],
)
def test_a_crop_that_does_not_fit_the_images_is_named_by_path(size, pad, fits):
    found = list(crop_problems(SlsrAugment(input_size=size, pad=pad), SlsrData(root="images")))
    if fits:
        assert found == []
        return
    ((path, message),) = found
    assert path == "augment.input_size"
    assert message == (
        f"a crop of {size[0]} x {size[1]} is larger than images of data.height=288, data.width=144 "
        f"with augment.pad={pad}"
    )
