"""`raid export` as users call it, on encoders with random weights: what is tested is not the training."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import small_network
import tiny

from raid import __version__
from raid.cli import main
from raid.config import to_yaml
from raid.data.samples import Samples
from raid.data.statistics import IMAGENET, Statistics
from raid.distributed.checkpoint import write_tensors
from raid.methods.encoder import starting_weights
from raid.methods.export import exporting, parity
from raid.methods.known import MethodConfig
from raid.methods.serving import Served
from raid.methods.trained import Trained

MEAN, STD = [0.4, 0.5, 0.3], [0.2, 0.1, 0.3]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("export") / "images", num_identities=4)


def checkpoint(config: MethodConfig, folder: Path, **more: Any) -> Path:
    path = folder / "run" / "model.pt"
    weights = starting_weights(config.encoder(colours(more)))
    write_tensors(path, {"model": weights, "config": to_yaml(config), **more})
    return path


def colours(more: dict[str, Any]) -> Statistics:
    return Statistics(tuple(more["mean"]), tuple(more["std"])) if "mean" in more else IMAGENET


@pytest.fixture
def model(root: Path, tmp_path: Path) -> Path:
    return checkpoint(tiny.config(root, tmp_path / "run", numerics__threads=1), tmp_path)


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if "run" not in path.relative_to(folder).parts)


def embed(onnx: Path, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pixels})[0]


def refused(capsys, *arguments: Any) -> str:
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("raid: ")


def of_method(method: str, root: Path, folder: Path) -> Path:
    chosen = {"numerics__threads": 1}
    if method == "mar":
        config = tiny.mar_config(root, root, folder / "run", **chosen)
        return checkpoint(config, folder, method="mar", mean=MEAN, std=STD)
    if method == "slsr":
        return checkpoint(tiny.slsr_config(root, folder / "run", **chosen), folder, method="slsr")
    return checkpoint(tiny.config(root, folder / "run", **chosen), folder)


@pytest.mark.parametrize("method", ["icsr", "mar", "slsr"])
def test_models_of_every_method_are_exported_as_their_evaluation_sees_images(method, root, tmp_path, capsys):
    path = of_method(method, root, tmp_path)
    onnx = tmp_path / "out" / "people.onnx"
    assert main(["export", str(path.parent), "--onnx", str(onnx), "--threshold", "0.625"]) == 0
    assert f"{onnx}: " in capsys.readouterr().out
    assert outputs(tmp_path) == ["out", "people.json", "people.onnx"]
    record = json.loads((tmp_path / "out" / "people.json").read_text())

    served = Served.read(path, "cpu")  # decodes, normalises and flips by itself
    files = sorted((root / "query").iterdir())[:5]
    pixels = np.stack([np.asarray(tiny.Image.open(file)).transpose(2, 0, 1) for file in files])
    features = served.features([file.read_bytes() for file in files])
    np.testing.assert_allclose(embed(onnx, pixels), features, rtol=0, atol=1e-5)

    assert record["parity"].pop("largest_difference") < 1e-5
    config = served._config
    assert record == {
        "format": 1,
        "raid": __version__,
        "onnx": {
            "file": "people.onnx",
            "sha256": hashlib.sha256(onnx.read_bytes()).hexdigest(),
            "opset": 18,
        },
        "model": record["model"],
        "method": method,
        "backbone": "resnet10",
        "input": {"name": "images", "shape": ["batch", 3, 32, 16], "dtype": "uint8"},
        "output": {
            "name": "features", "shape": ["batch", features.shape[1]], "dtype": "float32", "unit_rows": True,
        },
        "preprocessing": {
            "height": 32,
            "width": 16,
            "resize": "PIL.Image.Resampling.BICUBIC",
            "colours": "RGB",
            "range": [0, 255],
            "in_graph": {
                "divide_by": 255,
                "mean": MEAN if method == "mar" else [0.485, 0.456, 0.406],
                "std": STD if method == "mar" else [0.229, 0.224, 0.225],
            },
        },
        "dimension": features.shape[1],
        "metric": "cosine",
        "flip": config.evaluate.flip,
        "threshold": 0.625,
        "far": None,
        "parity": {"batches": [1, 2, 17]},
    }  # fmt: skip
    assert config.evaluate.flip == (method == "slsr")


def test_mirror_images_are_added_or_not_as_asked_for(model, root, tmp_path):
    def features(*options: str) -> np.ndarray:
        onnx = tmp_path / "people.onnx"
        assert main(["export", str(model), "--onnx", str(onnx), "--crops", str(root), *options]) == 0
        assert json.loads((tmp_path / "people.json").read_text())["flip"] == ("--flip" in options)
        pixels = np.asarray(tiny.Image.open(next((root / "query").iterdir()))).transpose(2, 0, 1)
        both = np.stack([pixels, pixels[..., ::-1]])
        first, mirrored = embed(onnx, both)
        return np.abs(first - mirrored).max()

    assert features("--flip") < 1e-5 < 1e-3 < features("--no-flip")


def test_weights_that_evaluate_in_half_precision_are_exported_in_single(root, tmp_path, capsys):
    config = tiny.config(
        root, tmp_path / "run", numerics__dtype="float32", numerics__autocast="bfloat16", numerics__threads=1
    )
    model = checkpoint(config, tmp_path)
    assert main(["export", str(model), "--onnx", str(tmp_path / "people.onnx")]) == 0
    record = json.loads((tmp_path / "people.json").read_text())
    assert 0 < record["parity"]["largest_difference"] < 1e-5


def test_crops_may_be_a_manifest_or_fewer_than_a_batch(model, root, tmp_path):
    manifest = tmp_path / "set.parquet"
    main(["data", "prepare", str(manifest), f"root={root}", "layout=folder", "pattern=."])
    assert len(Samples.read(manifest)) == 36
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next((root / "query").iterdir()), one)
    for crops in (["--samples", str(manifest)], ["--crops", str(one)]):
        assert main(["export", str(model), "--onnx", str(tmp_path / "people.onnx"), *crops]) == 0


def test_a_graph_that_differs_is_not_kept(model, tmp_path, monkeypatch, capsys):
    whole = exporting.graph_of

    def shifted(network, mean, std, **options):
        return whole(network, (0.485 + 0.02, *mean[1:]), std, **options)

    monkeypatch.setattr(exporting, "graph_of", shifted)
    line = refused(capsys, model, "--onnx", tmp_path / "people.onnx")
    assert line.startswith(f"{model}: the features of the exported graph differ from torch's by up to 0.")
    assert outputs(tmp_path) == []


def test_an_export_that_fails_leaves_the_one_before(model, tmp_path, monkeypatch, capsys):
    onnx = tmp_path / "people.onnx"
    onnx.write_bytes(b"before")
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    assert "more than 0: it is not kept" in refused(capsys, model, "--onnx", onnx)
    assert onnx.read_bytes() == b"before"
    assert outputs(tmp_path) == ["people.onnx"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (0.0, None),
        (0.9e-4, None),
        (1.1e-4, r"differ from torch's by up to 0\.00011, more than 0\.0001"),
        (float("nan"), "features that are not finite"),
        (float("inf"), "features that are not finite"),
    ],
)
def test_the_tolerance(change, message, monkeypatch):
    features = np.random.default_rng(0).standard_normal((20, 4)) / 4
    rows = features.copy()
    rows[11, 2] += change
    monkeypatch.setattr(parity, "_run", lambda *_: np.split(rows, [1, 3]))

    def difference() -> float:
        return parity.largest_difference(b"", np.zeros((20, 3, 2, 2), np.uint8), features, num_threads=1)

    if message is None:
        assert difference() == pytest.approx(change, abs=1e-12)
    else:
        with pytest.raises(parity.InputError, match=message):
            difference()


def test_a_training_that_has_diverged(root, tmp_path, capsys):
    config = tiny.config(root, tmp_path / "run", numerics__threads=1)
    weights = starting_weights(config.training.encoder)
    weights["body.0.weight"][0] = float("nan")
    model = tmp_path / "run" / "model.pt"
    write_tensors(model, {"model": weights, "config": to_yaml(config)})
    assert "the features of the checkpoint are not finite" in refused(
        capsys, model, "--onnx", tmp_path / "people.onnx"
    )
    assert outputs(tmp_path) == []


def threshold_file(folder: Path, path: Path, **changed: Any) -> Path:
    record = {"threshold": 0.5, "far": 0.001, "model": Trained.read(path).fingerprint(), "flip": False}
    file = folder / "run" / "threshold.json"
    file.write_text(json.dumps({**record, **changed, "more": [1]}))
    return file


def test_the_threshold_of_a_file(model, tmp_path):
    onnx = tmp_path / "people.onnx"
    for threshold in (0.5, 1 + 2**-20):  # the second accepts nothing
        file = threshold_file(tmp_path, model, threshold=threshold, height=32, width=16)
        assert main(["export", str(model), "--onnx", str(onnx), "--threshold-file", str(file)]) == 0
        record = json.loads((tmp_path / "people.json").read_text())
        assert (record["threshold"], record["far"]) == (threshold, 0.001)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "0" * 64}, r"is the threshold of another model \(0000000000000000, the checkpoint is "),
        ({"flip": True}, "is of features made with --flip; export with --flip too"),
        ({"flip": None}, "flip: None is neither true nor false"),
        ({"height": 64}, "is of features of images of 64 x 16, the model's are 32 x 16"),
        ({"threshold": "high"}, "threshold: high is not a number from -1 to 1"),
        ({"threshold": 1.5}, "threshold: 1.5 is not a number"),
        ({"threshold": float("nan")}, "threshold: nan is not a number"),
        ({"threshold": True}, "threshold: True is not a number"),
        ({"far": -1}, "far: -1 is not a number from 0 to 1"),
    ],
)
def test_a_threshold_that_is_not_the_models(model, tmp_path, capsys, changed, message):
    file = threshold_file(tmp_path, model, **changed)
    line = refused(capsys, model, "--onnx", tmp_path / "people.onnx", "--threshold-file", file)
    assert line.startswith(f"{file}: ")
    assert re.search(message, line), line
    assert outputs(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds no JSON record"),
        (b"[1]", "it holds no JSON record"),
        (b"[" * 100_000, "it holds no JSON record"),
        (b"\xff\xfe", "it holds no JSON record"),
        (b'{"threshold": 1}', "it lacks far, flip, model"),
        (b'{"a": "' + b"x" * 2**20 + b'"}', "it holds no JSON record"),
        (None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_threshold(model, tmp_path, capsys, content, message):
    file = tmp_path / "run" / "threshold.json"
    if content is not None:
        file.write_bytes(content)
    assert message in refused(capsys, model, "--onnx", tmp_path / "people.onnx", "--threshold-file", file)


def test_what_cannot_work_is_one_line(model, root, tmp_path, capsys, monkeypatch):
    onnx = tmp_path / "people.onnx"
    (tmp_path / "run" / "there").write_text("mine")
    (tmp_path / "run" / "folder.onnx").mkdir()
    (tmp_path / "run" / "spoilt").mkdir()
    (tmp_path / "run" / "spoilt" / "a.png").write_bytes(b"no picture")
    for arguments, message in (
        ([tmp_path / "none", "--onnx", onnx], "there is no such file: give a run's model.pt"),
        ([root / "query", "--onnx", onnx], "not a run folder"),
        ([model, "--onnx", tmp_path / "people.pt"], "is not called FILE.onnx"),
        ([model, "--onnx", tmp_path / "run" / "folder.onnx"], "is a folder; name a file"),
        ([model, "--onnx", tmp_path / "run" / "there" / "p.onnx"], "cannot be written: "),
        ([model, "--onnx", onnx, "--threshold", "1.01"], "--threshold: 1.01 is not a number from -1 to 1"),
        ([model, "--onnx", onnx, "--crops", tmp_path / "none"], "--crops: .*none: there is no such folder"),
        ([model, "--onnx", onnx, "--crops", tmp_path / "run" / "folder.onnx"], "no image file below"),
        ([model, "--onnx", onnx, "--crops", tmp_path / "run" / "spoilt"], r"spoilt/a\.png: cannot identify"),
        ([model, "--onnx", onnx, "--samples", tmp_path / "none.parquet"], "there is no such file"),
    ):
        assert re.search(message, refused(capsys, *arguments)), arguments
        assert outputs(tmp_path) == []
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if "runtime" in name else util)
    line = refused(capsys, model, "--onnx", onnx)
    assert line == "raid export needs onnxruntime: pip install 'raid[export]'"


def test_a_sidecar_that_cannot_be_written_keeps_the_graph_back(model, tmp_path, capsys):
    (tmp_path / "people.json").mkdir()
    assert "cannot be written: " in refused(capsys, model, "--onnx", tmp_path / "people.onnx")
    assert outputs(tmp_path) == ["people.json"]


def test_without_the_trainings_own_pictures_others_are_asked_for(root, tmp_path, capsys):
    copied = Path(shutil.copytree(root, tmp_path / "run" / "images"))
    config = tiny.config(copied, tmp_path / "run", numerics__threads=1)
    model = checkpoint(config, tmp_path)
    shutil.rmtree(copied)
    line = refused(capsys, model, "--onnx", tmp_path / "people.onnx")
    assert line.endswith("give pictures to compare on: --crops FOLDER, or --samples SET")
    assert "the training's own set cannot be read" in line


def test_the_fingerprint_is_of_the_weights_alone(root, tmp_path):
    one = checkpoint(tiny.config(root, tmp_path / "a" / "run", seed=1), tmp_path / "a")
    two = checkpoint(tiny.config(root, tmp_path / "b" / "run", seed=1, inter__epochs=1), tmp_path / "b")
    other = checkpoint(tiny.config(root, tmp_path / "c" / "run", seed=2), tmp_path / "c")
    a, b, c = (Trained.read(path).fingerprint() for path in (one, two, other))
    assert a == b != c
    assert len(a) == 64
