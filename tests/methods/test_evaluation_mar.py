"""`raid evaluate` of what `raid mar` wrote: by the file's colours, with a word on its reference persons."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import brute_force
import layouts
import numpy as np
import pytest
import thin_resnet
import tiny
import torch
from PIL import Image

from raid.cli import main
from raid.config import to_yaml
from raid.data.samples import Record, Samples
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.methods.encoder import build_model
from raid.methods.inputs import load_samples
from raid.methods.mar import recipe as mar
from raid.methods.mar.config import MarConfig

MEAN, STD = (0.9, 0.2, 0.4), (0.1, 0.5, 0.3)
TOO_HIGH = "are among the reference persons (auxiliary=all): its figures are too high"


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("evaluation") / "target", num_identities=12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a test half of its own."""
    return tiny.write_images(tmp_path_factory.mktemp("evaluation") / "source", num_identities=6)


def write_model(path: Path, config: MarConfig, **content: Any) -> Path:
    whole = {
        "method": "mar",
        "model": build_model(config.encoder(), Group.solo()).state_dict(),
        "mean": list(MEAN),
        "std": list(STD),
        "source": load_samples(config.source_data).fingerprint(),  # all its images show known people
        "config": to_yaml(config),
    }
    write_tensors(path, {**whole, **content})
    return path


def by_hand(config: MarConfig, root: Path, mean: Any, std: Any) -> tuple[Any, ...]:
    """The standard protocol on pictures that are normalised here."""
    model = build_model(config.encoder(), Group.solo()).to(torch.float64).eval()
    found = {}
    for split in ("query", "gallery"):
        files = sorted(root.glob(f"{split}/*.png"))
        pixels = np.stack([np.asarray(Image.open(file)) for file in files]) / 255.0
        inputs = torch.tensor((pixels - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            features = model(inputs).numpy()
        found[split] = features, [(int(file.name[:4]), int(file.name[6])) for file in files]
    (q, query), (g, gallery) = found["query"], found["gallery"]
    return brute_force.standard(-(q @ g.T), query, gallery, "noninterp")


def evaluated(capsys, arguments: list[Any]) -> tuple[dict[str, Any], str, str]:
    """The record, what was printed, and what was warned of."""
    assert main(["evaluate", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    return json.loads(Path(captured.out.split("stored in ")[1].strip()).read_text()), *captured


@pytest.mark.parametrize("name", ["model.pt", "pretrained.pt"])
def test_images_are_normalised_as_in_training(source, target, tmp_path, capsys, name):
    config = tiny.mar_config(source, target, tmp_path / "run")
    path = write_model(tmp_path / name, config)
    record, out, _ = evaluated(capsys, [path])
    (found,) = record["sets"]
    expected = by_hand(config, target, MEAN, STD)
    assert found["figures"]["eval/mAP"] == pytest.approx(expected[0], abs=1e-12)
    imagenet = by_hand(config, target, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert expected[0] != pytest.approx(imagenet[0], abs=1e-6)  # or this test could not fail
    assert record["checkpoint"]["method"] == "mar"
    assert (record["checkpoint"]["mean"], record["checkpoint"]["std"]) == (list(MEAN), list(STD))
    assert (
        "\nimages normalised by the mean and deviation that the training measured on its target set\n" in out
    )
    stored = {"model.pt": "evaluation_target.json", "pretrained.pt": "evaluation_target_pretrained.json"}
    assert (tmp_path / stored[name]).exists()


def test_colours_stay_those_of_the_training_on_another_set(source, target, tmp_path, capsys):
    config = tiny.mar_config(target, source, tmp_path / "run")
    path = write_model(tmp_path / "model.pt", config)
    record, out, _ = evaluated(capsys, [path, f"data.root={target}"])
    assert record["sets"][0]["root"] == str(target)
    expected = by_hand(config, target, MEAN, STD)
    assert record["sets"][0]["figures"]["eval/mAP"] == pytest.approx(expected[0], abs=1e-12)
    assert "images normalised" in out


def test_another_layout_keeps_the_size_and_forgets_the_pattern(source, target, tmp_path, capsys):
    path = write_model(tmp_path / "model.pt", tiny.mar_config(source, target, tmp_path / "run"))
    lines = [
        f"{file.relative_to(target)},{file.name[:4]},{file.parent.name}" for file in target.glob("*/*.png")
    ]
    table = target / "table.csv"
    table.write_text("\n".join(["path,identity,split", *lines]) + "\n")
    record, _, _ = evaluated(capsys, [path, "data.layout=table", f"data.root={table}"])
    assert record["sets"][0]["image_size"] == [tiny.HEIGHT, tiny.WIDTH]
    assert record["sets"][0]["cameras"] is False


def test_a_run_s_figures_are_found_again(target, tmp_path, capsys):
    """Of both stages: the run's folder is its end, and pretrained.pt the row "source only".

    Who is seen is drawn, so that the figures are not all 1.
    """
    rng, records = np.random.default_rng(0), []
    for path in sorted(target.glob("*/*.png")):
        camera = int(path.name[6]) - 1
        records.append(Record(str(path.relative_to(target)), int(rng.integers(9)), camera, path.parent.name))
    Samples.scan(target, records, name="drawn").write(tmp_path / "drawn.parquet")
    config = tiny.mar_config(
        tiny.write_source(tmp_path / "source"), target, tmp_path / "run", training__epochs=1,
        data__layout="manifest", data__pattern=None, data__root=str(tmp_path / "drawn.parquet"),
    )  # fmt: skip
    first, last = mar.run(config).metrics()
    for path, epoch in ((tmp_path / "run", last), (tmp_path / "run" / "pretrained.pt", first)):
        record, out, err = evaluated(capsys, [path])
        figures = record["sets"][0]["figures"]
        assert epoch["eval/mAP"] == pytest.approx(figures["eval/mAP"], abs=1e-12)
        assert epoch["eval/rank1"] == figures["eval/rank1"]
        assert "images normalised" in out
        assert "too high" not in err
    assert first["eval/mAP"] != last["eval/mAP"]


def test_the_source_set_is_known_again(source, target, tmp_path, capsys):
    config = tiny.mar_config(source, target, tmp_path / "run", auxiliary="all")
    path = write_model(tmp_path / "model.pt", config)
    _, _, err = evaluated(capsys, [path, f"data.root={source}"])
    assert f"data.root: {source} is the model's source set, and the people of its query and gallery" in err
    assert TOO_HIGH in err
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    assert TOO_HIGH in evaluated(capsys, [path, f"data.root={moved}"])[2]
    manifest = tmp_path / "moved.parquet"
    load_samples(config.source_data).write(manifest)
    assert TOO_HIGH in evaluated(capsys, [path, manifest])[2]
    assert "too high" not in evaluated(capsys, [path])[2]
    without_some = write_model(tmp_path / "skipped.pt", config, source="of fewer images: some were skipped")
    assert TOO_HIGH in evaluated(capsys, [without_some, f"data.root={source}"])[2]
    assert "too high" not in evaluated(capsys, [without_some, f"data.root={moved}"])[2]


def test_the_source_s_test_half_is_another_set_where_only_its_training_half_was_seen(
    source, target, tmp_path, capsys
):
    config = tiny.mar_config(source, target, tmp_path / "run", auxiliary="train")
    path = write_model(tmp_path / "model.pt", config)
    assert "too high" not in evaluated(capsys, [path, f"data.root={source}"])[2]


def test_a_published_set_is_known_by_its_layout(source, target, tmp_path, capsys):
    """Wherever it lies: layout msmt17 is of MSMT17 alone, whose versions differ in their bytes."""
    config = tiny.mar_config(
        source, target, tmp_path / "run", source__layout="msmt17", source__root="/not/there",
        source__pattern=None, auxiliary="msmt17_all",
    )  # fmt: skip
    path = write_model(tmp_path / "model.pt", tiny.mar_config(source, target, tmp_path / "run"))
    content = torch.load(path, weights_only=True)
    write_tensors(path, {**content, "config": to_yaml(config)})
    root = tmp_path / "MSMT17_V2"
    for part, camera in (("train", 1), ("train", 2), ("test", 1), ("test", 2)):
        folder = root / f"mask_{part}_v2" / "0000"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(
            next(source.glob("train/*.png")), folder / f"0000_000_{camera:02d}_0303morning_0008_0.jpg"
        )
    name = "0000/0000_000_0{}_0303morning_0008_0.jpg 0\n"
    for split, camera in (("train", 1), ("val", 2), ("query", 1), ("gallery", 2)):
        (root / f"list_{split}.txt").write_text(name.format(camera))
    given = ["data.layout=msmt17", f"data.root={root}", f"data.cache_folder={tmp_path / 'cache'}"]
    assert "(auxiliary=msmt17_all): its figures are too high" in evaluated(capsys, [path, *given])[2]


def test_other_splits_of_the_source_are_warned_of(source, target, tmp_path, capsys):
    config = tiny.mar_config(
        source, target, tmp_path / "run", source__layout="viper", source__root=str(tmp_path / "viper"),
        source__pattern=None, source__split_number=3,
    )  # fmt: skip
    path = write_model(tmp_path / "model.pt", tiny.mar_config(source, target, tmp_path / "run"))
    content = torch.load(path, weights_only=True)
    write_tensors(path, {**content, "config": to_yaml(config)})
    layouts.draw(tmp_path / "viper", [f"cam_{side}/{who:03d}_0.bmp" for side in "ab" for who in range(8)])
    given = ["data.layout=viper", f"data.root={tmp_path / 'viper'}"]
    assert "trained on split 3" not in evaluated(capsys, [path, *given, "data.split_number=3"])[2]
    assert (
        "trained on split 3, and people of other splits' tests (5)"
        in (evaluated(capsys, [path, *given, "data.split_number=5"])[2])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mean": [0.5, 0.5]}, "mean and std are not three numbers each"),
        ({"mean": 0.5}, "mean and std are not three numbers each"),
        ({"std": None}, "mean and std are not three numbers each"),
        ({"method": "other"}, "unknown method 'other'; known: icsr, mar"),
        ({"method": "icsr"}, "source: unknown key"),
    ],
)
def test_a_damaged_file_is_said(source, target, tmp_path, capsys, content, message):
    path = write_model(tmp_path / "model.pt", tiny.mar_config(source, target, tmp_path / "run"), **content)
    assert main(["evaluate", str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
