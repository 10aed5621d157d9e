"""Local labels that a run of ICSR takes from another one, and stage 1 by itself."""

import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_network
import tiny
from comparing import assert_same_bits, timeless, weights
from dying import Killed, kill_at

from raid import machine
from raid.config import flatten, load
from raid.distributed.backend import LocalBackend
from raid.errors import InputError
from raid.methods.icsr import intra_camera
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.local_labels import take_local_labels, write_local_labels
from raid.methods.icsr.memory import ClusterTask, cluster_bytes, usual_entries
from raid.methods.icsr.preparation import _of_stage_1, prepare_local_labels
from raid.methods.inputs import Inputs, open_inputs
from raid.methods.launch import local_backend
from raid.methods.reporting import rewrite_report
from raid.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with small_network.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("icsr_labels") / "images")


@pytest.fixture(scope="module")
def inputs(root: Path) -> Inputs:
    return open_inputs(tiny.config(root, root.parent).data)


@pytest.fixture(scope="module")
def whole(root: Path) -> RunFolder:
    """A run that does stage 1 itself."""
    return icsr.run(tiny.config(root, root.parent / "whole"))


def taking(root: Path, folder: Path, file: Path, **overrides: Any) -> IcsrConfig:
    return tiny.config(root, folder, intra__labels=str(file), **overrides)


def untrained(*arguments: Any) -> None:
    raise AssertionError("a camera is trained")


def assert_equal_runs(ours: RunFolder, whole: RunFolder) -> None:
    assert ours.steps() == whole.steps()
    assert timeless(ours) == timeless(whole)
    assert_same_bits(weights(ours.model), weights(whole.model))
    assert ours.local_labels.read_bytes() == whole.local_labels.read_bytes()


def test_a_run_that_takes_the_labels_is_the_run_that_made_them(root, whole, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(intra_camera, "train_camera", untrained)
    config = taking(root, tmp_path / "run", whole.local_labels)
    ours = icsr.run(config)
    assert_equal_runs(ours, whole)
    assert not ours.local.exists()
    before, data = whole.recorded()["data"], ours.recorded()["data"]
    assert isinstance(before, str)  # as ever: older runs are gone on with
    assert (set(data), data["data.root"]) == ({"data.root", "intra.labels"}, before)
    caplog.clear()
    rewrite_report(ours.path)
    assert "without pictures" not in caplog.text
    assert ours.report.read_text().count("<img") == whole.report.read_text().count("<img") > 0


def test_what_determines_a_run_is_written_as_before(root, whole):
    assert "intra.labels" not in whole.recorded()["config"]
    assert_equal_runs(icsr.run(tiny.config(root, whole.path), resume=True), whole)


def test_labels_that_have_changed_are_refused(root, inputs, whole, tmp_path):
    file = tmp_path / "labels.parquet"
    file.write_bytes(whole.local_labels.read_bytes())
    run = icsr.run(taking(root, tmp_path / "run", file))
    assert_equal_runs(icsr.run(taking(root, run.path, file), resume=True), whole)
    labels = pq.read_table(file)["local_label"].to_numpy().copy()
    labels[[0, 1]] = labels[[1, 0]] if labels[0] != labels[1] else [0, 1]
    write_local_labels(inputs.train, labels, file)
    others = (taking(root, run.path, file), tiny.config(root, run.path))
    for config in others:
        with pytest.raises(InputError, match=r"^intra\.labels: is not the file that .*run was made with"):
            icsr.run(config, resume=True)
    with pytest.raises(InputError, match=r"^intra\.labels: is not the file"):
        icsr.run(taking(root, whole.path, file), resume=True)


def test_the_baseline_takes_no_labels(root, tmp_path):
    nowhere = tmp_path / "none.parquet"
    run = icsr.run(taking(root, tmp_path / "run", nowhere, refine__enabled=False, inter__epochs=1))
    assert isinstance(run.recorded()["data"], str)
    assert not run.local_labels.exists()


class Mischief:
    """A pickle that does something where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


Table = Callable[[pa.Table], pa.Table]


def column(name: str, values: Callable[[np.ndarray], Any]) -> Table:
    """Return what puts other values into a column."""

    def changed(table: pa.Table) -> pa.Table:
        found = values(np.array(table[name].to_pylist(), dtype=object).copy())
        return table.set_column(table.column_names.index(name), name, pa.array(list(found)))

    return changed


def first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def changed(values: np.ndarray) -> np.ndarray:
        values[0] = value
        return values

    return changed


OF_OTHERS = "is of other training images than those of section data"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["local_label"]), "wrote: it has no column local_label"),
        (lambda table: table.drop_columns(["path", "camera"]), "it has no column path, camera"),
        (lambda table: table.slice(1), OF_OTHERS),
        (lambda table: pa.concat_tables([table, table]), OF_OTHERS),
        (lambda table: table.take(np.arange(len(table))[::-1].copy()), OF_OTHERS),
        (column("path", first("train/another.png")), OF_OTHERS),
        (column("camera", first(2)), OF_OTHERS),
        (lambda table: table.replace_schema_metadata({"raid.train": "0" * 32}), OF_OTHERS),
        (column("local_label", first(-2)), r"train/0000_c1_0\.png has label -2; the labels of a camera"),
        (column("local_label", first(15)), r"train/0000_c1_0\.png has label 15; the labels of a camera"),
        (column("local_label", first(None)), "column local_label holds int64 or gaps"),
        (column("local_label", first(0.5)), "column local_label holds double"),
    ],
)
def test_labels_that_do_not_fit_are_refused(inputs, whole, tmp_path, change, message):
    file = tmp_path / "labels.parquet"
    pq.write_table(change(pq.read_table(whole.local_labels)), file)
    with pytest.raises(InputError, match=rf"^intra\.labels: {file}:? .*{message}"):
        take_local_labels(file, inputs.train)


@pytest.mark.parametrize("kind", ["nothing", "a folder", "text", "pickle", "cut off"])
def test_what_is_no_such_file_is_refused_before_anything_is_written(root, whole, tmp_path, kind):
    file, touched = tmp_path / "labels.parquet", tmp_path / "touched"
    content = whole.local_labels.read_bytes()
    match kind:
        case "a folder":
            file.mkdir()
        case "text":
            file.write_text("path,identity,camera,local_label\n")
        case "pickle":
            file.write_bytes(pickle.dumps(Mischief(touched)))
        case "cut off":
            file.write_bytes(content[: len(content) // 2])
    config = taking(root, tmp_path / "run", file)
    message = "there is no such file" if kind in ("nothing", "a folder") else "not a Parquet file"
    with pytest.raises(InputError, match=rf"^intra\.labels: {file}: {message}"):
        icsr.run(config)
    assert not config.run.folder.exists()
    assert not touched.exists()


def test_pictures_that_have_changed_are_told_where_the_file_knows_them(inputs, whole, tmp_path):
    contents = inputs.train.table["content"].to_pylist()
    place = inputs.train.table.column_names.index("content")
    other = inputs.train.table.set_column(place, "content", pa.array([contents[1], *contents[1:]]))
    train = type(inputs.train)(inputs.train.root, other, inputs.train.name)
    with pytest.raises(InputError, match=OF_OTHERS):
        take_local_labels(whole.local_labels, train)
    # An older raid wrote the names alone.
    file, table = tmp_path / "labels.parquet", pq.read_table(whole.local_labels)
    pq.write_table(table.replace_schema_metadata(None), file)
    for images in (train, inputs.train):
        found = take_local_labels(file, images)
        assert found.labels.tolist() == table["local_label"].to_pylist()
        assert found.labels.dtype == np.int64


def test_outliers_and_as_many_labels_as_images_are_taken(inputs, tmp_path):
    train, file = inputs.train, tmp_path / "labels.parquet"
    labels = np.full(len(train), -1)
    labels[train.cameras == 0] = np.arange(15)[::-1]
    write_local_labels(train, labels, file)
    assert take_local_labels(file, train).labels.tolist() == labels.tolist()


def prepared(config: IcsrConfig, folder: Path) -> Path:
    return prepare_local_labels(config, local_backend(config), folder)


def test_stage_1_by_itself_serves_every_run_that_differs_behind_it(root, whole, tmp_path, monkeypatch):
    config = tiny.config(root, tmp_path / "run")
    file = prepared(config, tmp_path / "stage_1")
    assert file == tmp_path / "stage_1" / "local_labels.parquet"
    assert file.read_bytes() == whole.local_labels.read_bytes()
    assert not config.run.folder.exists()
    assert load(IcsrConfig, RunFolder(tmp_path / "stage_1").config).intra == config.intra
    assert_equal_runs(icsr.run(taking(root, tmp_path / "run", file)), whole)
    monkeypatch.setattr(LocalBackend, "pool", untrained)
    others = (
        {"inter__num_clusters": 5, "inter__method": "dbscan", "refine__decay": "linear", "scale": "weak"},
        {"preset": "paper", "intra__select": "silhouette", "refine__enabled": False, "evaluate__every": 0},
        {"intra__labels": "nowhere.parquet", "run__workers": 2, "model__batch_norm": "ghost"},
    )
    for chosen in others:
        assert prepared(tiny.config(root, tmp_path / "other", **chosen), tmp_path / "stage_1") == file
    with pytest.raises(InputError, match=r"intra\.steps was 2, is 3"):
        prepared(tiny.config(root, tmp_path / "run", intra__steps=3), tmp_path / "stage_1")


def test_stage_1_by_itself_is_gone_on_with_camera_by_camera(root, whole, tmp_path, monkeypatch):
    config = tiny.config(root, tmp_path / "run")
    with monkeypatch.context() as patch:
        kill_at(patch, intra_camera, "_write_table", 1, after=True)
        with pytest.raises(Killed):
            prepared(config, tmp_path / "stage_1")
    cameras = []
    real = intra_camera.train_camera
    monkeypatch.setattr(
        intra_camera, "train_camera", lambda camera, job: cameras.append(camera) or real(camera, job)
    )
    assert prepared(config, tmp_path / "stage_1").read_bytes() == whole.local_labels.read_bytes()
    assert len(cameras) == 2


def test_stage_1_by_itself_is_checked_as_a_run_is(root, tmp_path, monkeypatch):
    folder = tmp_path / "stage_1"
    with pytest.raises(InputError, match=r"^intra\.num_clusters: 16 clusters of the 15 images of camera 1"):
        prepared(tiny.config(root, tmp_path / "run", intra__num_clusters=16, refine__enabled=False), folder)
    with pytest.raises(InputError, match=r"^inter\.num_clusters: 46 clusters of 45 training images"):
        prepared(tiny.config(root, tmp_path / "run", inter__num_clusters=46), folder)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**10)
    with pytest.raises(InputError, match=r"^data\.root: to cluster 45 training images takes"):
        prepared(tiny.config(root, tmp_path / "run"), folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    "chosen",
    [
        {"inter__method": "dbscan", "neighbors__keep": "within_eps"},
        {"intra__method": "dbscan", "neighbors__keep": "within_eps"},
        {"neighbors__k1": "auto"},
        {"scale": "weak", "run__workers": 4, "sampler__identities": 2},
        {"model__batch_norm": "local", "run__workers": 4},
    ],
    ids=str,
)
def test_the_configuration_of_stage_1_can_be_read_again(root, tmp_path, chosen):
    config = _of_stage_1(tiny.config(root, tmp_path / "run", **chosen))
    assert load(IcsrConfig, overrides=flatten(config)) == config


def test_what_stage_1_needs_does_not_matter_to_a_run_that_takes_its_labels(
    root, inputs, whole, tmp_path, caplog
):
    """Neither a camera's clusters nor the memory that they take."""
    many = {"intra__num_clusters": 16, "neighbors__k1": 15}
    with pytest.raises(InputError, match=r"^intra\.num_clusters"):
        icsr.check(tiny.config(root, tmp_path / "run", **many), inputs)
    with caplog.at_level(logging.WARNING):
        icsr.check(taking(root, tmp_path / "run", whole.local_labels, **many), inputs)
    assert "camera" not in caplog.text
    # All images are of one camera, and stage 2 keeps less of their similarity.
    lean = {"inter__method": "dbscan", "neighbors__keep": "within_eps"}
    train = inputs.train.take(np.resize(np.flatnonzero(inputs.train.cameras == 0), 20_000))
    config = tiny.config(root, tmp_path / "run", **lean)
    task = ClusterTask.intra(config, len(train), 16)
    available = int(cluster_bytes(task, usual_entries(len(train), task.sizes[0]))) - 1
    with pytest.raises(InputError, match=r"to cluster 20000 images of one camera"):
        icsr.check_memory(config, train, 16, available)
    icsr.check_memory(taking(root, tmp_path / "run", whole.local_labels, **lean), train, 16, available)
