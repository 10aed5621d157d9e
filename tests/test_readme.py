"""The README's command blocks run as they stand, on a small set and with small settings appended."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import raid_server
from pictures import noise, photo
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
MARK = "<!-- run by tests/test_readme.py -->\n"
SMALL = (
    "data.height=32 data.width=16 model.backbone=resnet18 model.weights=none model.ghost_size=4 "
    "augment.pad=2 sampler.identities=8 sampler.instances=2 neighbors.k1=8 neighbors.k2=3 "
    "intra.epochs=2 intra.steps=2 inter.epochs=2 inter.steps=2 inter.num_clusters=8 run.device=cpu "
    "track.enabled=false"
)
SMALL_MAR = (
    "data.height=32 data.width=16 model.backbone=resnet10 model.weights=none model.ghost_size=4 "
    "augment.pad=2 pretraining.epochs=1 pretraining.steps=2 pretraining.batch_size=8 "
    "pretraining.ghost_size=4 training.epochs=2 training.steps=2 training.source=8 training.target=8 "
    "run.device=cpu track.enabled=false"
)
SMALL_SLSR = (
    "data.height=32 data.width=16 model.backbone=resnet10 model.weights=none model.ghost_size=4 "
    "augment.input_size=null baseline.epochs=1 baseline.steps=2 baseline.batch_size=8 "
    "clusters.num_clusters=2 gan.height=32 gan.width=16 gan.channels=4 gan.epochs=1 gan.steps=2 "
    "gan.min_images=2 generated.count=16 finetuning.epochs=2 finetuning.steps=2 finetuning.batch_size=8 "
    "run.device=cpu track.enabled=false"
)
# Stands for the command of the same name: training is made small and done without Ray.
RAID = f"""#!/bin/sh
raid() {{ exec "{sys.executable}" -SE "{raid_server.__file__}" ask SOCKET "$@"; }}
case "$1 $2" in
  "icsr --help") raid "$@" ;;
  "plan "*) raid "$@" {SMALL} ;;
  "mar "*) raid "$@" --backend local {SMALL_MAR} ;;
  "slsr "*) raid "$@" --backend local {SMALL_SLSR} ;;
  "icsr "*) raid "$@" --backend local {SMALL} ;;
  *) raid "$@" ;;
esac
"""


def blocks() -> list[str]:
    return re.findall(re.escape(MARK) + r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a process that runs commands."""
    path = tmp_path_factory.mktemp("server") / "socket"
    with subprocess.Popen([sys.executable, raid_server.__file__, "serve", str(path)]) as process:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield path
        process.terminate()


@pytest.fixture
def folder(tmp_path: Path, server: Path) -> Path:
    """A folder as a user has it: the run files, an environment, photos."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text('export PATH="$PWD/.venv/bin:$PATH"\n')
    raid = tmp_path / ".venv" / "bin" / "raid"
    raid.write_text(RAID.replace("SOCKET", f'"{server}"'))
    raid.chmod(0o755)
    (tmp_path / "jobs").symlink_to(REPOSITORY / "jobs")
    write_animals(tmp_path / "photos", range(10))
    write_animals(tmp_path / "other_photos", range(20, 25))
    return tmp_path


def write_animals(root: Path, animals: range) -> None:
    """Write JPEGs of striped animals, each photographed from both flanks; a few are large."""
    for split in ("train", "query", "gallery"):
        (root / split).mkdir(parents=True)
    for animal in animals:
        coat = np.asarray(photo(64, 48, seed=animal), dtype=int)
        for flank in ("left", "right"):
            for frame in range(4):
                pixels = coat // (2 if flank == "left" else 1) + noise(64, 48, seed=8 * animal + frame) // 16
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                if frame == 3 and animal < 4:
                    image = image.resize((3200, 2400))
                split = "train" if animal < 5 or animal >= 20 else "query" if frame == 0 else "gallery"
                image.save(root / split / f"zebra_{animal:02d}_{flank}_{frame:04d}.jpg")


def run(block: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_data_and_its_evaluation(folder):
    (block,) = [block for block in blocks() if "raid data check" in block]
    assert block.count("\n") == 6
    out = run(block, folder)
    assert "mine.parquet: 80 images, splits train, query, gallery" in out
    assert "left       20      5       15          10" in out
    assert "commonest sizes (width x height): 64 x 48 (72), 3200 x 2400 (8)" in out
    assert "0 kinds of error, 0 kinds of warning" in out
    assert out.count("last epoch  2: mAP") == 2
    assert (folder / "runs" / "mine" / "model.pt").exists()
    (block,) = [block for block in blocks() if "raid evaluate" in block]
    out = run(block, folder)
    assert out.count("\nsingle query") == 2
    assert out.count("\n  re-ranked") == 1
    (block,) = [block for block in blocks() if "raid extract" in block]
    out = run(block, folder)
    assert "features of 80 images" in out
    assert (
        "photos: 40 images of 5 people (gallery, query), pairs across 2 cameras: 80 genuine, 320 impo" in out
    )
    assert (folder / "runs" / "threshold.html").exists()
    assert (folder / "runs" / "mine" / "evaluation_photos.json").exists()
    assert (folder / "runs" / "mine_reranked.json").exists()


def test_a_labelled_set_of_others(folder):
    of_layout = (
        "raid data prepare mine.parquet layout=folder root=photos "
        r"'pattern=(?P<split>train|query|gallery)/(?P<identity>zebra_\d+)_(?P<camera>left|right)'"
    )
    (block,) = [block for block in blocks() if "raid mar" in block]
    out = run(block.replace("\n", f"\n{of_layout}\n", 1), folder)
    assert "others.parquet: 40 images, splits train" in out
    for name, epochs in (("mine_mar", 3), ("mine_without_cml", 2)):
        assert f"last epoch  {epochs}: mAP" in out
        assert (folder / "runs" / name / "model.pt").exists()


def test_generated_images(folder):
    of_layout = (
        "raid data prepare mine.parquet layout=folder root=photos "
        r"'pattern=(?P<split>train|query|gallery)/(?P<identity>zebra_\d+)_(?P<camera>left|right)'"
    )
    (block,) = [block for block in blocks() if "raid slsr" in block]
    out = run(block.replace("\n", f"\n{of_layout}\n", 1), folder)
    for name, epochs in (("mine_slsr", 4), ("mine_matched", 2), ("mine_lsro", 2)):
        assert f"last epoch  {epochs}: mAP" in out
        assert (folder / "runs" / name / "model.pt").exists()
    made, taken, none = (folder / "runs" / f"mine_{name}" for name in ("slsr", "lsro", "matched"))
    for file in ("baseline.pt", "clusters.npz", "gans/cluster_00/generator.pt", "generated.json"):
        assert (made / file).exists()
        assert not (none / file).exists()
    assert (taken / "generated.npy").read_bytes() == (made / "generated.npy").read_bytes()
    assert not (taken / "baseline.pt").exists()


def test_configuration(folder):
    (block,) = [block for block in blocks() if "raid config icsr\n" in block]
    out = run(block, folder)
    assert "refine.horizon: float = 3.0" in out
    assert "decay: linear" in out
    assert "usage: raid icsr" in out


def test_plan(folder):
    (block,) = [block for block in blocks() if "raid plan" in block]
    out = run(block, folder)
    assert "32,621 training images of 15 cameras, 11,659 queries, 82,161 gallery images" in out
    assert "4 workers of 1 threads" in out
    assert "To cluster 1,000,000 images the dense way would need 7,450.6 GiB, this one " in out


def test_every_block_is_run_by_a_test_or_is_a_make_target():
    text = (REPOSITORY / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert len(blocks()) == 7
    for mark, block in re.findall(r"(<!-- .* -->)?\n```sh\n(.*?)```", text, re.DOTALL):
        if mark:
            assert (REPOSITORY / mark.split()[-2]).exists()
            continue
        for line in block.splitlines():
            assert line.startswith("make ")
            assert line.removeprefix("make ") in targets


def test_every_named_file_exists():
    named = re.findall(r"`((?:raid|jobs|tests|deploy)/[\w/.]+)`", (REPOSITORY / "README.md").read_text())
    assert len(named) > 8
    for name in named:
        assert (REPOSITORY / name).exists(), name
