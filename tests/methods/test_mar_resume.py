"""A run of MAR that is killed anywhere and resumed ends as one that was left alone.

Resumed on another number of workers: tests/methods/test_mar_invariance.py.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_network
import tiny
from comparing import assert_same_bits, timeless, weights
from dying import Killed, kill_at, lives
from mar_steps import configured

from raid.distributed import checkpoint
from raid.errors import InputError
from raid.methods import launch
from raid.methods.mar import adaptation as mar_adaptation
from raid.methods.mar import pretraining as mar_pretraining
from raid.methods.mar import recipe as mar
from raid.methods.mar import start as mar_start
from raid.methods.mar.config import MarConfig
from raid.run_folder import RunFolder

STAGES, STEPS = (1, 2), 2  # epochs of either stage, steps of an epoch
SAVES = sum(STAGES) * (STEPS + 1)  # after every step and every epoch
FILES = ("steps.jsonl", "mining.jsonl", "multilabels.npz", "pretrained.pt", "model.pt")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def made(sets: Path, folder: Path, every: int = 1, **overrides: Any) -> MarConfig:
    given = {
        "pretraining__epochs": STAGES[0], "pretraining__steps": STEPS, "training__epochs": STAGES[1],
        "training__steps": STEPS, "multilabel__scale": "auto", "run__checkpoint_steps": every,
        # Every step is a pass over the target: multilabels are averaged over several visits.
        "training__target": 24, "model__ghost_size": 8,
    }  # fmt: skip
    return configured(sets, folder, **{**given, **overrides})


def trained(config: MarConfig, resume: bool) -> RunFolder:
    return mar.run(config, resume=resume)


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nobody disturbs."""
    return mar.run(made(sets, tmp_path_factory.mktemp("mar_resume") / "whole"))


def assert_equal_runs(ours: RunFolder, whole: RunFolder) -> None:
    assert timeless(ours) == timeless(whole)
    assert len(ours.steps()) == sum(STAGES) * STEPS
    for name in ("steps.jsonl", "mining.jsonl", "multilabels.npz"):
        assert (ours.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    for name in ("pretrained.pt", "model.pt"):
        assert_same_bits(weights(ours.path / name), weights(whole.path / name))


def test_killed_after_every_step_and_every_epoch(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run")
    assert lives(partial(trained, config), monkeypatch, 1, after=True) == SAVES + 1
    assert_equal_runs(RunFolder(config.run.folder), whole)


def test_killed_before_every_checkpoint(sets, whole, tmp_path, monkeypatch):
    # Each life writes one checkpoint and dies before the second: every step and every record is made twice.
    config = made(sets, tmp_path / "run")
    assert lives(partial(trained, config), monkeypatch, 2, after=False) == SAVES
    assert_equal_runs(RunFolder(config.run.folder), whole)


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        (mar_pretraining, "write_model", False),
        (mar_pretraining, "write_model", True),
        (mar_adaptation, "start_following", False),
        (mar_start, "agreement_quantile", True),
        (mar_adaptation, "record_multilabels", False),
        (mar, "write_model", False),
        (launch, "write_report", False),
    ],
)
def test_killed_between_the_stages_and_at_the_end(sets, whole, tmp_path, monkeypatch, module, name, after):
    config = made(sets, tmp_path / "run", every=0)
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, 1, after=after)
        with pytest.raises(Killed):
            mar.run(config)
    done = RunFolder(config.run.folder)
    pretrained = STAGES[0] if module in (mar_pretraining, mar_start) or name == "start_following" else 3
    assert [epoch["epoch"] for epoch in done.metrics()] == list(range(pretrained))
    assert (done.path / "pretrained.pt").exists() == (module is not mar_pretraining or after)
    assert_equal_runs(mar.run(config, resume=True), whole)


def test_killed_at_the_end_of_the_first_epoch_without_any_checkpoint(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run", every=0)
    with monkeypatch.context() as patch:
        kill_at(patch, checkpoint, "save", 1, after=False)
        with pytest.raises(Killed):
            mar.run(config)
    assert len(RunFolder(tmp_path / "run").metrics()) == 1
    assert_equal_runs(mar.run(config, resume=True), whole)


def test_a_finished_run_resumes_to_itself(sets, whole):
    before = {path.name: path.read_bytes() for path in whole.path.iterdir() if path.name in FILES}
    assert set(before) == set(FILES)
    again = mar.run(made(sets, whole.path), resume=True)
    assert {name: (again.path / name).read_bytes() for name in FILES} == before


def test_fresh_starts_over(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run")
    with monkeypatch.context() as patch:
        kill_at(patch, checkpoint, "save", SAVES - 1, after=True)
        with pytest.raises(Killed):
            mar.run(config)
    assert_equal_runs(mar.run(config, fresh=True), whole)


def test_a_start_from_another_run_s_stage_1_is_gone_on_with(sets, whole, tmp_path, monkeypatch):
    pretrained = {"pretraining__checkpoint": str(whole.path / "pretrained.pt")}
    config = made(sets, tmp_path / "run", **pretrained)
    assert lives(partial(trained, config), monkeypatch, 1, after=True) == STAGES[1] * (STEPS + 1) + 1
    assert_same_bits(weights(config.run.folder / "model.pt"), weights(whole.model))


def test_another_configuration_is_refused(sets, whole):
    config = made(sets, whole.path, losses__beta=0.3)
    with pytest.raises(InputError, match=r"losses\.beta was 0\.2, is 0\.3"):
        mar.run(config, resume=True)


@pytest.mark.parametrize(("path", "write"), [("source", tiny.write_source), ("data", tiny.write_images)])
def test_other_images_are_refused(sets, whole, tmp_path, path, write):
    other = write(tmp_path / "other", num_identities=12)
    config = made(sets, whole.path, **{f"{path}__root": str(other)})
    with pytest.raises(InputError, match=rf"^{path}\.root: the images differ from those that .*whole was"):
        mar.run(config, resume=True)


def test_another_pretrained_checkpoint_is_refused(sets, whole, tmp_path):
    one = {"pretraining__checkpoint": str(whole.path / "pretrained.pt")}
    run = mar.run(made(sets, tmp_path / "run", training__epochs=1, **one))
    other = {"pretraining__checkpoint": str(whole.model)}  # the same agents, further on
    for start in (other, {}):
        config = made(sets, run.path, training__epochs=1, **start)
        with pytest.raises(InputError, match=r"^pretraining\.checkpoint: is not the file that .*was made"):
            mar.run(config, resume=True)
