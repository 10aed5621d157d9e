"""The first stages of SLSR by themselves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_network
import tiny
from comparing import assert_same_bits, timeless
from dying import Killed, kill_at
from slsr_workers import made_images, trained

from raid.config import config_hash, flatten, load
from raid.distributed.backend import LocalBackend
from raid.errors import InputError
from raid.methods.launch import local_backend
from raid.methods.slsr import gan_training, making
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.preparation import _of_images, prepare_baseline, prepare_images
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def made(sets: Path, folder: Path, **overrides: Any) -> SlsrConfig:
    return tiny.slsr_config(sets / "target", folder, **overrides)


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that does all stages itself."""
    return slsr.run(made(sets, tmp_path_factory.mktemp("slsr_preparation") / "whole"))


@pytest.fixture(scope="module")
def baseline(sets: Path, whole: RunFolder) -> Path:
    config = made(sets, whole.path)
    return prepare_baseline(config, local_backend(config), whole.path.parent / "baseline")


@pytest.fixture(scope="module")
def images(sets: Path, whole: RunFolder, baseline: Path) -> Path:
    """Made with the baseline that was made before."""
    config = made(sets, whole.path, baseline__checkpoint=str(baseline))
    return prepare_images(config, local_backend(config), whole.path.parent / "images")


def undone(*arguments: Any, **keywords: Any) -> None:
    raise AssertionError("something is made anew")


def test_what_is_made_by_itself_is_what_a_run_makes(whole, baseline, images):
    assert baseline == whole.path.parent / "baseline" / "baseline.pt"
    assert_same_bits(trained(baseline), trained(whole.baseline))
    assert timeless(RunFolder(baseline.parent)) == timeless(whole)[:1]
    assert images == whole.path.parent / "images"
    assert made_images(images) == made_images(whole.path)
    epochs = timeless(RunFolder(images))
    assert epochs == [{**epoch, "epoch": epoch["epoch"] - 1} for epoch in timeless(whole)[1:3]]
    assert 0 < epochs[0]["clusters/silhouette"] < 1  # what a sweep over their number looks at
    for folder in (images, baseline.parent):
        load(SlsrConfig, RunFolder(folder).config)  # `raid report` reads it


@pytest.mark.parametrize("start", ["weights", "baseline"])
def test_a_run_that_takes_them_is_the_run_that_made_them(sets, whole, baseline, images, tmp_path, start):
    chosen = {"finetuning__start": start}
    reference = whole if start == "weights" else slsr.run(made(sets, tmp_path / "reference", **chosen))
    taken = {"baseline__checkpoint": str(baseline), "generated__folder": str(images)}
    ours = slsr.run(made(sets, tmp_path / "run", **chosen, **taken))
    losses = [step["loss"] for step in ours.steps()]
    assert losses == [step["loss"] for step in reference.steps() if step["epoch"] > 0]
    assert_same_bits(trained(ours.model), trained(reference.model))


def test_all_four_stages_at_once(sets, whole, tmp_path):
    config = made(sets, tmp_path / "run")
    folder = prepare_images(config, local_backend(config), tmp_path / "images")
    assert made_images(folder) == made_images(whole.path)
    assert timeless(RunFolder(folder)) == timeless(whole)[:3]
    assert_same_bits(trained(folder / "baseline.pt"), trained(whole.baseline))


OTHERS = (
    {"generated__label": "uniform", "finetuning__epochs": 5, "finetuning__batch_size": 8},
    {"generated__label": "none", "finetuning__start": "baseline", "generated__min_images": 2},
    {"generated__control": "permuted", "finetuning__label_smoothing": 0.1, "evaluate__flip": False},
    {"preset": "as_released", "generated__folder": "nowhere", "finetuning__epochs": 0},
)


@pytest.mark.parametrize("chosen", OTHERS, ids=str)
def test_one_folder_serves_every_run_that_differs_behind_it(
    sets, whole, baseline, images, monkeypatch, chosen
):
    for name in ("run_workers", "pool"):
        monkeypatch.setattr(LocalBackend, name, undone)
    before = {file: file.stat().st_mtime_ns for file in images.rglob("*.*")}
    config = made(sets, whole.path, **chosen)
    assert prepare_baseline(config, local_backend(config), baseline.parent) == baseline
    if chosen.get("finetuning__epochs") != 0:
        config = made(sets, whole.path, baseline__checkpoint=str(baseline), **chosen)
    else:  # nothing could be trained with a checkpoint: it is what the images are made from all the same
        config = with_checkpoint(config, baseline)
    assert prepare_images(config, local_backend(config), images) == images
    rewritten = {file.name for file, time in before.items() if file.stat().st_mtime_ns != time}
    assert rewritten == {"run.json", "config.yaml", "status.json"}
    assert len(RunFolder(images).metrics()) == 2


def with_checkpoint(config: SlsrConfig, baseline: Path) -> SlsrConfig:
    return replace(config, baseline=replace(config.baseline, checkpoint=baseline))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"clusters__num_clusters": 3}, r"clusters\.num_clusters was 2, is 3"),
        ({"generated__count": 10}, r"generated\.count was 12, is 10"),
        ({"generated__split": "proportional"}, r"generated\.split was 'equal', is 'proportional'"),
        ({"gan__epochs": 3}, r"gan\.epochs was 2, is 3"),
    ],
)
def test_other_images_want_another_folder(sets, baseline, images, chosen, message):
    config = made(sets, images, baseline__checkpoint=str(baseline), **chosen)
    with pytest.raises(InputError, match=message):
        prepare_images(config, local_backend(config), images)


def test_images_of_another_baseline_want_another_folder(sets, images, tmp_path):
    config = made(sets, tmp_path / "run")
    with pytest.raises(InputError, match=r"^baseline\.checkpoint: is not the file that .*images was made"):
        prepare_images(config, local_backend(config), images)
    config = made(sets, tmp_path / "run", baseline__steps=2)
    with pytest.raises(InputError, match=r"baseline\.steps was 3, is 2"):
        prepare_baseline(config, local_backend(config), images.parent / "baseline")


def test_a_network_of_the_baseline_s_own_is_its_network_whatever_the_other_is(sets, baseline, tmp_path):
    own = {"baseline__backbone": "resnet10", "baseline__weights": "none"}
    hashes = set()
    for backbone in ("resnet10", "resnet18", "resnet50"):
        config = made(sets, tmp_path / "run", model__backbone=backbone, **own)
        assert prepare_baseline(config, local_backend(config), baseline.parent) == baseline
        hashes.add(config_hash(_of_images(config)))
    assert hashes == {config_hash(_of_images(made(sets, tmp_path / "run")))}


def test_the_configuration_of_images_can_be_read_again(sets, tmp_path):
    chosen = {"model__ghost_size": 6, "baseline__batch_size": 24, "finetuning__batch_size": 12}
    config = _of_images(made(sets, tmp_path / "run", run__workers=2, **chosen))
    assert load(SlsrConfig, overrides=flatten(config)) == config


def test_images_are_gone_on_with_where_they_were_interrupted(sets, whole, tmp_path, monkeypatch):
    config, folder = made(sets, tmp_path / "run"), tmp_path / "images"
    for place, name, call in ((gan_training, "_record", 3), (making, "generate_images", 1)):
        with monkeypatch.context() as patch:
            kill_at(patch, place, name, call, after=False)
            with pytest.raises(Killed):
                prepare_images(config, local_backend(config), folder)
    assert not (folder / "generated.json").exists()
    monkeypatch.setattr(LocalBackend, "run_workers", undone)
    assert made_images(prepare_images(config, local_backend(config), folder)) == made_images(whole.path)
    assert timeless(RunFolder(folder)) == timeless(whole)[:3]


def test_they_are_checked_as_a_run_is(sets, tmp_path):
    config = made(sets, tmp_path / "run", clusters__num_clusters=46, generated__count=50)
    with pytest.raises(InputError, match=r"^clusters\.num_clusters: 46, and there are 45"):
        prepare_images(config, local_backend(config), tmp_path / "images")
    config = made(sets, tmp_path / "run", baseline__batch_size=48)
    with pytest.raises(InputError, match=r"^baseline\.batch_size: a batch of 48 images"):
        prepare_baseline(config, local_backend(config), tmp_path / "images")
    assert not (tmp_path / "images").exists()
