"""The pretrained weights that a run of MAR starts from: read whole, or refused with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_network
import torch
from comparing import assert_same_bits
from mar_steps import configured, pretrained, worker_of

from raid.errors import InputError
from raid.methods.mar.inputs import open_mar_inputs
from raid.methods.mar.job import write_model
from raid.methods.mar.weights import Weights, starting_weights


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.fixture
def written(sets: Path, tmp_path: Path) -> tuple[Path, Weights]:
    """A pretrained.pt, and what is in it."""
    worker = worker_of(configured(sets, tmp_path))
    weights = pretrained(worker)
    write_model(worker, weights, "pretrained.pt")
    return tmp_path / "pretrained.pt", weights


def read(sets: Path, file: Path, **overrides: Any) -> Weights:
    config = configured(sets, pretraining__checkpoint=str(file), **overrides)
    return starting_weights(config, open_mar_inputs(config).source)


def changed(file: Path, **values: Any) -> Path:
    """Write the file with some of its content changed beside it."""
    content = {**torch.load(file, weights_only=True), **values}
    torch.save(content, file.with_name("changed.pt"))
    return file.with_name("changed.pt")


def test_what_was_written_is_read(sets, written):
    file, weights = written
    found = read(sets, file)
    assert_same_bits(found.model, weights.model)
    assert torch.equal(found.agents, weights.agents)
    assert found.scale == 12.5


def test_the_home_folder_is_known(sets, written, monkeypatch):
    file, weights = written
    monkeypatch.setenv("HOME", str(file.parent))
    assert torch.equal(read(sets, Path("~/pretrained.pt")).agents, weights.agents)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "icsr"}, "is not a pretrained.pt that `raid mar` wrote"),
        ({"source": "others"}, "pretrained on other images than those of section source and auxiliary"),
        ({"model": {"other": torch.zeros(1)}}, "does not fit resnet10 as section model has it: .*Missing"),
        (
            {"agents": torch.full((6, 16), torch.nan)},
            "its weights are not finite",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(sets, written, values, message):
    with pytest.raises(InputError, match=rf"^pretraining\.checkpoint: .*changed\.pt:? .*{message}") as raised:
        read(sets, changed(written[0], **values))
    assert "\n" not in str(raised.value)


def test_files_that_are_none_are_refused(sets, written, tmp_path):
    with pytest.raises(InputError, match=r"^pretraining\.checkpoint: .*none\.pt: there is no such file"):
        read(sets, tmp_path / "none.pt")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(written[0].read_bytes()[:500])
    with pytest.raises(InputError, match=r"^pretraining\.checkpoint: .*damaged\.pt: not a file of tensors"):
        read(sets, damaged)


def test_agents_of_other_people_are_refused(sets, written):
    file, _ = written
    pattern = r"(?P<split>train)/0(?P<identity>10[0-3])_c(?P<camera>\d+)_"
    with pytest.raises(InputError, match="its agents are other people"):
        read(sets, file, source__pattern=pattern)


def test_a_scale_that_is_to_be_its_own_must_be_there(sets, written):
    file = changed(written[0], scale=float("nan"))
    assert read(sets, file).agents.shape == (6, 16)
    with pytest.raises(InputError, match=r"^multilabel\.scale: auto, and .* says none; give a number"):
        read(sets, file, multilabel__scale="auto")
