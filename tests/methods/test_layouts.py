"""Every layout by its name in a configuration: to a manifest, to a run, and into its records."""

from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import scipy.io
import tiny

from raid.cli import main
from raid.config import load
from raid.data.samples import Samples
from raid.methods.icsr import recipe as icsr
from raid.methods.inputs import load_samples, open_inputs
from raid.methods.sections import Data


def boxes(*more: str) -> Callable[[Path], Path]:
    paths = [
        "bounding_box_train/0002_c1_1.jpg", "bounding_box_train/0002_c2_2.jpg", "query/0007_c1_1.jpg",
        "bounding_box_test/0007_c2_1.jpg", *more,
    ]  # fmt: skip
    return lambda root: layouts.draw(root, paths)


def viper(root: Path) -> Path:
    return layouts.draw(root, [f"cam_{side}/{person:03d}_0.bmp" for side in "ab" for person in range(4)])


def cuhk03(root: Path) -> Path:
    names = [f"1_{person:03d}_{view}_01.png" for person in (1, 2) for view in (1, 2)]
    layouts.draw(root / "images_labeled", names)
    config = {"train_idx": [1, 2], "query_idx": [3], "gallery_idx": [4], "labels": [1, 1, 2, 2]}
    filelist = {"filelist": np.array(names, object).reshape(-1, 1)}
    scipy.io.savemat(root / "cuhk03_new_protocol_config_labeled.mat", {**config, **filelist})
    return root


CASES = {
    "market1501": (
        boxes("gt_bbox/0007_c1_3.jpg", "images/1.jpg"),
        ["multi_query=true", "distractors=true"],
        {"set": "Market-1501", "protocol": "standard"},
        6,
    ),
    "dukemtmc": (boxes(), [], {"set": "DukeMTMC-reID", "protocol": "standard"}, 4),
    "msmt17": (
        boxes(),
        [],
        {"set": "MSMT17", "version": "V1 repacked", "protocol": "standard", "with_validation": "true"},
        4,
    ),
    "cuhk03": (cuhk03, ["boxes=labelled"], {"set": "CUHK03", "protocol": "standard", "boxes": "labelled"}, 4),
    "viper": (
        viper,
        ["split_number=9"],
        {"set": "VIPeR", "protocol": "viper", "split_number": "9"},
        8,
    ),
}


@pytest.mark.parametrize("layout", CASES)
def test_a_manifest_keeps_what_the_set_is(layout: str, tmp_path: Path) -> None:
    make, options, facts, number = CASES[layout]
    root, manifest = make(tmp_path / "set"), tmp_path / "m.parquet"
    given = [f"layout={layout}", f"root={root}", *options]
    assert main(["data", "prepare", str(manifest), *given]) == 0
    read, written = load_samples(load(Data, overrides=given)), Samples.read(manifest)
    assert written.facts == read.facts == facts
    assert written.fingerprint() == read.fingerprint()
    assert len(written) == number
    sizes = [f"cache_folder={tmp_path / 'cache'}", "height=16", "width=8"]
    inputs = open_inputs(load(Data, overrides=["layout=manifest", f"root={manifest}", *sizes]))
    assert inputs.facts == facts
    assert inputs.retrieval is not None


def test_a_run_records_the_version(tmp_path: Path) -> None:
    images, root = tiny.write_images(tmp_path / "images"), tmp_path / "MSMT17_V2"
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for number, file in enumerate(sorted(images.rglob("*.png"))):
        identity, camera, _ = file.stem.split("_")
        folder = "mask_train_v2" if file.parent.name == "train" else "mask_test_v2"
        name = f"{identity}/{identity}_{number:03d}_{int(camera[1:]):02d}_0303morning_0_0.jpg"
        (root / folder / identity).mkdir(parents=True, exist_ok=True)
        file.rename(root / folder / name)
        of = "val" if file.parent.name == "train" and number % 5 == 0 else file.parent.name
        lists[of].append(f"{name} {int(identity)}")
    for of, lines in lists.items():
        (root / f"list_{of}.txt").write_text("\n".join(lines))
    config = tiny.config(
        root, tmp_path / "run", data__layout="msmt17", data__pattern=None, inter__epochs=1, inter__steps=1,
        refine__enabled=False, numerics__dtype="float32",
    )  # fmt: skip
    folder = icsr.run(config)
    assert folder.recorded()["set"]["version"] == "V2"
    assert "eval/mAP" in folder.metrics()[0]
