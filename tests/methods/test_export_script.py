"""The README's script, as it stands, in a process without raid: it sees crops as raid does."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_network
import tiny
from pictures import photo
from PIL import Image

from raid.cli import main
from raid.config import to_yaml
from raid.data.statistics import IMAGENET
from raid.distributed.checkpoint import write_tensors
from raid.methods.encoder import starting_weights
from raid.methods.serving import Served

REPOSITORY = Path(__file__).parents[2]
MARK = "<!-- run by tests/methods/test_export_script.py -->\n"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


def block(kind: str) -> str:
    text = (REPOSITORY / "README.md").read_text()
    (found,) = re.findall(rf"{re.escape(MARK)}```{kind}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, crops of many sizes, and the README's script."""
    config = tiny.slsr_config(tmp_path / "gone", tmp_path / "run", numerics__dtype="float32")
    weights = starting_weights(config.encoder(IMAGENET))
    model = tmp_path / "runs" / "mine" / "model.pt"
    write_tensors(model, {"model": weights, "config": to_yaml(config), "method": "slsr"})
    (tmp_path / "crops").mkdir()
    for seed, (width, height) in enumerate([(16, 32), (20, 61), (64, 128), (9, 17)]):
        photo(width, height, seed=seed).save(tmp_path / "crops" / f"{seed}.png")
    Image.open(tmp_path / "crops" / "2.png").save(tmp_path / "crops" / "2.jpg", quality=90)
    (tmp_path / "script.py").write_text(block("python"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(folder: Path, *crops: str) -> tuple[float, str]:
    """Run the script where no module of raid can be found."""
    python = (
        "import importlib.abc, runpy, sys\n"
        "class Refused(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] not in ('raid', 'torch'), name\n"
        "sys.meta_path.insert(0, Refused())\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", python, "script.py", "people.onnx", *crops]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    similarity, verdict = done.stdout.rstrip().split(" ", 1)
    return float(similarity), verdict


def test_a_tracker_sees_crops_as_raid_does(folder):
    command = block("sh").split()
    assert command[0] == "raid"
    assert main(command[1:]) == 0
    served = Served.read(folder / "runs" / "mine" / "model.pt", "cpu")
    for pair in (("0.png", "1.png"), ("2.png", "2.jpg"), ("3.png", "3.png")):
        first, second = served.features([(folder / "crops" / name).read_bytes() for name in pair])
        expected = float(first @ second)
        found, verdict = compare(folder, *(f"crops/{name}" for name in pair))
        assert found == pytest.approx(expected, abs=2e-6)
        assert verdict == ("the same person" if expected >= 0.55 else "different people")


def test_the_threshold_decides(folder):
    served = Served.read(folder / "runs" / "mine" / "model.pt", "cpu")
    first, second = served.features([(folder / "crops" / f"{k}.png").read_bytes() for k in (0, 1)])
    similarity = float(first @ second)
    for threshold, verdict in (
        (similarity - 1e-3, "the same person"),
        (similarity + 1e-3, "different people"),
    ):
        options = ["--onnx", "people.onnx", "--crops", "crops", "--threshold", str(threshold)]
        assert main(["export", "runs/mine", *options]) == 0
        assert compare(folder, "crops/0.png", "crops/1.png")[1] == verdict
