"""What a user may get wrong: one line that names it, status 2 and nothing written; or a warning and a run."""

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from raid.cli import main
from raid.data.render import Settings, write_market1501
from raid.methods.icsr import check as icsr_check
from raid.run_folder import RunFolder

SETTINGS = {
    "model": {"backbone": "resnet18", "weights": "none", "ghost_size": 4},
    "sampler": {"identities": 8, "instances": 2},
    "augment": {"pad": 2},
    "intra": {"epochs": 1, "steps": 2},
    "inter": {"epochs": 1, "steps": 2, "num_clusters": 8},
    "neighbors": {"k1": 10},
    "track": {"enabled": False},
}


@dataclass(frozen=True)
class Outcome:
    """What the user sees, and where the run would be."""

    status: int
    errors: list[str]
    log: list[str]
    folder: Path


Attempt = Callable[..., Outcome]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rendered people (18 training images at camera 1 and 16 at camera 2) and a cache."""
    shared = tmp_path_factory.mktemp("shared")
    write_market1501(shared / "people", Settings(num_identities=12, num_cameras=2, height=32, width=16))
    return shared


@pytest.fixture
def run_file(shared: Path, tmp_path: Path) -> Path:
    data = {"root": str(shared / "people"), "cache_folder": str(shared / "cache"), "height": 32, "width": 16}
    run = {"device": "cpu", "folder": str(tmp_path / "run")}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"data": data, "run": run, **SETTINGS}))
    return file


@pytest.fixture
def attempt(run_file: Path, tmp_path: Path, monkeypatch, capsys) -> Attempt:
    monkeypatch.chdir(tmp_path)

    def attempt(*arguments: str) -> Outcome:
        capsys.readouterr()
        status = main(["icsr", str(run_file), "--backend", "local", *arguments])
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("raid: ")]
        return Outcome(status, errors, [x for x in lines if x not in errors], tmp_path / "run")

    return attempt


@pytest.fixture
def refused(attempt: Attempt, shared: Path, tmp_path: Path) -> Callable[..., str]:
    """Run what cannot work; return the one line that says so."""

    def state() -> dict[Path, tuple[int, int]]:
        files = [path for folder in (tmp_path, shared) for path in folder.rglob("*")]
        hidden = [path for path in files if path.name.startswith(".")]
        assert hidden == [], "temporary files are left"
        in_cache = shared / "cache"
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in files
            if not path.is_relative_to(in_cache)
        }

    def refused(*arguments: str) -> str:
        before = state()
        outcome = attempt(*arguments)
        assert outcome.status == 2, outcome
        assert len(outcome.errors) == 1, outcome
        assert not any("Traceback" in line or "Error" in line for line in outcome.log), outcome
        assert state() == before
        return outcome.errors[0]

    return refused


def trained(outcome: Outcome) -> RunFolder:
    assert (outcome.status, outcome.errors) == (0, []), outcome
    folder = RunFolder(outcome.folder)
    assert folder.model.exists()
    return folder


@pytest.fixture
def people(shared: Path, tmp_path: Path) -> Path:
    """A copy of the people, to be spoilt."""
    return Path(shutil.copytree(shared / "people", tmp_path / "people"))


def images(people: Path, folder: str, camera: int) -> list[Path]:
    return [path.relative_to(people) for path in sorted((people / folder).glob(f"*_c{camera}s*.jpg"))]


def table(people: Path, header: str, rows: Iterable[tuple[object, ...]]) -> list[str]:
    """Write a table of images; return the overrides that read it."""
    with (people / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header.split(), *rows])
    return ["data.layout=table", f"data.root={people / 'table.csv'}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=nowhere"], r"nowhere: no folder bounding_box_train here .*; set data\.root"),
        (["data.layout=folder"], r"data\.pattern: is required by layout folder, for example"),
        (["data.layout=table", "data.root=none.csv"], r"none\.csv: there is no such file; set data\.root"),
        (["data.cache_folder=run.yaml/cache"], r"data\.cache_folder: run\.yaml/cache: .*; choose another"),
        (["inter.step=3"], r"inter\.step: unknown key; did you mean steps\?"),
        (["inter.epochs=many"], r"inter\.epochs: .* valid integer.*, got 'many'"),
        (["inter.num_clusters=35"], r"inter\.num_clusters: 35 clusters of 34 training images; ask for fewer"),
        (
            ["intra.num_clusters=17"],
            r"intra\.num_clusters: 17 clusters of the 16 images of camera 2; ask for",
        ),
        (
            ["sampler.singletons=skip", "inter.num_clusters=34"],
            r"inter\.num_clusters: .*singletons.*; ask for",
        ),
        (
            ["sampler.singletons=skip", "intra.num_clusters=n//1"],
            r"intra\.num_clusters: .*camera 1.*; ask for",
        ),
        (["run.workers=3"], r"run\.workers: 3 workers cannot share the 4 groups of 4 .*; can: 1, 2, 4"),
        (["model.weights=none.pt"], r"model\.weights: no such file: none\.pt"),
        (["model.weights=run.yaml"], r"model\.weights: run\.yaml: not a file of tensors"),
        (["run.folder=run.yaml"], r"run\.folder: run\.yaml cannot be written: .*; choose another"),
        (["run.folder=run.yaml/run"], r"run\.folder: run\.yaml/run cannot be written: .*; choose another"),
        (["optimizer.learning_rate=-1"], r"optimizer\.learning_rate: .* greater than 0, got -1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(refused, overrides, message):
    line = refused(*overrides)
    assert re.match(rf"raid: {message}", line), line


def test_a_folder_without_images(refused, tmp_path):
    (tmp_path / "empty" / "bounding_box_train").mkdir(parents=True)
    line = refused("data.root=empty")
    assert re.search(
        r"empty/bounding_box_train: no \.jpg file here .*; put them there, or set data\.root", line
    )
    assert "no image file below" in refused("data.root=empty", "data.layout=folder", "data.pattern=x")


def test_a_gpu_that_is_not_there(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused("run.device=cuda")
    assert line == "raid: run.device: cuda, and torch finds no GPU on this machine; ask for cpu or auto"


def test_a_package_that_is_not_installed(refused, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(icsr_check, "find_spec", lambda name: None if name == "infomap" else find(name))
    assert "pip install 'raid[infomap]'" in refused("preset=as_released")


@pytest.fixture(params=["head", "body"])
def damaged(people: Path, request: pytest.FixtureRequest) -> Path:
    """One of the training images is cut off: before its size is said, or within its pixels."""
    file = people / images(people, "bounding_box_train", 1)[0]
    content = file.read_bytes()
    file.write_bytes(content[: 100 if request.param == "head" else -len(content) // 4])
    return file


def test_a_truncated_image_stops(refused, damaged):
    line = refused("data.root=people")
    assert damaged.name in line
    assert line.endswith("mend it, or leave it out with data.on_error=skip")


def test_a_truncated_image_is_left_out_with_a_count(attempt, damaged):
    outcome = attempt("data.root=people", "data.on_error=skip")
    (line,) = [line for line in outcome.log if "left out" in line]
    assert re.search(rf"left out 1 of \d+ images: bounding_box_train/{damaged.name} \(.+\)", line)
    labels = pq.read_table(trained(outcome).local_labels)
    assert labels.num_rows == 33
    assert f"bounding_box_train/{damaged.name}" not in labels["path"].to_pylist()


def test_more_neighbours_than_a_camera_has_images_are_clipped(attempt):
    outcome = attempt("neighbors.k1=17")
    clipped = [line for line in outcome.log if "clipped" in line]
    assert clipped == ["neighbors.k1: 17 is clipped to the 16 images of camera 2"]
    trained(outcome)


def test_a_camera_with_one_image_is_a_cluster_by_itself(attempt, people):
    first, second = (images(people, "bounding_box_train", camera) for camera in (1, 2))
    rows = [*((path, 1) for path in first), (second[0], 2)]
    outcome = attempt(*table(people, "path camera", rows))
    assert "camera 2 has one image: it is a local cluster by itself" in outcome.log
    labels = pq.read_table(trained(outcome).local_labels).to_pylist()
    assert [row["local_label"] for row in labels if row["camera"] == 1] == [0]


def test_a_set_without_cameras_is_for_the_baseline_alone(refused, attempt, people):
    rows = [(path,) for camera in (1, 2) for path in images(people, "bounding_box_train", camera)]
    without = table(people, "path", rows)
    assert re.search(r"data\.root: .* no camera, .*refine\.enabled=false", refused(*without))
    assert len(trained(attempt(*without, "refine.enabled=false")).metrics()) == 1


@pytest.mark.parametrize(
    ("query", "gallery"),
    [(("", 1), ("", 2)), ((5, 1), (6, 2)), ((5, 1), (5, 1)), ((-1, 1), (-1, 2))],
    ids=["unknown", "another", "of the same camera", "junk"],
)
def test_queries_without_a_match_are_found_before_the_training(refused, people, query, gallery):
    parts = {
        "train": ("bounding_box_train", (5, 1)),
        "query": ("query", query),
        "gallery": ("bounding_box_test", gallery),
    }
    rows = [
        (path, split, *numbers)
        for split, (folder, numbers) in parts.items()
        for path in images(people, folder, 1)
    ]
    line = refused(*table(people, "path split identity camera", rows), "inter.num_clusters=4")
    assert "no query has its identity in the gallery" in line


def test_a_training_that_diverges_stops_and_reports_no_figures(attempt, tmp_path):
    outcome = attempt("optimizer.learning_rate=1e30", "refine.enabled=false")
    assert outcome.status == 2
    (line,) = outcome.errors
    assert "optimizer.learning_rate: the loss of epoch 1, step 2 is nan at the learning rate 1e+30" in line
    assert RunFolder(tmp_path / "run").metrics() == []
    assert not RunFolder(tmp_path / "run").model.exists()


def test_a_folder_that_holds_a_run_is_safe(attempt, refused, tmp_path):
    trained(attempt("refine.enabled=false"))
    assert re.search(r"run\.folder: .* holds a run; --resume .*, --fresh", refused("refine.enabled=false"))
    line = refused("refine.enabled=false", "--resume", "seed=4", "run.keep_checkpoints=5")
    assert "another configuration (seed was 1, is 4)" in line
    # What is said to start over must work before the old run is thrown away.
    assert "inter.num_clusters" in refused("refine.enabled=false", "--fresh", "inter.num_clusters=1000")
    assert "model.weights" in refused("refine.enabled=false", "--fresh", "model.weights=none.pt")
    outcome = attempt("refine.enabled=false", "--resume")
    assert len(trained(outcome).metrics()) == 1
    assert (tmp_path / "run" / "model.pt").exists()


def test_the_command_itself_prints_one_line_and_ends_with_status_2(run_file, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "raid", "icsr", str(run_file), "inter.num_clusters=35", "neighbors.k1=20"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"raid: inter\.num_clusters: 35 clusters .*; ask for fewer\n", done.stderr), (
        done.stderr
    )
    assert not (tmp_path / "run").exists()
