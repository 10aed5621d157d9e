"""The result does not depend on the number of workers (design.md section 3, invariance.md)."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_start
import thin_resnet
import tiny
import torch
import workers
from comparing import assert_same_bits, assert_within, difference, differences, losses, timeless
from torch import Tensor

from raid.distributed import checkpoint
from raid.distributed.backend import LocalBackend
from raid.distributed.group import Group
from raid.methods.encoder import starting_weights
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.inter_camera import InterCameraJob
from raid.methods.inputs import Inputs, open_inputs
from raid.run_folder import RunFolder

SIZES = (1, 2, 4)
TOLERANCE = {"losses": 1e-10, "gradient": 1e-10, "statistics": 1e-9, "parameters": 1e-9, "memory": 1e-9}
MODES = {
    "ghost": {},
    "sync": {"model__batch_norm": "sync"},
    "micro-batches": {"numerics__micro_batch": 4},
    "uneven micro-batches": {"numerics__micro_batch": 15},  # of one worker: 12 and 4 images
    "batched float32": {"numerics__dtype": "float32"},
    "exact float32": {"numerics__dtype": "float32", "numerics__reproducible": "exact"},
}
RUN_MODES = ("ghost", "exact float32")
Found = dict[str, dict[str, Tensor]]


def run_job(config: IcsrConfig, inputs: Inputs, weights: dict[str, Tensor], folder: Path) -> InterCameraJob:
    # Stage 1 does not know the workers; any local labels do.
    local_labels = np.arange(len(inputs.train)) // 2
    return InterCameraJob(
        config,
        inputs,
        weights,
        local_labels,
        RunFolder.open(folder, config, inputs.fingerprint, method="icsr", resume=False, fresh=False),
        before={},
        started=time.time(),
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run every mode on 1, 2 and 4 workers, the faults on 2; one start of the workers each.

    The network is a ResNet of few channels: what its workers add up is what those of a wide one do.
    """
    out = tmp_path_factory.mktemp("invariance")
    with thin_resnet.in_use():
        _train(out)
        yield out


def _train(out: Path) -> None:
    root = tiny.write_images(out / "images")
    configs = {name: tiny.config(root, out, **overrides) for name, overrides in MODES.items()}
    inputs = open_inputs(configs["ghost"].data)
    weights = starting_weights(configs["ghost"].training.encoder)  # every tensor is an open file
    steps = {
        name: workers.StepsJob(
            config.training,
            weights,
            inputs.train_images,
            inputs.train.identities // 2,
            inputs.train.cameras,
        )
        for name, config in configs.items()
    }
    for size in SIZES:
        runs = [run_job(configs[name], inputs, weights, out / f"{name} {size}") for name in RUN_MODES]
        job = workers.Job(steps, faults=size == 2, runs=runs, out=out)
        # Two are started as those of a run are.
        with quick_start.in_use() if size > 2 else nullcontext():
            LocalBackend(workers=size, threads=1, on_gpu=False).run_workers(workers.work, job)


def found(out: Path, rank: int, size: int) -> Found:
    return torch.load(out / f"worker_{rank}_of_{size}.pt", weights_only=True)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", ["ghost", "sync"])
def test_float64_training_is_the_same_on_any_number_of_workers(out, mode, size):
    assert_within(found(out, 0, size)[mode], found(out, 0, 1)[mode], TOLERANCE)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["micro-batches", "uneven micro-batches"])
def test_micro_batches_are_trained_as_the_batch(out, mode, size):
    assert_within(found(out, 0, size)[mode], found(out, 0, 1)["ghost"], TOLERANCE)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("mode", MODES)
def test_workers_are_in_lockstep_bit_for_bit(out, mode, size):
    first = found(out, 0, size)[mode]
    for rank in range(1, size):
        other = found(out, rank, size)[mode]
        for key in ("losses", "parameters", "statistics", "memory", "features"):
            assert torch.equal(first[key], other[key]), (rank, key)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("local batch norm", "gradient"),
        ("SummedGradients", "gradient"),
        ("MemoryFromOwnRows", "memory"),
        ("StatisticsOfFirstWorker", "statistics"),
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
    norm = (ours["gradient"] - reference["gradient"]).norm() / reference["gradient"].norm()
    assert float(norm) <= 1e-2


def state(out: Path, mode: str, size: int) -> dict[str, Any]:
    path = checkpoint.latest(out / f"{mode} {size}" / "checkpoints")
    assert path is not None
    return checkpoint.load(path)


@pytest.mark.parametrize("size", SIZES[1:])
def test_two_epochs_with_clustering_give_the_same_labels_and_losses(out, size):
    assert torch.equal(state(out, "ghost", size)["global_labels"], state(out, "ghost", 1)["global_labels"])
    np.testing.assert_allclose(losses(out / f"ghost {size}"), losses(out / "ghost 1"), rtol=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", RUN_MODES)
def test_every_epoch_records_the_time_of_its_collectives(out, mode, size):
    for epoch in RunFolder(out / f"{mode} {size}").metrics():
        if size == 1:
            assert epoch["time/collective_s"] == 0.0
        else:
            assert 0.0 < epoch["time/collective_s"] < epoch["time/train_s"]


@pytest.mark.parametrize("size", SIZES[1:])
def test_exact_run_with_clustering_and_evaluation_is_equal_bit_for_bit(out, size):
    ours, reference = out / f"exact float32 {size}", out / "exact float32 1"
    assert losses(ours).tolist() == losses(reference).tolist()
    assert_same_bits(state(out, "exact float32", size)["model"], state(out, "exact float32", 1)["model"])
    assert timeless(RunFolder(ours)) == timeless(RunFolder(reference))


def test_exact_agrees_with_the_batched_way_in_float64(out, tmp_path):
    root = tiny.write_images(tmp_path / "images")
    config = tiny.config(root, tmp_path)
    inputs = open_inputs(config.data)
    job = workers.StepsJob(
        config.training,
        starting_weights(config.training.encoder),
        inputs.train_images,
        inputs.train.identities // 2,
        inputs.train.cameras,
    )
    encoder = replace(config.training.encoder, numerics=replace(config.numerics, reproducible="exact"))
    exact = replace(config.training, encoder=encoder)
    ours = workers.train(Group.solo(), replace(job, settings=exact))
    assert_within(ours, workers.train(Group.solo(), job), TOLERANCE)
