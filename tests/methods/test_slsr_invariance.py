"""The result of SLSR does not depend on the number of workers (design.md section 3, invariance.md)."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slsr_workers
import small_network
import tiny
import torch
from comparing import assert_same_bits, assert_within, difference, differences, flat, losses, timeless
from slsr_workers import BASELINE_STEPS, STEPS, Run, WorkersAtHand, made_images, trained
from torch import Tensor

from raid.distributed.backend import LocalBackend
from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.methods.slsr import classification
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.generated_set import open_generated_set
from raid.methods.slsr.inputs import open_slsr_inputs
from raid.methods.slsr.job import SlsrJob
from raid.methods.slsr.weights import starting_weights
from raid.models.heads import Head
from raid.run_folder import RunFolder

SIZES = (1, 2, 4)
BATCH = 16
_OF_A_STAGE = {
    **{"losses": 1e-10, "gradient": 1e-10, "head gradient": 1e-10},
    **{"statistics": 1e-9, "head statistics": 1e-9, "parameters": 1e-9, "head": 1e-9},
    **{"real_loss": 1e-10, "generated_loss": 1e-10, "real_hits": 0, "generated_hits": 0},
}
TOLERANCE = {
    **_OF_A_STAGE,
    **{f"baseline {name}": value for name, value in _OF_A_STAGE.items() if "generated" not in name},
}
FLOAT32 = {"numerics__dtype": "float32"}
MODES: dict[str, dict[str, Any]] = {
    "ghost": {},
    "sync": {"model__batch_norm": "sync"},
    "from the baseline": {"finetuning__start": "baseline"},
    "sync from the baseline": {"model__batch_norm": "sync", "finetuning__start": "baseline"},
    "transition": {"model__noise_layer": "transition"},
    "no noise layer": {"model__noise_layer": "none", "finetuning__start": "baseline"},
    "micro-batches": {"numerics__micro_batch": 4},
    "batched float32": FLOAT32,
    "exact float32": {**FLOAT32, "numerics__reproducible": "exact"},
}
IN_FLOAT64 = [name for name in MODES if "float32" not in name and name != "micro-batches"]
RUN_MODES: dict[str, dict[str, Any]] = {
    "float64": {"finetuning__start": "baseline"},
    "exact float32": MODES["exact float32"],
}
# Runs that are killed on a number of workers, after so many of their saves, which are after every step and
# every epoch: in the baseline and in the fine-tuning; and on how many they are gone on with.
BEGUN = {1: [("baseline of 1", 1)], 2: [("fine-tuning of 2", 5)], 4: [("fine-tuning of 4", 7)]}
ENDED = {2: ["baseline of 1"], 4: ["fine-tuning of 2"]}
Found = dict[str, dict[str, Tensor]]


def made(sets: Path, folder: Path, **overrides: Any) -> SlsrConfig:
    given = {
        "baseline__steps": 2, "finetuning__steps": 2, "baseline__batch_size": BATCH,
        "finetuning__batch_size": BATCH, "augment__input_size": [28, 14], "gan__learning_rate": 0.2,
        "evaluate__every": 1,
    }  # fmt: skip
    return tiny.slsr_config(sets / "target", folder, **{**given, **overrides})


def job_of(config: SlsrConfig, generated: Path) -> SlsrJob:
    """Return what the recipe gives the workers of its fine-tuning; the baseline starts from the same."""
    inputs = open_slsr_inputs(config)
    return SlsrJob(
        config,
        inputs,
        starting_weights(config.encoder()),
        open_generated_set(generated, config, inputs),
        RunFolder(config.run.folder),
        before={},
        started=time.time(),
    )


@pytest.fixture(scope="module")
def out(sets: Path, tmp_path_factory: pytest.TempPathFactory, quick_starts: None) -> Iterator[Path]:
    """Train in every mode on 1, 2 and 4 workers, with the faults on 2; one start of the workers each.

    The network is a small one: that a ResNet's own sums do not depend on the workers is known of ICSR.
    """
    out = tmp_path_factory.mktemp("slsr_invariance")
    with small_network.in_use():
        _train(sets, out)
        yield out


def _train(sets: Path, out: Path) -> None:
    for mode, chosen in RUN_MODES.items():  # the first of them makes the images of the steps, too
        whole = Run(made(sets, out / f"{mode} 1", **chosen))
        slsr_workers.whole_run(WorkersAtHand(Group.solo()), whole)
    modes = {name: job_of(made(sets, out, **chosen), out / "float64 1") for name, chosen in MODES.items()}

    def run(mode: str, size: int) -> Run:
        return Run(made(sets, out / f"{mode} {size}", run__workers=size, **RUN_MODES[mode]))

    def interrupted(name: str, killed_after: int = 0) -> Run:
        """Its images are those of another run: the saves of its two trainings are what is looked at."""
        chosen = RUN_MODES["float64"] | {"generated__folder": str(out / "float64 1")}
        return Run(made(sets, out / name, run__checkpoint_steps=1, **chosen), killed_after)

    for size in SIZES:
        runs = [] if size == 1 else [run(mode, size) for mode in RUN_MODES]
        runs += [interrupted(*begun) for begun in BEGUN.get(size, [])]
        runs += [interrupted(name) for name in ENDED.get(size, [])]
        job = slsr_workers.Job(modes, size == 2, runs, out)
        LocalBackend(workers=size, threads=1, on_gpu=False).run_workers(slsr_workers.work, job)
    slsr_workers.whole_run(WorkersAtHand(Group.solo()), interrupted("fine-tuning of 4"))


def found(out: Path, rank: int, size: int) -> Found:
    return torch.load(out / f"worker_{rank}_of_{size}.pt", weights_only=True)


def of(reference: dict[str, Tensor]) -> dict[str, float]:
    """Return the tolerances of what there is: some heads have no statistics."""
    return {name: value for name, value in TOLERANCE.items() if name in reference}


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", IN_FLOAT64)
def test_float64_training_is_the_same_on_any_number_of_workers(out, mode, size):
    reference = found(out, 0, 1)[mode]
    assert len(reference["baseline losses"]) == BASELINE_STEPS
    assert len(reference["losses"]) == STEPS
    has_norm = MODES[mode].get("model__noise_layer") is None
    assert set(of(reference)) == {name for name in TOLERANCE if has_norm or "head statistics" not in name}
    assert_within(found(out, 0, size)[mode], reference, of(reference))


@pytest.mark.parametrize("size", SIZES)
def test_micro_batches_are_trained_as_the_batch(out, size):
    reference = found(out, 0, 1)["ghost"]
    assert_within(found(out, 0, size)["micro-batches"], reference, of(reference))


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", MODES)
def test_workers_are_in_lockstep_bit_for_bit(out, mode, size):
    first = found(out, 0, size)[mode]
    for rank in range(1, size):
        assert_same_bits(found(out, rank, size)[mode], first)


@pytest.mark.parametrize("mode", IN_FLOAT64)
def test_the_loss_is_the_mean_over_real_and_generated_images_together(out, mode):
    of_mode = found(out, 0, 1)[mode]
    assert of_mode["generated_images"].min() > 0
    assert (of_mode["real_images"] + of_mode["generated_images"]).tolist() == [BATCH] * STEPS
    together = (of_mode["real_loss"] + of_mode["generated_loss"]) / BATCH
    assert difference(of_mode["losses"], together) <= 1e-12
    assert of_mode["baseline generated_images"].sum() == 0


def test_the_modes_are_different_trainings(out):
    of_modes = found(out, 0, 1)
    first = {mode: float(of_modes[mode]["losses"][-1]) for mode in IN_FLOAT64}
    assert len(set(first.values())) == len(first), first


class Watched:
    """Batches, coins and log-probabilities of the steps of a stage, as they come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows, self.coins, self.logs = [], [], []
        for place, name, kept, of_what in (
            (classification, "batch", self.rows, lambda result, *given: result),
            (Head, "draw", self.coins, lambda result, *given: result),
            (classification, "soft_target_loss", self.logs, lambda result, *given: given[0].detach()),
        ):
            monkeypatch.setattr(place, name, _watched(getattr(place, name), kept, of_what))


def _watched(real: Callable, kept: list[Any], of_what: Callable) -> Callable:
    def function(*given: Any) -> Any:
        result = real(*given)
        kept.append(of_what(result, *given))
        return result

    return function


def test_the_steps_are_those_of_equation_13_by_a_loop_over_the_files(out, sets, monkeypatch):
    job, folder = job_of(made(sets, out), out / "float64 1"), out / "float64 1"
    stage = slsr_workers.stage_of(slsr.finetune, Group.solo(), InProcess(), job)
    seen, first = Watched(monkeypatch), stage.epochs.start
    found = [stage.step(first + step // 2, step % 2) for step in range(4)]  # an epoch is two steps
    with np.load(folder / "clusters.npz") as content:
        clusters, labels = content["clusters"], content["labels"]
    made_from = np.repeat([0, 1], json.loads((folder / "generated.json").read_text())["counts"])
    people = [set(labels[clusters == cluster].tolist()) for cluster in (0, 1)]
    for step, rows, logs in zip(found, seen.rows, seen.logs, strict=True):
        sums = dict.fromkeys(("real_loss", "real_hits", "generated_loss", "generated_hits"), 0.0)
        for row, log in zip(rows.tolist(), logs, strict=True):
            is_real = row < len(labels)
            kind = "real" if is_real else "generated"
            whose = {int(labels[row])} if is_real else people[made_from[row - len(labels)]]
            sums[f"{kind}_loss"] -= sum(float(log[person]) for person in whose) / len(whose)
            sums[f"{kind}_hits"] += int(log.argmax()) in whose
        assert {name: float(step[name]) for name in sums} == pytest.approx(sums, rel=1e-12)
        assert float(step["loss"]) == pytest.approx((sums["real_loss"] + sums["generated_loss"]) / BATCH)
    assert len(people[0] ^ people[1]) > 0  # or it would not be seen whose images are whose
    # A pass over all images is three batches, without one that comes again; the next is in another order.
    assert len(set(np.concatenate(seen.rows[:3]).tolist())) == 3 * BATCH
    assert not np.isin(seen.rows[3], seen.rows[0]).all()
    assert all(not one.equal(other) for one, other in itertools.combinations(seen.coins, 2))


def test_the_fine_tuning_takes_over_every_digit_of_the_baseline(out, sets):
    # Rounded to float32, what differs by 1e-16 between numbers of workers could differ by 1e-8.
    job = job_of(made(sets, out, **RUN_MODES["float64"]), out / "float64 1")
    solo = Group.solo(), InProcess()
    first = slsr_workers.stage_of(slsr.train_baseline, *solo, replace(job, generated=None))
    first.step(0, 0)
    learned = first.networks.weights()
    start = slsr_workers.stage_of(slsr.finetune, *solo, replace(job, weights=learned)).networks.weights()
    assert_same_bits(start.model, learned.model)
    assert_same_bits(start.head, learned.head)


def test_generated_images_come_behind_the_real_ones(out, sets):
    job = job_of(made(sets, out), out / "float64 1")
    images = slsr_workers.stage_of(slsr.finetune, Group.solo(), InProcess(), job).classified.images
    pixels = np.load(out / "float64 1" / "generated.npy")
    number = len(job.inputs.labels)
    assert len(images) == number + len(pixels)
    found = images.gather(np.arange(len(images)))
    np.testing.assert_array_equal(found[number:].numpy(), pixels)
    real = job.inputs.inputs.train_images.gather(np.arange(number))
    np.testing.assert_array_equal(found[:number].numpy(), real.numpy())
    assert len(np.unique(pixels.reshape(len(pixels), -1), axis=0)) == len(pixels)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("coins of own rows", "losses"),
        ("coins of own rows", "head gradient"),
        ("head of own rows", "head gradient"),
        ("head of own rows", "head statistics"),
        ("head of own rows, sync", "losses"),
        ("head's gradient times workers", "head gradient"),
        ("head's gradient times workers", "head"),
        ("loss of own rows", "losses"),
        ("loss of own rows", "gradient"),
        ("loss of real and generated images apart", "losses"),
        ("no factor of the head's rate", "head"),
        ("no factor of the head's rate", "baseline head"),
        ("factor of workers forgotten", "gradient"),
        ("factor of workers forgotten", "baseline gradient"),
        ("summed gradients", "gradient"),
        ("statistics of the first worker", "statistics"),
        ("statistics of the first worker", "baseline statistics"),
        ("local batch norm", "gradient"),
        ("local batch norm", "statistics"),
    ],
)
def test_planted_faults_are_caught(out, fault, caught_by):
    honest = found(out, 0, 1)["sync" if fault.endswith("sync") else "ghost"]
    apart = differences(found(out, 0, 2)[fault], honest, TOLERANCE)
    # Far outside the tolerance: the check does not pass by a hair what it should catch.
    assert apart[caught_by] >= 1e-3, apart


@pytest.mark.parametrize("size", SIZES[1:])
def test_exact_float32_training_is_equal_bit_for_bit(out, size):
    assert_same_bits(found(out, 0, size)["exact float32"], found(out, 0, 1)["exact float32"])


@pytest.mark.parametrize("size", SIZES[1:])
def test_batched_float32_training_starts_the_same(out, size):
    ours, reference = found(out, 0, size)["batched float32"], found(out, 0, 1)["batched float32"]
    for stage in ("", "baseline "):
        name = f"{stage}losses"
        assert difference(ours[name][:1], reference[name][:1]) <= 1e-5
        for name in (f"{stage}gradient", f"{stage}head gradient"):
            assert float((ours[name] - reference[name]).norm() / reference[name].norm()) <= 1e-2


def test_exact_agrees_with_the_batched_way_in_float64(out, sets):
    config = made(sets, out, numerics__reproducible="exact")
    ours = slsr_workers.train(Group.solo(), InProcess(), job_of(config, out / "float64 1"))
    assert_within(ours, found(out, 0, 1)["ghost"], TOLERANCE)


def assert_same_end(ours: Path, reference: Path) -> None:
    """Fail unless two float64 runs differ by rounding alone."""
    np.testing.assert_allclose(losses(ours), losses(reference), rtol=1e-10)
    assert len(losses(ours)) == 6
    for name in ("baseline.pt", "model.pt"):
        # Together: what a bias before a norm has learned is rounding alone.
        weights = [{"all": flat(list(trained(folder / name).values()))} for folder in (ours, reference)]
        assert_within(*weights, {"all": 1e-9})
    # The features' clusters and silhouettes apart, nothing of the GANs knows of the workers.
    assert_same_clusters(ours, reference)
    ours_made, reference_made = made_images(ours), made_images(reference)
    for name in [name for name in reference_made if name.startswith("gans") or name.endswith(".npy")]:
        assert ours_made[name] == reference_made[name], name


def assert_same_clusters(ours: Path, reference: Path) -> None:
    with np.load(ours / "clusters.npz") as one, np.load(reference / "clusters.npz") as other:
        for name in ("clusters", "labels", "numbers"):
            np.testing.assert_array_equal(one[name], other[name])
        for name in ("plane", "silhouette_features", "silhouette_plane", "silhouette"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_float64_run_is_the_same_on_any_number_of_workers(out, size):
    assert_same_end(out / f"float64 {size}", out / "float64 1")


@pytest.mark.parametrize("name", ["baseline of 1", "fine-tuning of 2", "fine-tuning of 4"])
def test_a_run_goes_on_with_another_number_of_workers(out, name):
    assert_same_end(out / name, out / "float64 1")


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_exact_float32_run_with_its_evaluation_is_equal_bit_for_bit(out, size):
    ours, reference = out / f"exact float32 {size}", out / "exact float32 1"
    assert losses(ours).tolist() == losses(reference).tolist()
    assert timeless(RunFolder(ours)) == timeless(RunFolder(reference))
    assert [epoch["epoch"] for epoch in timeless(RunFolder(ours)) if "eval/mAP" in epoch] == [0, 3, 4]
    assert made_images(ours) == made_images(reference)
    assert len(made_images(ours)) > 10
    for name in ("baseline.pt", "model.pt"):
        assert_same_bits(trained(ours / name), trained(reference / name))
