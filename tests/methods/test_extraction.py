"""`raid extract` as users call it, on encoders with random weights."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import extracting
import numpy as np
import pytest
import thin_resnet
import tiny
import torch

from raid import __version__
from raid.cli import main
from raid.config import to_yaml
from raid.data.feature_file import read_features
from raid.data.images import open_images
from raid.data.samples import Record, Samples
from raid.data.statistics import IMAGENET
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.extract import extract
from raid.methods.answers import extraction
from raid.methods.encoder import build_model
from raid.methods.icsr.config import IcsrConfig
from raid.methods.trained import Trained


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "PART_ROWS", 8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("extraction") / "images", num_identities=5)


@pytest.fixture(scope="module")
def config(root: Path) -> IcsrConfig:
    return tiny.config(root, root.parent / "run", numerics__dtype="float32", numerics__extract_batch=4)


@pytest.fixture(scope="module")
def weights(config: IcsrConfig) -> dict[str, torch.Tensor]:
    return build_model(config.training.encoder, Group.solo()).state_dict()


@pytest.fixture
def model(config: IcsrConfig, weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    return written(config, weights, tmp_path / "run")


@pytest.fixture(scope="module")
def manifest(root: Path) -> Path:
    records = [
        Record(str(path.relative_to(root)), int(path.name[:4]), int(path.name[6]) - 1, path.parent.name)
        for path in root.glob("*/*.png")
    ]
    samples = Samples.scan(root, records, name="made up", camera_names=["a", "b", "c"])
    samples.write(root.parent / "samples.parquet")
    return root.parent / "samples.parquet"


def written(config: IcsrConfig, weights: dict[str, torch.Tensor], folder: Path) -> Path:
    write_tensors(folder / "model.pt", {"model": weights, "config": to_yaml(config)})
    return folder


def expected(
    config: IcsrConfig, weights: dict[str, torch.Tensor], samples: Samples, **how: object
) -> np.ndarray:
    """The features of all images at once."""
    _, images = open_images(
        samples, height=tiny.HEIGHT, width=tiny.WIDTH, cache_folder=config.data.cache_folder
    )
    settings = config.training.encoder
    model = build_model(settings, Group.solo())
    model.load_state_dict(weights)
    torch.set_num_threads(1)
    return extract(
        model,
        images,
        group=Group.solo(),
        batch_size=4,
        augmentation=settings.augmentation,
        device=torch.device("cpu"),
        **how,
    ).numpy()


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["extract", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_features_are_those_of_the_whole_set_in_its_order(config, weights, model, manifest, tmp_path, capsys):
    out = tmp_path / "new" / "folder" / "features.parquet"
    assert main(["extract", str(model), str(manifest), str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: features of 45 images\n"
    samples, found = Samples.read(manifest), read_features(out)
    np.testing.assert_array_equal(found.features, expected(config, weights, samples))
    assert found.paths == samples.paths
    np.testing.assert_array_equal(found.identities, samples.identities)
    np.testing.assert_array_equal(found.cameras, samples.cameras)
    facts = found.facts
    assert facts.model == Trained.read(model).fingerprint()
    assert (facts.height, facts.width, facts.flip) == (tiny.HEIGHT, tiny.WIDTH, False)
    assert facts.dimension == found.features.shape[1] == 64
    assert (facts.root, facts.raid) == (str(samples.root), __version__)
    assert (facts.name, facts.camera_names) == ("made up", ("a", "b", "c"))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_mirror_images_are_added(config, weights, model, manifest, tmp_path):
    out = tmp_path / "features.parquet"
    assert main(["extract", str(model), str(manifest), str(out), "--flip"]) == 0
    found = read_features(out)
    assert found.facts.flip
    np.testing.assert_array_equal(
        found.features, expected(config, weights, Samples.read(manifest), flip=True)
    )


def test_blocks_of_the_network_are_the_user_s(model, manifest, tmp_path):
    found = []
    for batch in (4, 3):  # 3: parts of 6 images
        out = tmp_path / f"{batch}.parquet"
        assert main(["extract", str(model), str(manifest), str(out), "--batch", str(batch)]) == 0
        found.append(read_features(out).features)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_folder_is_read_by_its_pattern_or_as_it_is(model, root, tmp_path):
    by_pattern, as_it_is = tmp_path / "by_pattern.parquet", tmp_path / "as_it_is.parquet"
    pattern = f"data.pattern={tiny.PATTERN}"
    assert main(["extract", str(model), str(root), str(by_pattern), pattern]) == 0
    assert main(["extract", str(model), str(root), str(as_it_is)]) == 0
    one, other = read_features(by_pattern), read_features(as_it_is)
    assert set(one.identities) == set(range(5))
    assert set(other.identities) == {-1}
    assert one.facts.root == other.facts.root == str(root)
    np.testing.assert_array_equal(one.features, other.features)


def test_killed_and_gone_on_with_is_the_same_file(model, manifest, tmp_path):
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    assert main(["extract", str(model), str(manifest), str(whole)]) == 0
    command = [sys.executable, extracting.__file__, str(model), str(manifest), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed.parquet.parts"
    deadline = time.monotonic() + 120
    while not (parts / "000001.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    assert 2 <= len(kept) < 6
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{len(kept)} of 6 parts are there" in done.stderr
    assert digest(out) == digest(whole)
    assert not parts.exists()


@pytest.fixture
def interrupted(model: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OUT of an extraction that Ctrl-C ended in its third part."""
    out, left = tmp_path / "features.parquet", iter([False, False, True])
    whole = extraction.extract_part

    def extract_part(*arguments):
        if next(left):
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract_part", extract_part)
        assert main(["extract", str(model), str(manifest), str(out)]) == 130
    return out


def test_interrupted_leaves_its_parts_and_goes_on(interrupted, model, manifest, monkeypatch):
    parts = interrupted.with_name("features.parquet.parts")
    assert sorted(path.name for path in parts.glob("*.npz")) == ["000000.npz", "000001.npz"]
    extracted, whole = [], extraction.extract_part
    monkeypatch.setattr(
        extraction, "extract_part", lambda block, job: extracted.append(block) or whole(block, job)
    )
    assert main(["extract", str(model), str(manifest), str(interrupted)]) == 0
    assert extracted == [(16, 24), (24, 32), (32, 40), (40, 45)]


def test_parts_of_another_model_are_refused(interrupted, config, weights, manifest, tmp_path, capsys):
    changed = {**weights, "body.conv1.weight": weights["body.conv1.weight"] + 1e-3}
    other = written(config, changed, tmp_path / "other")
    said = failed(capsys, other, manifest, interrupted)
    assert "features.parquet.parts: holds parts of another extraction (model differ); --fresh" in said
    assert main(["extract", str(other), str(manifest), str(interrupted), "--fresh"]) == 0
    found = read_features(interrupted)
    np.testing.assert_array_equal(found.features, expected(config, changed, Samples.read(manifest)))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--flip", "flip"),
        ("--batch=8", "batch"),
        ("data.height=48", "size"),
        ("data.on_error=skip", "on_error"),
    ],
)
def test_parts_with_other_options_are_refused(interrupted, model, manifest, capsys, option, named):
    assert f"({named} differ)" in failed(capsys, model, manifest, interrupted, option)


def test_a_damaged_part(interrupted, model, manifest, capsys):
    part = interrupted.with_name("features.parquet.parts") / "000001.npz"
    part.write_bytes(part.read_bytes()[:100])
    assert "000001.npz: is damaged; start over with --fresh" in failed(capsys, model, manifest, interrupted)
    assert not interrupted.exists()


def test_a_folder_of_something_else_is_left_alone(model, manifest, tmp_path, capsys):
    folder = tmp_path / "features.parquet.parts"
    folder.mkdir()
    (folder / "mine").touch()
    for option in ([], ["--fresh"]):
        said = failed(capsys, model, manifest, tmp_path / "features.parquet", *option)
        assert "holds no parts of an extraction" in said
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_a_file_that_is_there_is_replaced_when_asked(model, manifest, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    out.write_text("old")
    assert "is there already; --overwrite" in failed(capsys, model, manifest, out)
    assert out.read_text() == "old"
    assert main(["extract", str(model), str(manifest), str(out), "--overwrite"]) == 0
    assert len(read_features(out)) == 45


def test_places_that_no_file_can_be_at(model, manifest, root, tmp_path, capsys):
    assert "is a folder; name a file" in failed(capsys, model, manifest, tmp_path)
    assert "is the set itself" in failed(capsys, model, manifest, manifest, "--overwrite")
    (tmp_path / "file").touch()
    assert "cannot be written" in failed(capsys, model, manifest, tmp_path / "file" / "features.parquet")
    assert "leave data.root out" in failed(capsys, model, manifest, tmp_path / "f", f"data.root={root}")


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """A manifest of ten images; the last three cannot be decoded, though their headers can be read."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for row, path in enumerate(sorted(root.glob("train/*.png"))[:10]):
        data = path.read_bytes()
        (folder / f"{row}.png").write_bytes(data if row < 7 else data[: len(data) // 2])
    samples = Samples.scan(folder, [Record(f"{row}.png", row, 0, "train") for row in range(10)], name="d")
    samples.write(tmp_path / "damaged.parquet")
    return tmp_path / "damaged.parquet"


def test_images_that_cannot_be_decoded(model, damaged, tmp_path, capsys):
    out = tmp_path / "features.parquet"
    said = failed(capsys, model, damaged, out)
    assert "damaged/7.png: " in said
    assert "data.on_error=skip" in said
    assert main(["extract", str(model), str(damaged), str(out), "data.on_error=skip", "--fresh"]) == 0
    assert "left out 3 of 10 images: 7.png (" in capsys.readouterr().err
    found = read_features(out)
    assert found.paths == [f"{row}.png" for row in range(7)]
    np.testing.assert_array_equal(found.identities, range(7))


def test_no_image_can_be_decoded(model, damaged, tmp_path, capsys):
    samples = Samples.read(damaged).take([7, 8, 9])
    samples.write(tmp_path / "none.parquet")
    said = failed(
        capsys, model, tmp_path / "none.parquet", tmp_path / "features.parquet", "data.on_error=skip"
    )
    assert "none of the 3 images can be read" in said


def test_features_that_are_not_finite(config, weights, manifest, tmp_path, capsys):
    name = next(iter(weights))
    diverged = written(config, {**weights, name: torch.full_like(weights[name], torch.nan)}, tmp_path / "bad")
    said = failed(capsys, diverged, manifest, tmp_path / "features.parquet")
    assert "model.pt: its features are not finite: the training has diverged" in said
    assert not (tmp_path / "features.parquet").exists()


@pytest.mark.parametrize("method", ["mar", "slsr"])
def test_models_of_other_methods(root, manifest, tmp_path, method):
    if method == "mar":
        config = tiny.mar_config(root, root, tmp_path / "run", numerics__dtype="float32")
    else:
        config = tiny.slsr_config(root, tmp_path / "run", numerics__dtype="float32")
    weights = build_model(config.encoder(IMAGENET), Group.solo()).state_dict()
    found = []
    for mean in ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)):
        colours = {"mean": list(mean), "std": [0.2, 0.2, 0.2]}
        content = {"method": method, "model": weights, "config": to_yaml(config), **colours}
        write_tensors(tmp_path / "model.pt", content)
        out = tmp_path / f"{mean[0]}.parquet"
        assert main(["extract", str(tmp_path / "model.pt"), str(manifest), str(out)]) == 0
        found.append(read_features(out))
    assert found[0].facts.model == found[1].facts.model
    assert np.abs(found[0].features - found[1].features).max() > 1e-3  # by the file's own colours
