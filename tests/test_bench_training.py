"""What the benchmarks of training are reckoned with, and the one that only a machine with a GPU runs."""

from pathlib import Path

import pytest
import thin_resnet
import torch
from benchmarks.floor import forward_flops, product_rate
from benchmarks.paths_epoch import STAGES, Sizes, bench_whole_epoch, whole_epoch
from benchmarks.paths_throughput import network


@pytest.mark.parametrize(("last_stride", "flops"), [(2, 5.34e9), (1, 8.11e9)])
def test_the_products_of_a_resnet_50_are_counted(last_stride, flops):
    """performance.md's numbers."""
    assert forward_flops(network(last_stride), 256, 128) == pytest.approx(flops, rel=0.005)


def test_the_rate_of_products_is_positive():
    assert product_rate(torch.device("cpu"), torch.float32) > 1e8


def test_a_whole_epoch_is_told_by_its_stages(tmp_path: Path):
    small = {
        "model.backbone": "resnet10", "data.height": 32, "data.width": 16, "inter.steps": 2, "augment.pad": 2,
        "sampler.identities": 4, "model.ghost_size": 8, "neighbors.k1": 6,
    }  # fmt: skip
    with thin_resnet.in_use():
        found = whole_epoch(tmp_path, Sizes(24, 6, 12, 6, 2, 4), small)
    assert found.keys() == {*(f"{stage}_s" for stage in STAGES), "images_per_s", "batch"}
    assert all(value > 0 for value in found.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which it takes minutes")
def test_without_a_gpu_it_says_so():
    assert bench_whole_epoch(12_936, 1)["skipped"] == "needs a GPU"
