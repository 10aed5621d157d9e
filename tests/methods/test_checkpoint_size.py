"""A checkpoint is as large as what is in it: a loss that is a view of all gradients would take them along."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import thin_resnet
import tiny
import torch

from raid.distributed import checkpoint
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.launch import local_backend
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


def configured(folder: Path, method: str, reproducible: str) -> MethodConfig:
    images, ours = tiny.write_images(folder / "images"), folder / "run"
    chosen = {"run__checkpoint_steps": 1, "run__keep_checkpoints": 20, "numerics__reproducible": reproducible}
    match method:
        case "icsr":
            return tiny.config(images, ours, inter__epochs=1, inter__steps=6, **chosen)
        case "mar":
            source = tiny.write_source(folder / "source")
            return tiny.mar_config(source, images, ours, training__epochs=1, training__steps=6, **chosen)
        case _:
            return tiny.slsr_config(images, ours, finetuning__epochs=1, finetuning__steps=6, **chosen)


def bytes_in(value: Any) -> int:
    match value:
        case torch.Tensor():
            return value.nbytes
        case dict():
            return sum(map(bytes_in, value.values()))
        case list():
            return sum(map(bytes_in, value))
        case _:
            return 0


@pytest.mark.parametrize("reproducible", ["exact", "batched"])
@pytest.mark.parametrize("method", ["icsr", "mar", "slsr"])
def test_a_checkpoint_is_as_large_as_what_is_in_it(tmp_path, method, reproducible):
    config = configured(tmp_path, method, reproducible)
    known.run(config, local_backend(config), resume=False, fresh=False)
    paths = sorted(RunFolder(config.run.folder).checkpoints.rglob("*.pt"))
    assert len(paths) > 5
    for path in paths:
        state = torch.load(path, weights_only=True)
        assert path.stat().st_size < 1.01 * bytes_in(state) + 2**18, (
            path.name
        )  # a record's header is 128 bytes
    assert checkpoint.latest(RunFolder(config.run.folder).checkpoints) in paths
