"""The same run on Ray: its pool and its trainer, on one local cluster that the tests here share."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sweeping
import tiny
import torch
from comparing import losses, timeless
from mar_steps import configured
from sweeping import options
from tracked import until

from raid.config import to_yaml
from raid.data import synthetic
from raid.distributed.backend import LocalBackend
from raid.distributed.checkpoint import write_tensors
from raid.distributed.fanout import FanOut, InProcess
from raid.distributed.group import Group
from raid.errors import InputError
from raid.methods.answers import extraction
from raid.methods.encoder import Encoder, starting_weights
from raid.methods.icsr import clustering
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.clustering_trials import stability
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.inter_camera import SPANS
from raid.methods.inputs import load_samples, open_inputs
from raid.methods.launch import local_backend
from raid.methods.mar import recipe as mar
from raid.methods.pool_extraction import extract_on_pool
from raid.methods.sections import Clustering, Neighbors
from raid.methods.slsr import gan_training
from raid.methods.slsr import gans as slsr_gans
from raid.methods.slsr import recipe as slsr
from raid.methods.slsr.gan_job import GanJob
from raid.methods.slsr.gan_training import train_gan
from raid.methods.slsr.gans import train_gans
from raid.methods.stage import SPANS as MAR_SPANS
from raid.methods.sweeps.definition import SILHOUETTE, Sweep
from raid.ops.jaccard import jaccard_similarity
from raid.run_folder import RunFolder
from raid.sweep_folder import Axis, SweepFolder

ray = pytest.importorskip("ray")
from raid.distributed import ray_backend as backend_module  # noqa: E402
from raid.distributed.ray_backend import RayBackend  # noqa: E402
from raid.distributed.ray_memo import Memo, begin  # noqa: E402
from raid.distributed.ray_pool import RayPool  # noqa: E402
from raid.methods.on_ray import ray_backend  # noqa: E402
from raid.methods.sweeps import clustering as clustering_sweep  # noqa: E402
from raid.methods.sweeps.driver import run_sweep  # noqa: E402


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of this process alone: another one on the machine is neither joined nor disturbed."""
    folders = os.pathsep.join(str(folder) for folder in (Path(__file__).parent, Path(tiny.__file__).parent))
    environment = {"env_vars": {"PYTHONPATH": folders}}  # the processes import functions of this file
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[RayPool]:
    pool = RayPool.start(2, threads=1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("ray") / "images")


def describe(item: int, shared: np.ndarray) -> tuple[int, bool, int, float]:
    time.sleep(0.05 * (item % 3))
    return item, shared.flags.writeable, torch.get_num_threads(), float(shared.sum())


def die_once(item: int, folder: Path) -> int:
    mark = folder / f"died_{item}"
    if item == 3 and not mark.exists():
        mark.touch()
        os._exit(7)
    return item * item


def fail(item: int) -> int:
    raise InputError(f"item {item} is bad")


def test_pool_keeps_the_order_and_shares_arrays_read_only(pool):
    shared = pool.share(np.ones(1000))
    results = list(pool.map(describe, range(11), shared))
    assert results == [(item, False, 1, 1000.0) for item in range(11)]


def test_pool_without_items_is_nothing(pool):
    assert list(pool.map(describe, [], np.ones(1))) == []


def test_pool_starts_a_dead_process_anew_and_gives_it_the_item_again(pool, tmp_path):
    assert list(pool.map(die_once, range(8), tmp_path)) == [item * item for item in range(8)]
    assert (tmp_path / "died_3").exists()


def test_pool_passes_on_the_failure_of_an_item_and_goes_on_afterwards(pool):
    with pytest.raises(InputError, match="item 0 is bad"):
        list(pool.map(fail, range(4)))
    assert len(list(pool.map(describe, range(3), np.ones(2)))) == 3


def test_blocks_of_rows_are_the_same_bytes_as_in_this_process(pool):
    rows = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    here = jaccard_similarity(rows, k1=10, k2=4, block_rows=64)
    there = jaccard_similarity(rows, k1=10, k2=4, block_rows=64, map_blocks=pool.map)
    for ours, theirs in ((here.data, there.data), (here.indices, there.indices), (here.indptr, there.indptr)):
        assert ours.tobytes() == theirs.tobytes()


def test_clusters_are_the_same_on_the_pool_by_an_approximate_search_and_on_disk(pool, tmp_path):
    torch.set_num_threads(1)
    rows = synthetic.features(1, num_identities=100, images_per_identity=10, dim=64).features
    neighbors = Neighbors(k1=10, search="approximate", probes=3)
    here = clustering.cluster(rows, Clustering(), 100, neighbors, seed=3)
    on_disk = replace(neighbors, similarity="disk")
    there = clustering.cluster(
        rows, Clustering(), 100, on_disk, seed=3, scratch=tmp_path, map_blocks=pool.map
    )
    assert there.labels.tobytes() == here.labels.tobytes()
    assert (there.recall, there.silhouette) == (here.recall, here.silhouette)
    assert list(tmp_path.iterdir()) == []


def noted(key: int, shared: np.ndarray, folder: Path) -> np.ndarray:
    (folder / str(key)).touch()
    if key == 9:
        raise InputError("nine is bad")
    return shared + key


def test_what_is_shared_is_made_once_and_two_ahead(cluster, tmp_path):
    shared = begin(np.ones, 1000)
    memo = Memo.start(noted, shared, tmp_path, at_most=1, order=[3, 1, 4, 5, 9])

    def made(*keys: int) -> bool:
        found = {path.name for path in tmp_path.iterdir()}
        assert found <= {str(key) for key in keys}
        return len(found) == len(keys)

    until(lambda: made(3, 1))
    first = memo.get(3)
    assert first.sum() == 4000
    assert not first.flags.writeable
    until(lambda: made(3, 1, 4))
    (tmp_path / "1").unlink()
    assert memo.get(1).sum() == 2000  # what was made ahead
    until(lambda: made(3, 4, 5))
    assert memo.get(7).sum() == 8000  # nobody said that it would be asked for
    with pytest.raises(InputError, match="nine is bad"):
        memo.get(9)
    memo.close()


def test_a_clustering_sweep_has_the_labels_of_each_clustering_alone(cluster, root, tmp_path):
    random = np.random.default_rng(0)
    config = tiny.config(root, tmp_path / "sweep")
    identities = load_samples(config.data).split("train").identities
    files = tuple(tmp_path / f"features_{place}.npy" for place in range(2))
    for file in files:
        rows = random.normal(size=(99, 32))[identities] + 0.4 * random.normal(size=(len(identities), 32))
        np.save(file, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    axes = (Axis("neighbors.k1", (6, 10)), Axis("inter.method", ("agglomerative", "dbscan", "kmeans")))
    run_sweep(
        Sweep("clustering", "icsr", "clusters", axes, (SILHOUETTE,)),
        options(sweeping.run_file(tmp_path, root)),
        clustering_sweep.Clustering(files, "global"),
    )
    folder = SweepFolder(tmp_path / "sweep")
    trials = folder.trials()
    assert [trial.state for trial in trials] == ["done"] * 6
    for trial in trials:
        neighbors = replace(config.neighbors, k1=trial.point["neighbors.k1"])
        how = replace(config.inter, method=trial.point["inter.method"])
        alone = [
            clustering.cluster(np.load(file), how, how.num_clusters, neighbors, seed=trial.seed)
            for file in files
        ]
        run = folder.run(trial.number)
        np.testing.assert_array_equal(np.load(run.path / "labels.npy"), alone[0].labels)
        assert trial.value == alone[0].silhouette
        (line,) = run.metrics()
        assert line["cluster/churn"] == 1 - stability(alone[0].labels, alone[1].labels)


def test_extraction_on_the_pool_is_the_same_bytes_as_by_the_workers(pool, root):
    torch.set_num_threads(1)  # as in the pool: the bits of a convolution may depend on it
    config = tiny.config(root, root.parent, numerics__dtype="float32", numerics__extract_batch=16)
    images = open_inputs(config.data).train_images
    settings = config.training.encoder
    encoder = Encoder(settings, starting_weights(settings), Group.solo(), torch.device("cpu"))
    for what in ({}, {"flip": True}, {"kind": "pooled"}, {"kind": "map"}):
        expected = encoder.extract(images, **what)
        for fanout in (pool, InProcess()):
            found = extract_on_pool(encoder.model, settings, images, fanout, **what)
            assert torch.equal(found, expected), what
        assert len(found) == len(images) > settings.numerics.extract_batch


def test_a_file_of_features_is_the_same_bytes_from_the_pool(pool, root, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART_ROWS", 16)
    config = tiny.config(root, tmp_path / "run", numerics__dtype="float32", numerics__extract_batch=16)
    weights = starting_weights(config.training.encoder)
    write_tensors(tmp_path / "model.pt", {"model": weights, "config": to_yaml(config)})
    backend, found = local_backend(config), []
    for fanout in (InProcess(), pool):
        monkeypatch.setattr(backend, "pool", lambda num_items, fanout=fanout: nullcontext(fanout))
        out = tmp_path / "features.parquet"
        prepared = extraction.prepared(
            tmp_path / "model.pt", str(root), out, [f"data.pattern={tiny.PATTERN}"], overwrite=True
        )
        extraction.extract_file(prepared, backend)
        found.append(out.read_bytes())
    assert found[0] == found[1]


# A trainer starts in seconds to tens of seconds: four runs, of which SLSR's has two stages, and one that
# fails are all that start one.
RUNS = {1: {"extract__on": "pool"}, 2: {}}


def run(root: Path, name: str, workers: int, **overrides: object) -> tuple[IcsrConfig, RunFolder]:
    config = tiny.config(root, root.parent / name, run__workers=workers, pool__size=2, **overrides)
    return config, RunFolder(config.run.folder)


@pytest.fixture(scope="module")
def local(root: Path) -> RunFolder:
    config, folder = run(root, "local", 1)
    icsr.run(config)
    return folder


@pytest.fixture(scope="module", params=sorted(RUNS))
def on_ray(request: pytest.FixtureRequest, root: Path, cluster: None) -> RunFolder:
    config, folder = run(root, f"ray_{request.param}", request.param, **RUNS[request.param])
    icsr.run(config, ray_backend(config))
    return folder


def test_a_run_on_ray_has_the_losses_and_labels_of_a_run_without(on_ray, local):
    ours, theirs = ([step["loss"] for step in folder.steps()] for folder in (on_ray, local))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    assert len(ours) == 2 * 3
    assert pq.read_table(on_ray.local_labels).equals(pq.read_table(local.local_labels))
    for ours, theirs in zip(on_ray.metrics(), local.metrics(), strict=True):
        assert ours["eval/mAP"] == pytest.approx(theirs["eval/mAP"])
        assert ours["cluster/num"] == theirs["cluster/num"]
    assert not list(on_ray.path.glob("ray_train_*"))


def test_every_span_is_recorded(on_ray):
    first = on_ray.metrics()[0]
    for name in set(SPANS) - {"checkpoint"}:  # which comes with the epoch after it
        assert first[f"time/{name}_s"] >= 0.0
    assert first["time/data_wait_s"] < first["time/train_s"]


def test_mar_on_ray_has_the_losses_of_a_run_without(cluster, sets, tmp_path):
    small = {"data__pattern": tiny.WITHOUT_TEST_IMAGES, "training__steps": 2, "pretraining__steps": 2}
    theirs = mar.run(configured(sets, tmp_path / "local", **small))
    spread = {"run__workers": 2, "pool__size": 2, "extract__on": "pool", "multilabel__table": "sharded"}
    config = configured(sets, tmp_path / "ray", **small, **spread)
    ours = mar.run(config, ray_backend(config))
    np.testing.assert_allclose(losses(ours.path), losses(theirs.path), rtol=1e-10)
    assert len(losses(ours.path)) == 2 + 2 * 2
    for found, expected in zip(timeless(ours), timeless(theirs), strict=True):
        assert found == pytest.approx(expected)
    assert [line["same"] for line in ours.mining()] == [line["same"] for line in theirs.mining()]
    spans = {key for epoch in ours.metrics() for key in epoch if key.startswith("time/")}
    timed = {*MAR_SPANS, "step", "images_per"} - {"evaluate"}
    assert spans == {f"time/{name}_s" for name in timed} | {"time/data_wait_share"}


@pytest.fixture(scope="module")
def gan_job(root: Path) -> GanJob:
    """Two small GANs."""
    config = tiny.slsr_config(root, root.parent, gan__steps=10, gan__channels=4)
    images = open_inputs(config.data).train_images
    clusters = np.arange(len(images)) % 2
    return GanJob(config.gan, 1, "cpu", images, clusters, 2, root.parent / "gans_here")


@pytest.fixture(scope="module")
def gans_here(gan_job: GanJob) -> dict[str, bytes]:
    torch.set_num_threads(1)
    train_gans(gan_job, InProcess())
    return gan_files(gan_job.folder)


def gan_files(folder: Path) -> dict[str, bytes]:
    """Return what the GANs in a folder left, but for when."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "result.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_gans_on_one_and_on_two_actors_are_the_same_bytes(pool, gan_job, gans_here, tmp_path):
    alone = RayPool.start(1, threads=1)
    for name, fanout in (("one", alone), ("two", pool)):
        train_gans(replace(gan_job, folder=tmp_path / name), fanout)
        assert gan_files(tmp_path / name) == gans_here
    alone.close()
    assert len(gans_here) == 2 * 5  # epochs.jsonl, two grids, real.png and generator.pt


def test_gans_of_two_clusters_are_trained_at_the_same_time(pool, gan_job, tmp_path):
    job = replace(gan_job, folder=tmp_path, gan=replace(gan_job.gan, steps=60))
    one, other = train_gans(job, pool)
    overlap = min(one.ended, other.ended) - max(one.started, other.started)
    assert overlap >= 0.5 * min(one.ended - one.started, other.ended - other.started)


def train_or_die(cluster: int, job: GanJob) -> object:
    """Train the GAN of a cluster; at the first attempt the process of cluster 1 dies after an epoch."""
    mark = job.folder / "died"
    if cluster == 1 and not mark.exists():
        real = gan_training._record

        def record(*arguments: object) -> None:
            real(*arguments)
            mark.touch()
            os._exit(7)

        gan_training._record = record
    return train_gan(cluster, job)


def test_a_gan_whose_process_dies_goes_on_and_the_other_is_kept(
    pool, gan_job, gans_here, tmp_path, monkeypatch
):
    monkeypatch.setattr(slsr_gans, "train_gan", train_or_die)
    results = train_gans(replace(gan_job, folder=tmp_path), pool)
    (tmp_path / "died").unlink()
    assert [result.cluster for result in results] == [0, 1]
    assert gan_files(tmp_path) == gans_here


def test_slsr_on_ray_has_the_losses_and_images_of_a_run_without(cluster, root, tmp_path):
    small = {"data__pattern": tiny.WITHOUT_TEST_IMAGES, "finetuning__epochs": 1}
    theirs = slsr.run(tiny.slsr_config(root, tmp_path / "local", **small))
    spread = {"run__workers": 2, "pool__size": 2, "extract__on": "pool"}
    config = tiny.slsr_config(root, tmp_path / "ray", **small, **spread)
    ours = slsr.run(config, ray_backend(config))
    np.testing.assert_allclose(losses(ours.path), losses(theirs.path), rtol=1e-10)
    assert len(losses(ours.path)) == 3 + 3
    for found, expected in zip(timeless(ours), timeless(theirs), strict=True):
        assert found == pytest.approx(expected)
    made = [json.loads((folder.path / "generated.json").read_text()) for folder in (ours, theirs)]
    assert [record["counts"] for record in made] == [[6, 6], [6, 6]]
    assert np.array_equal(*(np.load(folder.path / "clusters.npz")["clusters"] for folder in (ours, theirs)))
    # The clusters come of features that differ in their last bits, the images of the clusters alone.
    assert (ours.path / "generated.npy").read_bytes() == (theirs.path / "generated.npy").read_bytes()
    assert gan_files(ours.gans) == gan_files(theirs.gans)


def refuse(group: Group, fanout: FanOut, marks: Path) -> None:
    group.once(lambda: (marks / "computed").touch())
    if group.rank == 1:
        raise InputError("data.root: worker 1 cannot read it")
    group.once(lambda: fail(5))


def test_input_error_of_a_worker_is_the_driver_s(cluster, tmp_path):
    backend = RayBackend(workers=2, threads=1, device="cpu", pool_size=1)
    backend.prepare(tmp_path / "run")
    with pytest.raises(InputError, match=r"worker 1 cannot read it|item 5 is bad"):
        backend.run_workers(refuse, tmp_path)
    assert (tmp_path / "computed").exists()


def test_cluster_that_is_too_small_is_said_before_anything_is_written(cluster, root):
    config, folder = run(root, "too_large", 4)
    message = "4 workers need 4 CPUs, and the cluster has 2; ask for at most 2"
    with pytest.raises(InputError, match=message):
        icsr.run(config, ray_backend(config))
    assert not folder.path.exists()


def test_gpus_that_are_not_there_are_said(cluster, tmp_path):
    backend = RayBackend(workers=2, threads=1, device="cuda", pool_size=1)
    with pytest.raises(InputError, match="2 CPUs and 2 GPUs, and the cluster has 2 and 0"):
        backend.prepare(tmp_path)


@pytest.mark.parametrize(
    ("size", "per_gpu", "items", "expected"),
    [(2, 1, 9, (2, 1.0)), (2, 4, 9, (8, 0.25)), (2, 4, 3, (3, 0.25)), (0, 2, 9, (2, 0.5))],
)
def test_processes_that_share_a_gpu(monkeypatch, size, per_gpu, items, expected):
    started = []

    class Pool:
        @staticmethod
        def start(size, *, threads, gpus):
            started.append((size, gpus))
            return Pool()

        def close(self):
            started.append("closed")

    monkeypatch.setattr(backend_module, "RayPool", Pool)
    backend = RayBackend(workers=2, threads=1, device="cuda", pool_size=size, per_gpu=per_gpu)
    backend.on_gpu = True
    with backend.pool(items):
        pass
    assert started == [expected, "closed"]


def test_relative_folder_in_a_submitted_job_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(InputError, match=r"run\.folder: runs/x is relative"):
        RayBackend(workers=1, threads=1, device="cpu", pool_size=1).prepare(Path("runs/x"))


def test_local_backend_wants_nothing(tmp_path):
    LocalBackend(workers=64, threads=1, on_gpu=False).prepare(tmp_path)
