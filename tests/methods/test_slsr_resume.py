"""A run of SLSR that is killed anywhere and resumed ends as one that was left alone.

Resumed on another number of workers: tests/methods/test_slsr_invariance.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_network
import tiny
import torch
from comparing import assert_same_bits, timeless
from dying import Killed, kill_at, lives
from slsr_workers import made_images, trained

from raid.distributed import checkpoint
from raid.distributed.backend import LocalBackend
from raid.errors import InputError
from raid.methods import launch
from raid.methods.slsr import gan_training, generated_set, generation, making
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.dcgan_state import Dcgan
from raid.run_folder import RunFolder

STAGES, STEPS = (1, 2, 2), 2  # epochs of baseline, GANs and fine-tuning; steps of an epoch
SAVES = (STAGES[0] + STAGES[2]) * (STEPS + 1)  # after every step and every epoch
BASELINE, GANS, ALL = (list(range(sum(STAGES[:number]))) for number in (1, 2, 3))  # epochs on record


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def made(sets: Path, folder: Path, every: int = 1, **overrides: Any) -> SlsrConfig:
    given = {
        "baseline__steps": STEPS, "finetuning__steps": STEPS, "gan__learning_rate": 0.2,
        "generated__split": "proportional", "run__checkpoint_steps": every,
        # A rate that every step changes: a stage is the same wherever in its run it is.
        "finetuning__schedule": "inv", "finetuning__inv_gamma": 0.5,
    }  # fmt: skip
    return tiny.slsr_config(sets / "target", folder, **{**given, **overrides})


def begin(config: SlsrConfig, resume: bool) -> RunFolder:
    return slsr.run(config, resume=resume)


@pytest.fixture(scope="module")
def whole(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run that nobody disturbs."""
    return slsr.run(made(sets, tmp_path_factory.mktemp("slsr_resume") / "whole"))


def assert_equal_runs(ours: RunFolder, whole: RunFolder) -> None:
    assert timeless(ours) == timeless(whole)
    assert [epoch["epoch"] for epoch in ours.metrics()] == ALL
    assert ["train/loss_generated" in epoch for epoch in ours.metrics()] == [False] * 3 + [True] * 2
    assert len(ours.steps()) == (STAGES[0] + STAGES[2]) * STEPS
    assert made_images(ours.path) == made_images(whole.path)
    for name in ("steps.jsonl", "evaluation.npz"):
        assert (ours.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    for name in ("baseline.pt", "model.pt"):
        assert_same_bits(trained(ours.path / name), trained(whole.path / name))


def killed(config: SlsrConfig, monkeypatch: pytest.MonkeyPatch, *where: Any, after: bool) -> RunFolder:
    """Begin a run that ends at a call: `where` is what the function is looked up in, its name, which call."""
    with monkeypatch.context() as patch:
        kill_at(patch, *where, after=after)
        with pytest.raises(Killed):
            slsr.run(config)
    return RunFolder(config.run.folder)


def test_killed_after_every_step_and_every_epoch(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run")
    assert lives(partial(begin, config), monkeypatch, 1, after=True) == SAVES + 1
    assert_equal_runs(RunFolder(config.run.folder), whole)


def test_killed_before_every_checkpoint(sets, whole, tmp_path, monkeypatch):
    # Each life writes one checkpoint and dies before the second: every step and every record is made twice.
    config = made(sets, tmp_path / "run")
    assert lives(partial(begin, config), monkeypatch, 2, after=False) == SAVES
    assert_equal_runs(RunFolder(config.run.folder), whole)


# What is looked up where, which call of it, whether it is done, the epochs that are on record then, and which
# files there are of baseline.pt, clusters.npz, generators, generated.npy, generated.json and model.pt.
PLACES: list[tuple[Any, str, int, bool, list[int], str]] = [
    (slsr, "_write_model", 1, False, BASELINE, ""),
    (slsr, "_write_model", 1, True, BASELINE, "b"),
    (making, "cluster_images", 1, True, BASELINE, "b"),
    (making, "train_gans", 1, False, BASELINE, "bc"),
    (gan_training, "write_grid", 2, False, BASELINE, "bc"),
    (gan_training, "write_tensors", 2, False, BASELINE, "bc"),
    (gan_training, "_write_lines", 2, False, BASELINE, "bc"),
    (gan_training, "_finish", 1, False, BASELINE, "bc"),
    (Dcgan, "write", 1, False, BASELINE, "bc"),
    (Dcgan, "write", 1, True, BASELINE, "bcg"),
    (gan_training, "_record", 3, True, BASELINE, "bcg"),
    (making, "generate_images", 1, False, BASELINE, "bcgg"),
    (generation, "measured", 1, False, BASELINE, "bcggn"),
    (making, "_record", 1, False, BASELINE, "bcggnj"),
    (RunFolder, "record_epoch", 2, True, GANS[:2], "bcggnj"),
    (RunFolder, "record_epoch", 3, True, GANS, "bcggnj"),
    (slsr, "_finetune", 1, False, GANS, "bcggnj"),
    (checkpoint, "save", 2, False, ALL[:4], "bcggnj"),
    (slsr, "_write_model", 2, False, ALL, "bcggnj"),
    (launch, "write_report", 1, False, ALL, "bcggnjm"),
]


def there(folder: RunFolder) -> str:
    """Return a letter for every artefact that a run has left."""
    names = ["baseline.pt", "clusters.npz", "gans/*/generator.pt", "generated.npy", "generated.json"]
    names.append("model.pt")
    letters = zip("bcgnjm", names, strict=True)
    return "".join(letter for letter, name in letters for _ in folder.path.glob(name))


@pytest.mark.parametrize(("place", "name", "call", "after", "recorded", "left"), PLACES)
def test_killed_between_the_stages_and_in_them(
    sets, whole, tmp_path, monkeypatch, place, name, call, after, recorded, left
):
    config = made(sets, tmp_path / "run", every=0)
    done = killed(config, monkeypatch, place, name, call, after=after)
    assert [epoch["epoch"] for epoch in done.metrics()] == recorded
    assert there(done) == left
    assert_equal_runs(slsr.run(config, resume=True), whole)


def stamps(folder: RunFolder) -> dict[str, tuple[int, int]]:
    """Return which files there are of stages 1 to 4, and which writing of them."""
    files = [folder.baseline, folder.clusters, folder.generated, folder.generated_facts]
    files += folder.gans.rglob("*.*")
    status = {str(file.relative_to(folder.path)): file.stat() for file in files}
    return {name: (of.st_ino, of.st_mtime_ns) for name, of in status.items()}


def test_a_stage_that_is_done_is_not_done_again(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run")
    before = stamps(killed(config, monkeypatch, checkpoint, "save", SAVES - 1, after=True))
    assert stamps(slsr.run(config, resume=True)) == before


def test_a_gan_goes_on_where_it_was_interrupted(sets, whole, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run")
    killed(config, monkeypatch, gan_training, "_record", 3, after=True)
    epochs = []
    train = gan_training._train_epoch

    def counted(networks: Dcgan, real: Any, cluster: int, epoch: int, job: Any) -> dict[str, float]:
        epochs.append(epoch)
        return train(networks, real, cluster, epoch, job)

    monkeypatch.setattr(gan_training, "_train_epoch", counted)
    assert_equal_runs(slsr.run(config, resume=True), whole)
    assert epochs == [1]  # the second epoch of the second cluster


def test_gans_of_a_parent_that_were_killed_after_every_epoch(sets, tmp_path, monkeypatch):
    chosen = {"gan__parent": "all_images", "finetuning__epochs": 1, "evaluate__every": 0}
    whole = slsr.run(made(sets, tmp_path / "whole", **chosen))
    config = made(sets, tmp_path / "run", **chosen)
    for life in range(2 * 3):
        with monkeypatch.context() as patch:
            kill_at(patch, gan_training, "_record", 1, after=True)
            with pytest.raises(Killed):
                slsr.run(config, resume=life > 0)
    ours = slsr.run(config, resume=True)
    assert made_images(ours.path) == made_images(whole.path)
    assert timeless(ours) == timeless(whole)
    assert_same_bits(trained(ours.model), trained(whole.model))


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a run but its checkpoints, its status and its page, which say since when."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "checkpoints"]
    files = [path for path in files if path.suffix != ".html" and path.name != "status.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_finished_run_resumes_to_itself(sets, whole, monkeypatch):
    monkeypatch.setattr(LocalBackend, "pool", None)  # that of the images, which are there
    before = contents(whole.path)
    assert {"model.pt", "metrics.jsonl", "gans/cluster_00/generator.pt", "evaluation.npz"} < set(before)
    again = slsr.run(made(sets, whole.path), resume=True)
    after = contents(again.path)
    assert {name for name in after if after[name] != before.get(name)} == {"attempt"}
    assert set(after) == set(before)


def test_fresh_starts_over(sets, whole, tmp_path, monkeypatch):
    # Whatever is left of a run of another seed would show.
    other = made(sets, tmp_path / "run", seed=2)
    killed(other, monkeypatch, checkpoint, "save", SAVES - 1, after=True)
    assert_equal_runs(slsr.run(made(sets, tmp_path / "run"), fresh=True), whole)


@pytest.mark.parametrize("start", ["weights", "baseline"])
def test_a_start_from_another_run_s_stages_is_gone_on_with(sets, whole, tmp_path, monkeypatch, start):
    chosen = {"finetuning__start": start, "baseline__checkpoint": str(whole.baseline)}
    config = made(sets, tmp_path / "run", generated__folder=str(whole.path), **chosen)
    lived = lives(partial(begin, config), monkeypatch, 1, after=True)
    assert lived == STAGES[2] * (STEPS + 1) + 1
    ours = RunFolder(config.run.folder)
    assert [epoch["epoch"] for epoch in ours.metrics()] == list(range(STAGES[2]))
    assert ["clusters/silhouette" in epoch for epoch in ours.metrics()] == [True, False]
    assert made_images(ours.path) == made_images(whole.path)
    if start == "baseline":
        assert_same_bits(trained(ours.baseline), trained(whole.baseline))
        reference = slsr.run(made(sets, tmp_path / "alone", **chosen, generated__folder=str(whole.path)))
        assert_same_bits(trained(ours.model), trained(reference.model))
    else:
        assert not ours.baseline.exists()  # nothing comes of it
        assert_same_bits(trained(ours.model), trained(whole.model))


def test_the_fine_tuning_starts_where_the_baseline_has_ended(sets, whole, tmp_path):
    still = {"finetuning__learning_rate": 1e-12, "finetuning__head_learning_rate": 1e-12}
    chosen = {"finetuning__start": "baseline", "generated__folder": str(whole.path), "finetuning__epochs": 1}
    ours = slsr.run(made(sets, tmp_path / "run", **chosen, **still))
    learned, start = trained(ours.model), trained(ours.baseline)
    for name in [name for name in start if "running" not in name]:
        torch.testing.assert_close(learned[name], start[name], rtol=0, atol=1e-9)
    assert not learned["head.block.norm.running_mean"].equal(start["head.block.norm.running_mean"])


@pytest.mark.parametrize("call", [1, 5, -3, -2, -1])
def test_killed_while_it_takes_over_another_run_s_images(sets, whole, tmp_path, monkeypatch, call):
    """Every file is a call of `_linked`; from the end: clusters.npz, generated.npy, generated.json."""
    files = len([path for path in whole.gans.rglob("*") if path.is_file()]) + 3
    config = made(sets, tmp_path / "run", generated__folder=str(whole.path))
    call = call if call > 0 else files + 1 + call
    done = killed(config, monkeypatch, generated_set, "_linked", call, after=False)
    assert not done.generated_facts.exists()
    ours = slsr.run(config, resume=True)
    assert made_images(ours.path) == made_images(whole.path)
    assert_same_bits(trained(ours.model), trained(whole.model))


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_ends_with_stage_1_is_gone_on_with(sets, whole, tmp_path, monkeypatch, after):
    config = made(sets, tmp_path / "run", finetuning__epochs=0)
    killed(config, monkeypatch, slsr, "_write_model", 1, after=after)
    ours = slsr.run(config, resume=True)
    assert there(ours) == "bm"
    assert ours.model.read_bytes() == ours.baseline.read_bytes()
    assert_same_bits(trained(ours.model), trained(whole.baseline))


def test_a_run_without_generated_images_is_gone_on_with(sets, tmp_path, monkeypatch):
    config = made(sets, tmp_path / "run", generated__label="none", finetuning__start="baseline")
    assert lives(partial(begin, config), monkeypatch, 1, after=True) == SAVES + 1
    ours = RunFolder(config.run.folder)
    assert there(ours) == "bm"
    whole = slsr.run(made(sets, tmp_path / "w", generated__label="none", finetuning__start="baseline"))
    assert timeless(ours) == timeless(whole)
    assert_same_bits(trained(ours.model), trained(whole.model))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"generated__label": "uniform"}, r"generated\.label was 'sparse', is 'uniform'"),
        ({"finetuning__head_learning_rate": 0.1}, r"finetuning\.head_learning_rate was 0\.05, is 0\.1"),
        ({"gan__epochs": 3}, r"gan\.epochs was 2, is 3"),
        ({"clusters__num_clusters": 3}, r"clusters\.num_clusters was 2, is 3"),
        ({"baseline__label_smoothing": 0.1}, r"baseline\.label_smoothing was 0\.0, is 0\.1"),
    ],
)
def test_another_configuration_is_refused(sets, whole, chosen, message):
    with pytest.raises(InputError, match=message):
        slsr.run(made(sets, whole.path, **chosen), resume=True)


def test_other_images_are_refused(sets, whole, tmp_path):
    (tmp_path / "other").mkdir()
    tiny.write_images(tmp_path / "other" / "target", num_identities=12)
    with pytest.raises(InputError, match=r"^data\.root: the images differ from those that .*whole was"):
        slsr.run(made(tmp_path / "other", whole.path), resume=True)


@pytest.fixture(scope="module")
def another(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of another seed on the same images."""
    return slsr.run(made(sets, tmp_path_factory.mktemp("slsr_other") / "another", seed=2))


def _write_clusters(folder: RunFolder) -> None:
    with np.load(folder.clusters) as content:
        arrays = dict(content)
    clusters = arrays["clusters"]
    one, other = (np.flatnonzero(clusters == cluster)[0] for cluster in (0, 1))
    clusters[[one, other]] = 1, 0  # as large as before
    np.savez(folder.clusters, **arrays)


def _write_facts(folder: RunFolder) -> None:
    folder.generated_facts.write_text(folder.generated_facts.read_text() + "\n")


def _write_pixels(folder: RunFolder) -> None:
    pixels = np.load(folder.generated)
    pixels[0, 0, 0, 0] ^= 1
    np.save(folder.generated, pixels)


@pytest.mark.parametrize("write", [_write_clusters, _write_facts, _write_pixels])
def test_images_that_have_changed_are_refused(sets, another, tmp_path, write: Callable[[RunFolder], None]):
    chosen = {"generated__folder": str(tmp_path / "other"), "finetuning__epochs": 1}
    other = RunFolder(tmp_path / "other")
    generated_set.take_over(another.path, _made(other))
    for file in (other.clusters, other.generated_facts, other.generated):  # its own, to be written to
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    run = slsr.run(made(sets, tmp_path / "run", **chosen))
    slsr.run(made(sets, run.path, **chosen), resume=True)
    write(other)
    with pytest.raises(
        InputError, match=r"^generated\.folder: the images differ from those that .*run was made with"
    ):
        slsr.run(made(sets, run.path, **chosen), resume=True)


def _made(folder: RunFolder) -> RunFolder:
    folder.path.mkdir()
    return folder


def test_another_run_s_stages_are_refused(sets, whole, another, tmp_path):
    def of(other: RunFolder | None = whole, images: RunFolder | None = whole) -> SlsrConfig:
        found = {
            "baseline__checkpoint": other and other.baseline,
            "generated__folder": images and images.path,
        }
        given = {name: str(path) for name, path in found.items() if path}
        return made(sets, tmp_path / "run", finetuning__epochs=1, finetuning__start="baseline", **given)

    slsr.run(of())
    for others, path in (
        (of(another), "baseline.checkpoint"),
        (of(None), "baseline.checkpoint"),
        (of(whole, another), "generated.folder"),
        (of(whole, None), "generated.folder"),
    ):
        with pytest.raises(InputError, match=rf"^{path}: .* that .*run was made with"):
            slsr.run(others, resume=True)


def test_gans_of_the_same_images_depend_on_the_run_s_seed(sets, tmp_path, monkeypatch):
    generators = []
    for seed in (1, 2):
        config = made(sets, tmp_path / str(seed), seed=seed, clusters__num_clusters=1, gan__epochs=1)
        run = killed(config, monkeypatch, making, "generate_images", 1, after=False)
        generators.append((run.gans / "cluster_00" / "epochs.jsonl").read_text())
    assert generators[0] != generators[1]


def test_seeds_are_told_apart(whole, another):
    # What the tests above compare does depend on what it is made from.
    ours, theirs = made_images(whole.path), made_images(another.path)
    for name in ("generated.npy", "gans/cluster_00/generator.pt", "gans/cluster_00/epochs.jsonl"):
        assert ours[name] != theirs[name]
    weights = [trained(run.model)["head.classifier.weight"] for run in (whole, another)]
    assert not torch.equal(*weights)
