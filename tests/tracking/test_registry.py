"""`raid register`, and what a fresh process gets that knows the registry alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import tracked
from mlflow import MlflowClient
from pictures import encoded, photo

from raid import tracking
from raid.cli import main
from raid.config import to_yaml
from raid.data.images import open_images
from raid.data.samples import Record, Samples
from raid.distributed.checkpoint import write_tensors
from raid.distributed.group import Group
from raid.extract import extract
from raid.methods.encoder import build_model
from raid.run_folder import RunFolder
from raid.tracking.registry import SERVING

README = (Path(__file__).parents[2] / "README.md").read_text()
MARK = "<!-- run by tests/tracking/test_registry.py -->\n"
MEAN, STD = (0.9, 0.2, 0.4), (0.1, 0.5, 0.3)  # far from ImageNet's
# After the README's block: what came of it, and what was imported for it.
AFTERWARDS = """
import json, sys
from importlib.metadata import packages_distributions
import numpy as np
import raid
np.save("features.npy", features)
model.predict(pictures.iloc[:0])
def refused(table):
    try:
        model.predict(table)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
example = model.predict(model.input_example)
owners = packages_distributions()
told = {
    "raid": raid.__file__,
    "column": refused(pictures.rename(columns={"image": "picture"})),
    "type": refused(pandas.DataFrame({"image": [1.5]})),
    "damaged": refused(pandas.DataFrame({"image": [pictures["image"][0], b"no picture"]})),
    "none": model.predict(pictures.iloc[:0]).shape,
    "example": [example.shape, float(np.linalg.norm(example, axis=1).max())],
    "imported": sorted({owner for name in sys.modules for owner in owners.get(name, [])}),
}
print(json.dumps(told))
"""


@dataclass
class Registered:
    """A run that was registered twice, and its registry."""

    folder: RunFolder
    client: MlflowClient
    uri: str
    printed: list[str]


def write_run(path: Path, *, mAP: float = 0.25, **overrides: Any) -> RunFolder:
    """A run of MAR that has ended, with random weights."""
    config = tiny.mar_config(path, path, path, evaluate__flip=True, numerics__dtype="float32", **overrides)
    fingerprints = {"data.root": "0123", "source.root": "4567"}
    folder = RunFolder.open(path, config, fingerprints, method="mar", resume=False, fresh=True)
    folder.record_epoch({"epoch": 0, "train/loss": 3.0, "eval/mAP": 0.9, "eval/rank1": 0.9}, [3.0])
    folder.record_epoch({"epoch": 1, "train/loss": 2.0, "eval/mAP": mAP, "eval/rank1": 0.5}, [2.0])
    content = {
        "method": "mar",
        "model": build_model(config.encoder(), Group.solo()).state_dict(),
        "mean": list(MEAN),
        "std": list(STD),
        "source": "4567",
        "config": to_yaml(config),
    }
    write_tensors(folder.model, content)
    return folder


def registered(*arguments: object) -> int:
    return main(["register", *map(str, arguments)])


@pytest.fixture(scope="module")
def runs_of_module(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("registry") / "runs"
    runs.mkdir()
    shutil.copy(template, runs / "mlflow.db")
    return runs


@pytest.fixture(scope="module")
def twice(runs_of_module: Path) -> Registered:
    """Registered before the training was sent to MLflow, and after."""
    folder, uri = write_run(runs_of_module / "mine"), f"sqlite:///{runs_of_module / 'mlflow.db'}"
    (command,) = re.findall(re.escape(MARK) + r"```sh\nraid (.*)\n```", README)
    arguments = [text.replace("runs/mine", str(folder.path)) for text in command.split()]
    printed = []
    for how in (arguments, ["register", str(folder.path), "people"]):
        with redirect_stdout(StringIO()) as out:
            assert main(how) == 0
        printed.append(out.getvalue())
        tracking.sync(folder, uri)
    return Registered(folder, MlflowClient(tracking_uri=uri), uri, printed)


@pytest.fixture(scope="module")
def fresh(twice: Registered, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The README's program in a process that has neither the run nor this working tree."""
    (program,) = re.findall(re.escape(MARK) + r"```python\n(.*?)```", README, re.DOTALL)
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "photos" / "query").mkdir(parents=True)
    for number, (width, height, kind) in enumerate([(64, 128, "PNG"), (48, 96, "JPEG"), (30, 20, "BMP")]):
        file = place / "photos" / "query" / f"{number}.{kind.lower()}"
        file.write_bytes(encoded(photo(width, height, seed=number), kind))
    hidden = twice.folder.path.rename(twice.folder.path.with_name("hidden"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": twice.uri, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program + AFTERWARDS],
        cwd=place, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    hidden.rename(twice.folder.path)
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout.splitlines()[-1])


def test_a_fresh_process_makes_the_features_of_the_training(twice, fresh):
    place, _ = fresh
    found = np.load(place / "features.npy")
    assert found.dtype == np.float32
    config = tiny.mar_config(place, place, place, numerics__dtype="float32")
    files = sorted((place / "photos" / "query").iterdir())
    records = [Record(str(file.relative_to(place)), None, None, "query") for file in files]
    samples = Samples.scan(place, records, name="photos")
    _, images = open_images(
        samples, height=tiny.HEIGHT, width=tiny.WIDTH, cache_folder=twice.folder.path / "cache"
    )
    model = build_model(config.encoder(), Group.solo())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    pixels = (images.gather(np.arange(3)) / 255 - mean) / std
    with torch.no_grad():
        summed = model.eval().pooled(pixels) + model.pooled(pixels.flip(-1))
    by_hand = (summed / summed.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    own = extract(
        model, images, group=Group.solo(), batch_size=config.numerics.extract_batch,
        augmentation=config.encoder().augmentation, device=torch.device("cpu"), flip=True,
    )  # fmt: skip
    assert np.abs(own.numpy() - by_hand).max() > 1e-3  # by ImageNet's colours: or this test could not fail


def test_the_signature_is_enforced(fresh):
    _, told = fresh
    assert "MlflowException" in told["column"]
    assert "image" in told["column"]
    assert "MlflowException" in told["type"]
    assert told["damaged"].startswith("InputError: picture 1 (from 0): ")
    assert told["none"][0] == 0


def test_the_input_example_is_two_pictures(fresh):
    _, told = fresh
    (rows, columns), norm = told["example"]
    assert rows == 2
    assert columns > 1
    assert norm == pytest.approx(1, abs=1e-5)


def test_a_version_is_complete_in_itself(fresh):
    _, told = fresh
    archive = Path(told["raid"]).parents[1]
    assert archive.parts[-2:] == ("code", "raid.zip")
    needed = set(told["imported"]) & {"faiss-gpu", "faiss-cpu", "ray", *SERVING}
    assert needed == set(SERVING)  # nothing heavy that is not named, nothing named that is not needed


def test_what_is_uploaded_holds_no_pickle_and_pinned_packages(twice):
    run = twice.client.get_run(twice.client.get_model_version("people", "1").run_id)
    (output,) = run.outputs.model_outputs
    logged = twice.client.get_logged_model(output.model_id)
    assert str(logged.status) == "READY"
    files = {
        path.relative_to(logged.artifact_location)
        for path in Path(logged.artifact_location).rglob("*")
        if path.is_file()
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pyc")]
    assert {"artifacts/model.pt", "code/raid.zip", "served_model.py", "MLmodel"} <= set(map(str, files))
    assert len(files) < 15  # a server takes them one by one
    lines = Path(logged.artifact_location, "requirements.txt").read_text().splitlines()
    assert sorted(line.partition("==")[0] for line in lines) == sorted(SERVING)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+(\.?\w+)?", line) for line in lines), lines


def test_versions_and_what_they_are_tagged_with(twice):
    first, second = (twice.client.get_model_version("people", number) for number in ("1", "2"))
    path = twice.folder.path
    assert twice.printed == [
        f"{path}: registered as models:/people/1, models:/people@champion at {twice.uri}\n",
        f"{path}: registered as models:/people/2 at {twice.uri}\n",
    ]
    assert twice.client.get_model_version_by_alias("people", "champion").version == first.version
    for version in (first, second):
        assert version.tags == {
            "method": "mar",
            "run": "mine",
            "config_hash": twice.folder.recorded()["config_hash"],
            "raid_version": "0.1.0",
            "data_fingerprint": "0123",
            "source_fingerprint": "4567",
            "eval/mAP": "0.250000",
            "eval/rank1": "0.500000",
            "image_size": "32 x 16",
            "flip": "true",
        }


def test_the_training_s_run_is_linked_where_mlflow_has_it(twice):
    sent = json.loads((twice.folder.path / "tracking.json").read_text())["sent"][twice.uri]["run_id"]
    first, second = (twice.client.get_model_version("people", number) for number in ("1", "2"))
    assert first.run_id != sent
    own, training = twice.client.get_run(first.run_id), twice.client.get_run(sent)
    assert own.info.status == "FINISHED"
    assert own.data.tags["run_folder"] == str(twice.folder.path)
    assert second.run_id == sent
    (output,) = training.outputs.model_outputs
    assert second.source == twice.client.get_logged_model(output.model_id).artifact_location
    assert training.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/b"], r"NAME: 'a/b' cannot name a registered model: .*"),
        ([" "], r"NAME: ' ' cannot name .*"),
        (["people", "--alias", "latest"], r"--alias: 'latest' cannot be one: .*"),
        (["people", "--alias", "V2"], r"--alias: 'V2' cannot be one: .*"),
        (
            ["people", "--tracking-uri", "http://me:secret@127.0.0.1:9"],
            r"http://me:\*\*\*@.*: Connection refused",
        ),
        (["people", "--tracking-uri", "nonsense://x"], "nonsense://x: .*nonsense.*"),
        (
            ["people", "--tracking-uri", "sqlite:////bin/sh"],
            "sqlite.*: DatabaseError: file is not a database",
        ),
    ],
)
def test_mistakes_are_one_line(runs, capsys, arguments, message):
    folder = write_run(runs / "run")
    assert registered(folder.path, *arguments) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(f"raid: {message}\n", captured.err), captured.err
    assert captured.out == ""
    assert tracked.rows(runs)["runs"] == 0


def test_what_has_no_model_is_told(runs, folder, capsys):
    for path, message in (
        (folder.path, "model.pt: there is no such file: not a run folder, or its run has not ended"),
        (runs / "none", "none: there is no such folder"),
        (runs, "runs: not the folder of a run"),
    ):
        assert registered(path, "people") == 2
        assert message in capsys.readouterr().err
    folder.model.write_bytes(b"weights")
    assert registered(folder.path, "people") == 2
    assert "not a file of tensors" in capsys.readouterr().err


def test_a_training_that_has_diverged_is_not_registered(runs, client, capsys):
    folder = write_run(runs / "run")
    content = torch.load(folder.model, weights_only=True)
    name = next(name for name, value in content["model"].items() if value.dim() == 4)
    content["model"][name][:] = torch.nan
    write_tensors(folder.model, content)
    assert registered(folder.path, "people") == 2
    assert capsys.readouterr().err.endswith("its features are not finite: the training has diverged\n")
    assert client.search_registered_models() == []


def test_an_upload_that_fails_leaves_no_version(runs, client, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", fail)
    folder = write_run(runs / "run")
    assert registered(folder.path, "people") == 2
    assert capsys.readouterr().err.endswith(
        f"raid: sqlite:///{runs / 'mlflow.db'}: No space left on device\n"
    )
    assert client.search_model_versions("name = 'people'") == []
    (experiment,) = client.search_experiments(filter_string="name = 'raid'")
    (logged,) = client.search_logged_models([experiment.experiment_id])
    assert str(logged.status) == "FAILED"
