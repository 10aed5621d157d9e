"""The two sets of MAR: whose people are the reference persons, what is normalised how, what is refused."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pyarrow as pa
import pytest
import tiny
from mar_steps import configured
from PIL import Image

from raid.data.statistics import IMAGENET
from raid.errors import InputError
from raid.methods.mar.check import check
from raid.methods.mar.inputs import MarInputs, measured, open_mar_inputs

LISTS = {  # identities of the test half begin at 0 as well
    "train": ["0000/0000_000_01_a_0.jpg 0", "0000/0000_001_02_a_0.jpg 0", "0001/0001_000_01_a_0.jpg 1"],
    "val": ["0001/0001_001_02_a_0.jpg 1", "0002/0002_000_03_a_0.jpg 2"],
    "query": ["0000/0000_100_01_a_0.jpg 0", "0001/0001_100_01_a_0.jpg 1"],
    "gallery": ["0000/0000_101_02_a_0.jpg 0", "0001/0001_101_02_a_0.jpg 1", "0001/0001_102_03_a_0.jpg 1"],
}
MARKET = [
    *("bounding_box_train/0002_c1_0.jpg", "bounding_box_train/0007_c2_0.jpg"),
    *("query/0001_c1_0.jpg", "query/0005_c1_0.jpg"),
    *("bounding_box_test/0001_c2_0.jpg", "bounding_box_test/0005_c2_0.jpg"),
    *("bounding_box_test/0000_c2_0.jpg", "bounding_box_test/-1_c3_0.jpg"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mar_inputs")
    for part, lines in LISTS.items():
        folder = "train" if part in ("train", "val") else "test"
        layouts.draw(root / "MSMT17_V1" / folder, [line.split()[0] for line in lines])
        (root / "MSMT17_V1" / f"list_{part}.txt").write_text("\n".join(lines))
    layouts.draw(root / "market", MARKET)
    return root


@pytest.fixture(scope="module")
def inputs(sets: Path) -> MarInputs:
    return open_mar_inputs(configured(sets))


def from_source(sets: Path, root: Path, layout: str, **overrides: Any) -> MarInputs:
    folder = {"msmt17": root, "market1501": root / "market"}[layout]
    given = {"source__layout": layout, "source__pattern": None, "source__root": str(folder)}
    return open_mar_inputs(configured(sets, **given, **overrides))


@pytest.mark.parametrize(
    ("auxiliary", "images", "labels"),
    [
        ("train", ["train", "val"], [0, 0, 1, 1, 2]),
        ("msmt17_train", ["train"], [0, 0, 1]),
        # The test half's people come after the training half's three, of whom one is in list_val alone.
        ("all", ["query", "gallery", "train", "val"], [3, 3, 4, 4, 4, 0, 0, 1, 1, 2]),
        ("msmt17_all", ["query", "gallery", "train"], [2, 2, 3, 3, 3, 0, 0, 1]),
    ],
)
def test_reference_persons_of_msmt17(sets, root, caplog, auxiliary, images, labels):
    with caplog.at_level(logging.WARNING):
        source = from_source(sets, root, "msmt17", auxiliary=auxiliary).source
    names = {line.split()[0].rpartition("/")[2] for part in images for line in LISTS[part]}
    assert {path.rpartition("/")[2] for path in source.samples.paths} == names
    assert source.labels.tolist() == labels
    assert source.num_people == max(labels) + 1
    assert source.facts["version"] == "V1"
    warned = "a model of this run must not be evaluated on that set" in caplog.text
    assert warned == auxiliary.endswith("all")


def test_nobodys_pictures_of_market_are_no_reference_persons(sets, root):
    everybody = from_source(sets, root, "market1501", auxiliary="all").source
    assert everybody.samples.identities.tolist() == [1, 5, 2, 7, 1, 5]  # neither 0000 nor -1
    assert everybody.labels.tolist() == [0, 2, 1, 3, 0, 2]
    trained = from_source(sets, root, "market1501").source
    assert trained.samples.identities.tolist() == [2, 7]
    assert trained.labels.tolist() == [0, 1]


def test_pictures_and_labels_belong_together(sets, root):
    source = from_source(sets, root, "market1501", auxiliary="all").source
    for row, path in enumerate(source.samples.paths):
        with Image.open(source.samples.root / path) as file:
            small = file.convert("RGB").resize((tiny.WIDTH, tiny.HEIGHT), Image.Resampling.BICUBIC)
        found = source.images.gather(np.array([row]))[0].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - np.asarray(small)).mean() < 2, path


def test_msmt17_for_a_set_that_is_not_is_refused(sets):
    with pytest.raises(InputError, match=r"^auxiliary: msmt17_all is of MSMT17, and source\.layout is"):
        configured(sets, auxiliary="msmt17_all")


def test_repacked_msmt17_cannot_leave_list_val_out(sets, tmp_path):
    names = ["bounding_box_train/0000_c1_0.jpg", "query/0000_c1_0.jpg", "bounding_box_test/0000_c2_0.jpg"]
    layouts.draw(tmp_path / "MSMT17_V1", names)
    given = {"source__layout": "msmt17", "source__pattern": None, "source__root": str(tmp_path)}
    with pytest.raises(InputError, match=r"list_val's; set auxiliary=all, or use the set"):
        open_mar_inputs(configured(sets, auxiliary="msmt17_all", **given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": "nothing"}, r"nothing: .*set source\.root"),
        ({"pattern": r"(?P<identity>x\d+)"}, r"source\.pattern"),
        (
            {"pattern": r"(?P<split>train)/0(?P<identity>1)"},
            r"^source\.root: .*fewer than two whose identity",
        ),
        (
            {"pattern": r"(?P<split>train)/"},
            r"^source\.root: .* no image of a known person among",
        ),
    ],
)
def test_mistakes_in_the_source_set_name_its_own_section(sets, given, message):
    overrides = {f"source__{name}": value for name, value in given.items()}
    if "root" in given:
        overrides["source__root"] = str(sets / given["root"])
    with pytest.raises(InputError, match=message) as raised:
        open_mar_inputs(configured(sets, **overrides))
    assert "data." not in str(raised.value)


def test_mistakes_in_the_target_set_name_section_data(sets):
    with pytest.raises(InputError, match=r"set data\.root"):
        open_mar_inputs(configured(sets, data__root=str(sets / "nothing")))


def test_each_set_is_normalised_with_its_own_colours(sets, inputs):
    found = measured(configured(sets), inputs)
    for images, statistics in (
        (inputs.source.images, found.source),
        (inputs.target.train_images, found.target),
    ):
        pixels = images.gather(np.arange(len(images))).double() / 255
        assert statistics.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
        assert statistics.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())
    assert found.source.mean != pytest.approx(found.target.mean, abs=0.01)
    of_imagenet = measured(configured(sets, normalize="imagenet"), inputs)
    assert of_imagenet.source == of_imagenet.target == IMAGENET


def test_facts_of_both_sets_are_kept_apart(sets, root):
    inputs = from_source(sets, root, "market1501")
    assert inputs.facts["source_set"] == "Market-1501"
    assert inputs.facts["source_people"] == "2"
    assert "set" not in inputs.target.facts or inputs.facts["set"] == inputs.target.facts["set"]


def test_fingerprint_is_of_what_is_trained_on(sets, inputs):
    config = configured(sets)
    fewer = configured(sets, source__pattern=r"(?P<split>train)/0(?P<identity>10[0-3])_c(?P<camera>\d+)_")
    one, other = inputs.fingerprint(config), open_mar_inputs(fewer).fingerprint(fewer)
    assert one["data.root"] == other["data.root"]
    assert one["source.root"] != other["source.root"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pretraining__batch_size": 28}, "pretraining.batch_size: a batch of 28 images, and the set has 24"),
        ({"training__source": 28, "training__target": 28}, "training.source: a batch of 28 .* set has 24"),
        ({"training__source": 20, "training__target": 60}, "training.target: a batch of 60 .* set has 45"),
        ({"mining__start": 46}, "mining.start: 46 images are to be drawn, and the target has 45"),
    ],
)
def test_more_than_there_is_is_refused_by_name(sets, inputs, overrides, message):
    with pytest.raises(InputError, match=rf"^{message}"):
        check(configured(sets, **overrides), inputs)


def test_what_is_not_used_is_not_compared(sets, inputs):
    few = {"training__source": 28, "training__target": 28, "mining__start": 46}
    check(configured(sets, training__epochs=0, **few), inputs)
    feature = {"mining__guide": "feature"}
    for unused in ({"losses__mdl": False}, feature):
        check(configured(sets, mining__start=46, **unused), inputs)
    started = configured(sets, pretraining__batch_size=28, pretraining__checkpoint="pretrained.pt")
    check(started, inputs)


def with_cameras(inputs: MarInputs, cameras: list[int | None]) -> MarInputs:
    table = inputs.target.train.table
    column = table.schema.get_field_index("camera")
    changed = table.set_column(column, table.schema.field(column), [pa.array(cameras, pa.int64())])
    return replace(inputs, target=replace(inputs.target, train=replace(inputs.target.train, table=changed)))


def test_cameras_that_the_loss_needs_and_has_not(sets, inputs):
    config, number = configured(sets), len(inputs.target.train)
    off = configured(sets, losses__cml=False)
    nobody_knows = with_cameras(inputs, [None] * number)
    with pytest.raises(InputError, match=r"^losses\.cml: some target images have no camera, .*cml=false"):
        check(config, nobody_knows)
    each_its_own = with_cameras(inputs, list(range(number)))
    with pytest.raises(InputError, match=r"^losses\.cml: no camera has two target images"):
        check(config, each_its_own)
    for odd in (nobody_knows, each_its_own):
        check(off, odd)


def test_warnings(sets, inputs, caplog):
    with caplog.at_level(logging.WARNING):
        check(configured(sets, mining__ratio=0.5), inputs)
        assert caplog.text == ""
        check(configured(sets, mining__ratio=0.1), inputs)
        assert "mining.ratio: 0.1 of the 28 pairs of a batch are 2: hardly enough" in caplog.text
        same = replace(inputs, source=replace(inputs.source, samples=inputs.target.train))
        check(configured(sets), same)
        assert "source and data are the same images" in caplog.text
        check(configured(sets, model__batch_norm="local", run__workers=2), inputs)
        assert "model.batch_norm=local: the result depends on run.workers=2" in caplog.text
