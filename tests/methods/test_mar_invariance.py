"""The result of MAR does not depend on the number of workers (design.md section 3, invariance.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mar_workers
import numpy as np
import pytest
import small_network
import torch
from comparing import (
    assert_same_bits,
    assert_within,
    difference,
    differences,
    losses,
    timeless,
    weights,
)
from mar_steps import configured, job_of
from mar_workers import PRETRAINING_STEPS, STEPS, Run
from torch import Tensor

from raid.distributed import checkpoint
from raid.distributed.backend import LocalBackend
from raid.distributed.fanout import InProcess
from raid.distributed.group import Group
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import MarInputs, open_mar_inputs
from raid.methods.mar.job import MarJob
from raid.run_folder import RunFolder

SIZES = (1, 2, 4)
TOLERANCE = {
    **{"losses": 1e-10, "pretraining gradient": 1e-10, "gradient": 1e-10},
    **{"statistics": 1e-9, "parameters": 1e-9, "agents": 1e-9},
    **{"table": 1e-9, "centre": 1e-9, "threshold": 1e-9},
}
MODES = {
    "ghost": {"multilabel__table": "whole"},
    "sharded": {"multilabel__table": "sharded"},
    "sync": {"model__batch_norm": "sync"},
    "batched float32": {"numerics__dtype": "float32"},
    "exact float32": {"numerics__dtype": "float32", "numerics__reproducible": "exact"},
    "micro-batches": {"multilabel__table": "whole", "numerics__micro_batch": 8},
    "exact micro-batches": {
        "numerics__dtype": "float32", "numerics__reproducible": "exact", "numerics__micro_batch": 8
    },
}  # fmt: skip
RUN_MODES = ("sharded", "exact float32")
# Of the saves of a run, which are after every step and every epoch: in the first epoch that mines.
KILLED_AFTER = 4
Found = dict[str, dict[str, Tensor]]


def made(sets: Path, folder: Path, **overrides: Any) -> MarConfig:
    given = {"training__epochs": 2, "training__steps": 2, "pretraining__steps": 2, "evaluate__every": 0}
    # Every step is a pass over the target: multilabels are averaged over several visits.
    given |= {"training__target": 24, "model__ghost_size": 8}
    return configured(sets, folder, **given, **overrides)


def begun(config: MarConfig, inputs: MarInputs) -> MarJob:
    """Return a run in a folder of its own."""
    made_of = inputs.fingerprint(config)
    RunFolder.open(config.run.folder, config, made_of, method="mar", resume=True, fresh=False)
    return job_of(config, inputs)


@pytest.fixture(scope="module")
def out(sets: Path, tmp_path_factory: pytest.TempPathFactory, quick_starts: None) -> Iterator[Path]:
    """Train in every mode on 1, 2 and 4 workers, with the faults on 2; one start of the workers each.

    The network is a small one: that a ResNet's own sums do not depend on the workers is known of ICSR.
    """
    out = tmp_path_factory.mktemp("mar_invariance")
    with small_network.in_use():
        _train(sets, out)
        yield out


def _train(sets: Path, out: Path) -> None:
    inputs = open_mar_inputs(configured(sets))
    modes = {name: job_of(made(sets, out, **chosen), inputs) for name, chosen in MODES.items()}

    def whole(mode: str, size: int) -> MarJob:
        return begun(made(sets, out / f"{mode} {size}", **MODES[mode]), inputs)

    def interrupted(size: int) -> MarJob:
        folder = out / f"begun on {size}"
        return begun(made(sets, folder, run__checkpoint_steps=1, **MODES["sharded"]), inputs)

    for size in SIZES:
        runs = [Run(whole(mode, size)) for mode in RUN_MODES]
        if size < 4:
            runs.append(Run(interrupted(size), KILLED_AFTER))
        if size == 2:
            runs.append(Run(interrupted(1)))
        job = mar_workers.Job(modes, size == 2, runs, out)
        LocalBackend(workers=size, threads=1, on_gpu=False).run_workers(mar_workers.work, job)
    mar.train(Group.solo(), InProcess(), interrupted(2))


def found(out: Path, rank: int, size: int) -> Found:
    return torch.load(out / f"worker_{rank}_of_{size}.pt", weights_only=True)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", ["ghost", "sync"])
def test_float64_training_is_the_same_on_any_number_of_workers(out, mode, size):
    reference = found(out, 0, 1)[mode]
    assert len(reference["losses"]) == PRETRAINING_STEPS + STEPS
    assert_within(found(out, 0, size)[mode], reference, TOLERANCE)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", MODES)
def test_workers_are_in_lockstep_bit_for_bit(out, mode, size):
    first = found(out, 0, size)[mode]
    for rank in range(1, size):
        assert_same_bits(found(out, rank, size)[mode], first)


@pytest.mark.parametrize("size", SIZES)
def test_micro_batches_are_trained_as_the_batch(out, size):
    """They pass through the network twice: the loss compares the images of all."""
    assert_within(found(out, 0, size)["micro-batches"], found(out, 0, 1)["ghost"], TOLERANCE)
    assert_same_bits(found(out, 0, size)["exact micro-batches"], found(out, 0, 1)["exact float32"])


@pytest.mark.parametrize("size", SIZES)
def test_a_sharded_table_changes_no_bit(out, size):
    of_modes = found(out, 0, size)
    assert_same_bits(of_modes["sharded"], of_modes["ghost"])


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("mining of own rows", "losses"),
        ("mining of own rows", "gradient"),
        ("table of own rows", "table"),
        ("table of own rows", "threshold"),
        ("centre of own rows", "centre"),
        ("agents' gradient times workers", "gradient"),
        ("agents' gradient times workers", "agents"),
        ("factor of workers forgotten", "gradient"),
        ("summed gradients", "gradient"),
        ("statistics of the first worker", "statistics"),
        ("local batch norm", "gradient"),
    ],
)
def test_planted_faults_are_caught(out, fault, caught_by):
    apart = differences(found(out, 0, 2)[fault], found(out, 0, 1)["ghost"], TOLERANCE)
    # Far outside the tolerance: the check does not pass by a hair what it should catch.
    assert apart[caught_by] > 1e4 * TOLERANCE[caught_by], apart


@pytest.mark.parametrize("size", SIZES[1:])
def test_exact_float32_training_is_equal_bit_for_bit(out, size):
    assert_same_bits(found(out, 0, size)["exact float32"], found(out, 0, 1)["exact float32"])


@pytest.mark.parametrize("size", SIZES[1:])
def test_batched_float32_training_starts_the_same(out, size):
    ours, reference = found(out, 0, size)["batched float32"], found(out, 0, 1)["batched float32"]
    assert difference(ours["losses"][:1], reference["losses"][:1]) <= 1e-5
    gradients = ours["pretraining gradient"], reference["pretraining gradient"]
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) <= 1e-2


def state(folder: Path) -> dict[str, Any]:
    path = checkpoint.latest(folder / "checkpoints")
    assert path is not None
    return checkpoint.load(path)


def assert_same_end(ours: Path, reference: Path) -> None:
    """Fail unless two float64 runs differ by rounding alone."""
    np.testing.assert_allclose(losses(ours), losses(reference), rtol=1e-10)
    assert len(losses(ours)) == 6
    ends = [state(folder) for folder in (ours, reference)]
    of_stage = [end["of_stage"] for end in ends]
    followed = [
        {"table": of["table"]["table"], **of["centre"], "threshold": torch.tensor(of["threshold"])}
        | {"agents": end["beside"]["rows"], **end["model"]}
        for of, end in zip(of_stage, ends, strict=True)
    ]
    assert_within(*followed, dict.fromkeys(followed[0], 1e-9))
    assert of_stage[0]["table"]["visited"].bool().equal(of_stage[1]["table"]["visited"].bool())


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_float64_run_is_the_same_on_any_number_of_workers(out, size):
    assert_same_end(out / f"sharded {size}", out / "sharded 1")


def settled(folder: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in epoch.items() if key.startswith("multilabel/")}
        for epoch in RunFolder(folder).metrics()
    ]


@pytest.mark.parametrize("name", ["sharded 2", "sharded 4", "begun on 1", "begun on 2"])
def test_how_far_the_images_have_settled_does_not_depend_on_the_workers(out, name):
    reference = settled(out / "sharded 1")
    assert [sorted(epoch) for epoch in reference] == [
        [], ["multilabel/people"], ["multilabel/churn", "multilabel/people"],
    ]  # fmt: skip
    assert settled(out / name) == reference


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_with_a_sharded_table_goes_on_with_another_number_of_workers(out, before, after):
    assert_same_end(out / f"begun on {before}", out / "sharded 1")


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_exact_float32_run_with_its_evaluation_is_equal_bit_for_bit(out, size):
    ours, reference = out / f"exact float32 {size}", out / "exact float32 1"
    assert losses(ours).tolist() == losses(reference).tolist()
    assert timeless(RunFolder(ours)) == timeless(RunFolder(reference))
    assert "eval/mAP" in timeless(RunFolder(reference))[-1]
    for name in ("pretrained.pt", "model.pt"):
        assert_same_bits(weights(ours / name), weights(reference / name))
    for name in ("mining.jsonl", "multilabels.npz"):
        assert (ours / name).read_bytes() == (reference / name).read_bytes()


def test_exact_agrees_with_the_batched_way_in_float64(out, sets):
    config = made(sets, out, numerics__reproducible="exact")
    ours = mar_workers.train(Group.solo(), InProcess(), job_of(config, open_mar_inputs(config)))
    assert_within(ours, found(out, 0, 1)["ghost"], TOLERANCE)
