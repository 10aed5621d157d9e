"""What MLflow has of a run of SLSR beside its figures: grids and losses of the GANs, in their folders."""

import time
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient

from raid import tracking
from raid.run_folder import RunFolder
from raid.tracking import mlflow_run


def draw(folder: RunFolder, name: str, content: str) -> None:
    """Leave a file in the folders of the GANs."""
    path = folder.gans / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def artifacts(client: MlflowClient, folder: str | None = None) -> list[str]:
    """The paths of all files that the one run has."""
    found = []
    for file in client.list_artifacts(tracked.only_run(client).info.run_id, folder):
        found += artifacts(client, file.path) if file.is_dir else [file.path]
    return sorted(found)


def content(client: MlflowClient, name: str, to: Path) -> str:
    to.mkdir(exist_ok=True)
    return Path(client.download_artifacts(tracked.only_run(client).info.run_id, name, str(to))).read_text()


GANS = [
    f"gans/{of}/{file}"
    for of in ("cluster_00", "cluster_01", "parent")
    for file in ("epochs.jsonl", "grid_00005.png", "grid_00010.png", "real.png")
]


def test_a_runs_gans_have_their_folders(client, folder, tmp_path):
    for name in GANS:
        draw(folder, name.removeprefix("gans/"), name)
    for not_sent in ("generator.pt", "checkpoint.pt", ".grid_00005.png.x.png"):
        draw(folder, f"cluster_00/{not_sent}", "x")
    for not_sent in (folder.clusters, folder.generated, folder.baseline):
        not_sent.write_text("x")
    folder.generated_facts.write_text("{}")
    tracked.record(folder, 0)
    tracking.sync(folder)
    assert artifacts(client) == sorted([*GANS, "config.yaml", "generated.json", "metrics.jsonl"])
    for name in GANS:
        assert content(client, name, tmp_path / "downloads") == name
    assert "nothing new" in tracking.sync(folder)


def test_a_grid_is_sent_when_it_is_drawn_and_again_when_it_has_changed(client, folder, tmp_path):
    with tracked.follow(folder):
        tracked.record(folder, 0)
        draw(folder, "cluster_00/epochs.jsonl", "0")
        for number in (5, 10):
            draw(folder, f"cluster_00/grid_{number:05d}.png", "first")
            shown = [f"gans/cluster_00/grid_{n:05d}.png" for n in range(5, number + 1, 5)]
            tracked.until(lambda shown=shown: tracked.sent(folder) == [0] and artifacts(client) == shown)
        draw(folder, "cluster_00/grid_00005.png", "again")
    # What grows is sent once, at the end.
    assert artifacts(client) == [
        "config.yaml", "gans/cluster_00/epochs.jsonl", *shown, "metrics.jsonl",
    ]  # fmt: skip
    assert [content(client, name, tmp_path / "d") for name in shown] == ["again", "first"]


def test_a_grid_that_is_there_is_not_read_every_second(folder, monkeypatch):
    read = []
    monkeypatch.setattr(mlflow_run, "file_digest", lambda path: read.append(path.name) or "digest")
    draw(folder, "cluster_00/real.png", "real")
    with tracked.follow(folder):
        tracked.until(lambda: read)
        time.sleep(0.5)  # ten looks
        assert read == ["real.png"]


@pytest.mark.parametrize("name", ["gans", "cluster_00"])
def test_the_gans_of_another_run_may_be_linked(client, folder, runs, name):
    other = runs / "other"
    (other / "cluster_00").mkdir(parents=True)
    (other / "cluster_00" / "real.png").write_text("real")
    if name == "gans":
        folder.gans.symlink_to(other)
    else:
        folder.gans.mkdir()
        (folder.gans / name).symlink_to(other / name)
    tracked.record(folder, 0)
    tracking.sync(folder)
    assert "gans/cluster_00/real.png" in artifacts(client)
