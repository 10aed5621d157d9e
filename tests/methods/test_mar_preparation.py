"""Stage 1 of MAR by itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_network
from comparing import assert_same_bits, losses, timeless, weights
from dying import Killed, kill_at
from mar_steps import configured

from raid.config import flatten, load
from raid.distributed import checkpoint
from raid.distributed.backend import LocalBackend
from raid.errors import InputError
from raid.methods.launch import local_backend
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig
from raid.methods.mar.preparation import _of_stage_1, prepare_pretraining
from raid.run_folder import RunFolder

STAGE_1 = {"pretraining__epochs": 2}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that does stage 1 itself."""
    folder = tmp_path_factory.mktemp("mar_preparation") / "whole"
    return mar.run(configured(sets, folder, multilabel__scale="auto", **STAGE_1))


def prepared(config: MarConfig, folder: Path) -> Path:
    return prepare_pretraining(config, local_backend(config), folder)


def unstarted(*arguments: Any) -> None:
    raise AssertionError("workers are started")


def test_stage_1_by_itself_serves_every_run_that_differs_behind_it(sets, whole, tmp_path, monkeypatch):
    config = configured(sets, tmp_path / "run", multilabel__scale="auto", **STAGE_1)
    file = prepared(config, tmp_path / "stage_1")
    assert file == tmp_path / "stage_1" / "pretrained.pt"
    assert not config.run.folder.exists()
    assert_same_bits(weights(file), weights(whole.path / "pretrained.pt"))
    assert timeless(RunFolder(tmp_path / "stage_1")) == timeless(whole)[:2]
    given = {"pretraining__checkpoint": str(file), "multilabel__scale": "auto"}
    ours = mar.run(configured(sets, tmp_path / "run", **given, **STAGE_1))
    assert losses(ours.path).tolist() == losses(whole.path)[2 * 3 :].tolist()
    assert_same_bits(weights(ours.model), weights(whole.model))

    monkeypatch.setattr(LocalBackend, "run_workers", unstarted)
    others = (
        {"preset": "paper", "losses__lambda1": 1e-3, "multilabel__momentum": 0.2, "mining__ratio": 0.1},
        {"training__source": 6, "training__target": 6, "model__ghost_size": 12, "training__epochs": 5},
        {"optimizer__learning_rate": 1e-4, "pretraining__checkpoint": "nowhere.pt", "evaluate__every": 0},
    )
    for chosen in others:
        config = configured(sets, tmp_path / "other", **STAGE_1, **chosen)
        assert prepared(config, tmp_path / "stage_1") == file
    with pytest.raises(InputError, match=r"pretraining\.epochs was 2, is 1"):
        prepared(configured(sets, tmp_path / "run"), tmp_path / "stage_1")
    with pytest.raises(InputError, match=r"seed was 1, is 2"):
        prepared(configured(sets, tmp_path / "run", seed=2, **STAGE_1), tmp_path / "stage_1")


def test_stage_1_by_itself_is_gone_on_with(sets, whole, tmp_path, monkeypatch):
    config = configured(sets, tmp_path / "run", run__checkpoint_steps=1, **STAGE_1)
    with monkeypatch.context() as patch:
        kill_at(patch, checkpoint, "save", 5, after=True)
        with pytest.raises(Killed):
            prepared(config, tmp_path / "stage_1")
    assert len(RunFolder(tmp_path / "stage_1").metrics()) == 1
    file = prepared(config, tmp_path / "stage_1")
    assert_same_bits(weights(file), weights(whole.path / "pretrained.pt"))


def test_stage_1_by_itself_is_checked_as_a_run_is(sets, tmp_path):
    config = configured(sets, tmp_path / "run", pretraining__batch_size=28)
    with pytest.raises(InputError, match=r"^pretraining\.batch_size: a batch of 28 images"):
        prepared(config, tmp_path / "stage_1")
    assert not (tmp_path / "stage_1").exists()


def test_the_configuration_of_stage_1_can_be_read_again(sets, tmp_path):
    chosen = {"model__ghost_size": 8, "pretraining__ghost_size": 2, "run__workers": 2}
    given = configured(sets, tmp_path / "run", preset="paper", training__source=24, **chosen)
    config = _of_stage_1(given)
    assert load(MarConfig, overrides=flatten(config)) == config
    assert config.pretraining == given.pretraining
    assert (config.model.ghost_size, config.training.epochs) == (2, 0)


def test_a_run_that_has_ended_starts_no_workers(sets, whole, monkeypatch):
    monkeypatch.setattr(LocalBackend, "run_workers", unstarted)
    before = whole.model.read_bytes()
    config = configured(sets, whole.path, multilabel__scale="auto", **STAGE_1)
    assert mar.run(config, resume=True).model.read_bytes() == before
