"""Several nodes on this machine, with different resources: one is lost in the middle, another joins."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import ray_runs
import tiny
from ray_runs import checkpoints, recovers

from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.config import IcsrConfig
from raid.run_folder import RunFolder

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from raid.distributed import ray_backend as backend_module  # noqa: E402
from raid.distributed.ray_pool import RayPool  # noqa: E402
from raid.methods.on_ray import ray_backend  # noqa: E402

# A node is given up within seconds, not tens of them.
QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("nodes") / "images")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs, and nobody else yet."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0, "include_dashboard": True, "object_store_memory": 100 * 2**20,
            "_system_config": QUICK,
        },
    )  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def configured(root: Path, name: str, **overrides: Any) -> IcsrConfig:
    chosen = {"inter__epochs": 3, "inter__steps": 6, "run__checkpoint_steps": 1, **overrides}
    return tiny.config(root, root.parent / name, **chosen)


class Background:
    """A run in a thread; nodes are added in the main one, which alone may."""

    def __init__(self, config: IcsrConfig) -> None:
        self.folder = RunFolder(config.run.folder)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(config,))
        self._thread.start()

    def _run(self, config: IcsrConfig) -> None:
        try:
            icsr.run(config, ray_backend(config))
        except BaseException as error:
            self._error = error

    def until(self, happened: Callable[[], Any], seconds: float = 200.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert self._thread.is_alive(), self._error
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def recovers(self, fault: str) -> AbstractContextManager[None]:
        """See `ray_runs.recovers`."""
        return recovers(fault, self.folder, self.until)

    def ends(self, seconds: float = 280.0) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


def assert_equal(ours: RunFolder, whole: RunFolder) -> None:
    ray_runs.assert_equal(ours, whole)
    assert len(ours.steps()) == 18
    assert ours.local_labels.read_bytes() == whole.local_labels.read_bytes()


@pytest.fixture(scope="module")
def whole(root: Path) -> RunFolder:
    return icsr.run(configured(root, "whole"))


def nodes_of(name: str) -> set[str]:
    """Nodes that actors of a class are alive on."""
    from ray.util.state import list_actors

    return {actor.node_id for actor in list_actors() if (actor.class_name, actor.state) == (name, "ALIVE")}


def test_workers_on_two_nodes_of_which_one_is_lost_and_another_joins(cluster, root, whole):
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    run = Background(configured(root, "replaced", run__workers=2))
    run.until(lambda: len(checkpoints(run.folder)) > 1)
    assert len(nodes_of("RayTrainWorker")) == 2
    with run.recovers("a node lost, and another joined 3 s later"):
        cluster.remove_node(lost, allow_graceful=False)
        time.sleep(3)
        cluster.add_node(num_cpus=2)
    run.ends()
    assert_equal(run.folder, whole)


def test_fewer_workers_go_on_where_nobody_joins(cluster, root, whole, monkeypatch, caplog):
    monkeypatch.setattr(backend_module, "_ALL_WITHIN_S", 5.0)
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    run = Background(configured(root, "shrunk", run__workers=2, run__min_workers=1))
    run.until(lambda: len(checkpoints(run.folder)) > 1)
    with run.recovers("a node lost, fewer workers go on after 5 s"):
        cluster.remove_node(lost, allow_graceful=False)
    run.ends()
    assert_equal(run.folder, whole)


def test_processes_are_where_the_cpus_are(cluster):
    """Several times: by chance alone, they would be there once in a while."""
    nodes = [cluster.add_node(num_cpus=cpus).node_id for cpus in (1, 2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    for _ in range(4):
        pool = RayPool.start(3, threads=1)
        # A lambda travels as it is: the processes do not find this file's functions.
        found = pool.on_each(lambda: ray.get_runtime_context().get_node_id())
        assert sorted(found) == sorted([nodes[0], *[nodes[1]] * 2])
        pool.close()


def test_a_node_is_lost_while_cameras_are_trained(cluster, root, whole):
    cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address)
    run = Background(configured(root, "cameras", run__workers=1, pool__size=2))
    run.until(lambda: run.folder.local.exists() and list(run.folder.local.glob("camera_*.parquet")))
    assert len(nodes_of("PoolProcess")) == 2
    with run.recovers("a node lost with a process of the pool"):
        cluster.remove_node(lost, allow_graceful=False)
    run.ends()
    assert_equal(run.folder, whole)
