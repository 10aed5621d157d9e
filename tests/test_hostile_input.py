"""Files that somebody made to do harm: one clear line, nothing executed, nothing written, no hang."""

import importlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import thin_resnet
import tiny
import torch
import yaml
from pictures import bomb

from raid.cli import main
from raid.config import to_yaml
from raid.data.samples import Samples
from raid.distributed.checkpoint import write_tensors
from raid.methods.encoder import starting_weights

pytestmark = pytest.mark.timeout(120)  # what hangs is a failure

Attack = Callable[..., str]
PATTERN = f"pattern={tiny.PATTERN}"


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("hostile") / "people", num_identities=4)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Attack:
    """Run a command in a folder of its own that cannot work; return the line that says so."""
    monkeypatch.chdir(tmp_path)

    def tree() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def refused(*arguments: Any, status: int = 2) -> str:
        before = tree()
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        assert tree() == before
        errors = [line for line in captured.err.splitlines() if line.startswith("raid: ")]
        assert len(errors) == 1, captured.err
        assert "Warning" not in captured.err
        assert len(errors[0]) < 1000
        assert captured.out == ""
        return errors[0].removeprefix("raid: ")

    return refused


class Mischief:
    """A pickle that does something where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


# Manifests and tables


def manifest(file: Path, metadata: dict[str, bytes] | None = None, **columns: Any) -> Path:
    """Write one row, with something wrong in it."""
    row = {"path": "train/0000_c1_0.png", "identity": 1, "camera": 0, "split": "train"}
    row |= {"width": 16, "height": 32, "content": "0" * 32, **columns}
    table = pa.table({name: [value] for name, value in row.items()})
    pq.write_table(table.replace_schema_metadata(metadata or {}), file)
    return file


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..", "."])
def test_a_path_that_leaves_the_set(refused, tmp_path, path):
    secret = tmp_path.parent / "secret.png"
    message = r"'.*' is not a file inside .*; give paths relative to that folder"
    manifest(tmp_path / "set.parquet", path=path)
    (tmp_path / "set.csv").write_text(f"path\n{path}\n")
    for of in ("layout=manifest", "layout=table"):
        line = refused("data", "prepare", "out.parquet", of, "root=set.parquet")
        assert re.match(rf"set\.parquet: (row 1: )?{message}", line), line
    assert re.match(rf"set\.parquet: {message}", refused("data", "check", "set.parquet"))
    assert re.match(rf"set\.csv: row 1: {message}", refused("data", "check", "set.csv"))
    hashing = ["--hash-identities", "--copy", "copies"]
    line = refused("data", "prepare", "out.parquet", "layout=manifest", "root=set.parquet", *hashing)
    assert re.match(rf"set\.parquet: {message}", line)
    assert not secret.exists()


@pytest.mark.parametrize(
    ("columns", "metadata", "message"),
    [
        ({"path": "a\0b.png"}, {}, r"'a\\x00b\.png' is not the path of a file"),
        ({"path": "x" * 10**6}, {}, "'x{80}' is not the path of a file"),
        ({"camera": 2**62}, {}, "column camera is not of numbers from 0 to 999,999"),
        ({"camera": -7}, {}, "column camera is not of numbers from 0"),
        ({"split": "../train"}, {}, r"column split has '\.\./train'; it may be train"),
        ({"identity": "=1+1"}, {}, "not a manifest: "),
        ({}, {"raid.name": b"\xff\xfe"}, "its metadata are not a manifest's"),
        ({}, {"raid.root": b"/tmp/a\0b"}, "its metadata are not a manifest's"),
        ({}, {"raid.facts": b"[" * 10**5}, "its metadata are not a manifest's"),
        ({}, {"raid.facts": b'{"protocol": ["standard"]}'}, "its metadata are not a manifest's"),
        ({}, {"raid.camera_names": b'{"0": "door"}'}, "its metadata are not a manifest's"),
        ({}, {"raid.camera_names": b"no json"}, "its metadata are not a manifest's"),
    ],
)
def test_values_that_no_manifest_has(refused, tmp_path, columns, metadata, message):
    manifest(tmp_path / "set.parquet", metadata, **columns)
    assert re.match(rf"set\.parquet: {message}", refused("data", "check", "set.parquet"))


@pytest.mark.parametrize("header", ["a", "path"])
def test_a_table_of_a_million_columns(refused, tmp_path, header):
    names = ",".join([header, *(f"column{number}" for number in range(10**6))])
    (tmp_path / "wide.csv").write_text(f"{names}\n{'1,' * 10**6}1\n")
    expected = "wide.csv: has more than 10,000 columns; keep those you need"
    assert refused("data", "check", "wide.csv") == expected
    assert refused("data", "prepare", "out.parquet", "layout=table", "root=wide.csv") == expected


def test_a_parquet_file_of_many_columns(refused, tmp_path):
    table = pa.table({f"column{number}": [1] for number in range(10_001)})
    pq.write_table(table, tmp_path / "wide.parquet")
    expected = "wide.parquet: has more than 10,000 columns; keep those you need"
    assert refused("data", "check", "wide.parquet") == expected
    assert refused("data", "prepare", "out.parquet", "layout=table", "root=wide.parquet") == expected
    pq.write_table(table.select(range(9_000)), tmp_path / "wide.parquet")
    line = refused("data", "check", "wide.parquet")
    assert line.startswith("wide.parquet: not a manifest: it lacks path, ")
    assert "column19, ... (9,000)" in line
    assert "column20" not in line


@pytest.mark.parametrize("command", ["check", "prepare", "pack"])
def test_a_small_parquet_file_of_a_large_table(refused, tmp_path, monkeypatch, command):
    """A text of 64 KiB, 100,000 times: 0.2 MiB on disk, 6 GiB in memory."""
    monkeypatch.setattr("raid.data.manifest._LARGEST", 2**28)
    rows = 100_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), ["x" * 2**16])
    (tmp_path / "pack").mkdir()
    file = tmp_path / ("pack/pack.parquet" if command == "pack" else "bomb.parquet")
    pq.write_table(pa.table({"path": text}), file, store_schema=False)
    assert file.stat().st_size < 2**18
    arguments: dict[str, list[Any]] = {
        "check": ["data", "check", file.name],
        "prepare": ["data", "prepare", "out.parquet", "layout=table", f"root={file.name}"],
        "pack": ["data", "check", "pack"],
    }
    line = refused(*arguments[command])
    assert line.endswith("takes more than 0.25 GiB of memory: not a list of images")


def test_a_formula_is_a_text(people, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    formulas = ["=cmd|'/C calc'!A0", "@SUM(1+1)", "+1+1", "-2+3"]
    files = sorted(people.glob("train/*.png"))[:4]
    rows = [f'{file},"{text}","{text}"' for file, text in zip(files, formulas, strict=True)]
    (people / "set.csv").write_text("\n".join(["path,identity,camera", *rows, ""]))
    assert main(["data", "prepare", "out.parquet", "layout=table", f"root={people / 'set.csv'}"]) == 0
    samples = Samples.read(tmp_path / "out.parquet")
    assert sorted(samples.camera_names) == sorted(formulas)
    assert sorted(samples.identities.tolist()) == [0, 1, 2, 3]
    (people / "set.csv").unlink()


@pytest.mark.parametrize(
    "content", [b"", b"path\nx" + b"x" * 10**7, bytes(range(256)) * 100, b"\xff\xfe" * 50]
)
def test_a_csv_that_is_none(refused, tmp_path, content):
    (tmp_path / "set.csv").write_bytes(content)
    assert re.match(r"set\.csv: ", refused("data", "check", "set.csv"))


# Images


@pytest.fixture
def bombs(tmp_path: Path) -> Path:
    root = tmp_path / "bombs"
    tiny.write_images(root, num_identities=4)
    for split in ("train", "query", "gallery"):
        (root / split / "0009_c1_9.png").write_bytes(bomb())
    return root


def test_an_image_bomb(refused, bombs, tmp_path, capsys):
    of_bombs = ["layout=folder", "root=bombs", PATTERN]
    line = refused("data", "prepare", "out.parquet", *of_bombs)
    assert re.match(r"bombs/gallery/0009_c1_9\.png: Image size \(900000000 pixels\) exceeds limit", line)
    assert main(["data", "check", *of_bombs]) == 1
    assert "unreadable (3)" in capsys.readouterr().out
    model = checkpoint(tmp_path / "run" / "model.pt", bombs)
    assert "exceeds limit" in refused("evaluate", model)
    (tmp_path / "alone").mkdir()
    (bombs / "train" / "0009_c1_9.png").rename(tmp_path / "alone" / "0009_c1_9.png")
    line = refused("export", model, "--onnx", "people.onnx", "--crops", "alone")
    assert re.search(r"/alone/0009_c1_9\.png: Image size \(900000000 pixels\) exceeds limit", line)


# MATLAB files


def no_mat(file: Path) -> None:
    file.write_bytes(b"no mat")


def cut_off(file: Path) -> None:
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))


def of_another_version(file: Path) -> None:
    scipy.io.savemat(file, {"detected": np.zeros(5)})


def of_other_values(file: Path) -> None:
    with h5py.File(file, "w") as mat:
        mat["detected"], mat["testsets"] = np.arange(5.0), np.zeros((20, 1))


def of_itself(file: Path) -> None:
    """What refers to itself has no end."""
    with h5py.File(file, "w") as mat:
        for name, length in (("detected", 5), ("testsets", 20)):
            cells = mat.create_dataset(name, (1, length), h5py.ref_dtype)
            cells[:] = cells.ref


@pytest.mark.parametrize("write", [no_mat, cut_off, of_another_version, of_other_values, of_itself])
def test_a_mat_that_is_none(refused, tmp_path, write):
    write(tmp_path / "cuhk-03.mat")
    options = ["layout=cuhk03", "root=.", "protocol=classic"]
    assert re.match(
        r"cuhk-03\.mat: (cannot be opened as|is not)", refused("data", "prepare", "o.parquet", *options)
    )
    assert re.match(r"cuhk-03\.mat: (cannot be opened as|is not)", refused("data", "check", *options))


def test_a_protocol_that_names_files_elsewhere(refused, tmp_path):
    (tmp_path / "images_detected").mkdir()
    name = "cuhk03_new_protocol_config_detected.mat"
    (tmp_path / name).write_bytes(b"no mat")
    line = refused("data", "prepare", "o.parquet", "layout=cuhk03", "root=.")
    assert line.startswith(f"{name}: is not the new protocol's file")
    secret = {"filelist": np.array(["../../secret/1_001_1_01.png"], object), "labels": [1]}
    scipy.io.savemat(tmp_path / name, {**secret, "train_idx": [1], "query_idx": [1], "gallery_idx": [1]})
    line = refused("data", "prepare", "o.parquet", "layout=cuhk03", "root=.")
    assert "such as images_detected/1_001_1_01.png" in line


# Configurations


def laughs() -> str:
    """Nine aliases of ten each: a thousand million values in 500 bytes."""
    lines = ["a0: &a0 [lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, "seed: *a9"])


def merges() -> str:
    lines = ["a0: &a0 {seed: 1}"]
    return "\n".join([*lines, *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))])


CONFIGURATIONS = {
    "tag": ("seed: !!python/object/apply:os.mkdir [owned]", "not YAML: could not determine a constructor"),
    "laughs": (laughs(), "not YAML: more than 100,000 values, with its aliases written out"),
    "merges": (merges(), "not YAML: more than 100,000 values, with its aliases written out"),
    "list in itself": ("seed: &a [*a]", "not YAML: a value that contains itself"),
    "mapping in itself": ("data: &a {root: *a}", "not YAML: a value that contains itself"),
    "deep": ("seed: " + "[" * 5_000, "not YAML: nested too deeply"),
    "large": ("seed: 1 # " + "x" * 2**18, "is larger than 256 KiB: no configuration"),
    "binary": ("\x00\x01", "not YAML: unacceptable character"),
}


@pytest.mark.parametrize("of", CONFIGURATIONS)
def test_a_configuration_that_does_harm(refused, tmp_path, of):
    text, message = CONFIGURATIONS[of]
    (tmp_path / "run.yaml").write_text(text)
    for command in (["config", "icsr"], ["plan", "mar"], ["slsr", "--backend", "local"]):
        line = refused(*command, "run.yaml")
        assert line.startswith(f"run.yaml: {message}"), line
    write_tensors(tmp_path / "model.pt", {"model": {}, "config": text})
    for command in (["evaluate", "model.pt"], ["export", "model.pt", "--onnx", "people.onnx"]):
        assert refused(*command).startswith(f"model.pt: {message}")


@pytest.mark.parametrize("value", ["&a [*a]", "[" * 5_000, "!!python/name:os.mkdir", "&a [1, *a"])
def test_an_override_that_does_harm(refused, value):
    line = refused("config", "icsr", "/dev/null", f"seed={value}")
    assert re.match(r"seed: .* is not a YAML value; quote a text", line)


def test_wrong_values_are_not_told_at_length(tmp_path, capsys):
    for value in ("[" + "1," * 20_000 + "]", "0x" + "f" * 20_000):
        (tmp_path / "run.yaml").write_text(f"seed: {value}")
        assert main(["config", "icsr", str(tmp_path / "run.yaml")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "seed" in line]
        assert len(line) < 300


def test_a_file_without_end_is_no_configuration(refused):
    assert refused("config", "icsr", "/dev/zero") == "/dev/zero: is larger than 256 KiB: no configuration"


def test_anchors_that_mean_no_harm_are_understood(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("intra: &a {epochs: 7}\ninter: {<<: *a, steps: 3}\ndata: {root: x}")
    assert main(["config", "icsr", str(tmp_path / "run.yaml")]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert (resolved["intra"]["epochs"], resolved["inter"]["epochs"], resolved["inter"]["steps"]) == (7, 7, 3)


# Checkpoints


def checkpoint(path: Path, root: Path, **changed: Any) -> Path:
    config = tiny.config(root, path.parent, numerics__threads=1)
    content = {"model": starting_weights(config.training.encoder), "config": to_yaml(config)}
    write_tensors(path, {**content, **changed})
    return path


@pytest.mark.parametrize("way", ["pickle", "zip", "old", "in the weights"])
def test_a_pickled_checkpoint_is_not_executed(refused, people, tmp_path, way):
    owned, model = tmp_path / "owned", tmp_path / "run" / "model.pt"
    model.parent.mkdir()
    if way == "pickle":
        model.write_bytes(pickle.dumps(Mischief(owned)))
    elif way == "in the weights":
        torch.save({"config": "seed: 1", "model": {"a": Mischief(owned)}}, model)
    else:
        torch.save(Mischief(owned), model, _use_new_zipfile_serialization=way == "zip")
    message = "run/model.pt: not a file of tensors and plain values: it is damaged or holds other objects"
    for command in (["evaluate", "run"], ["export", "run", "--onnx", "p.onnx", "--crops", people]):
        assert refused(*command).startswith(message)
    config = tmp_path / "icsr.yaml"
    config.write_text(to_yaml(tiny.config(people, tmp_path / "new")))
    line = refused("icsr", config, "--backend", "local", f"model.weights={model}")
    assert re.match(r"model\.weights: .*model\.pt: not a file of tensors", line)
    assert not owned.exists()
    if way == "pickle":  # it would have been
        importlib.import_module("pickle").loads(model.read_bytes())
        assert owned.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": []}, r"run/model\.pt: its weights do not fit resnet10: "),
        ({"model": {"body.conv1.weight": "text"}}, r"run/model\.pt: its weights do not fit resnet10: "),
        ({"model": {1: torch.zeros(2)}}, r"run/model\.pt: its weights do not fit resnet10: "),
        (
            {"model": {"body.conv1.weight": torch.zeros(3)}},
            r"run/model\.pt: its weights do not fit resnet10: ",
        ),
        ({"mean": "red", "std": None}, r"run/model\.pt: mean and std are not three numbers each"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0, 1.0]}, r"run/model\.pt: mean and std are not three numbers"),
        ({"method": "../icsr"}, r"run/model\.pt: unknown method '\.\./icsr'; known: "),
        ({"method": ["icsr"]}, r"run/model\.pt: unknown method \['icsr'\]; known: "),
        ({"config": 7}, r"run/model\.pt: not a model that a run of raid ended with: it has no configuration"),
        ({"config": "data: {root: x}\nseed: [1]"}, r"seed: Input should be a valid integer, got \[1\]"),
    ],
)
def test_a_checkpoint_with_other_values(refused, people, tmp_path, changed, message):
    checkpoint(tmp_path / "run" / "model.pt", people, **changed)
    for command in (["evaluate", "run"], ["export", "run", "--onnx", "people.onnx"]):
        assert re.match(message, refused(*command))
