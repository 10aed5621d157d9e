"""Clusters as a stage's configuration says: its method, and how large a neighbourhood is."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import thin_resnet
import tiny

from raid.config import load
from raid.data import synthetic
from raid.errors import InputError
from raid.methods.icsr import clustering
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.clustering import cluster
from raid.methods.icsr.config import IcsrConfig
from raid.methods.sections import Clustering, Neighbors, auto_k1
from raid.ops import quality
from raid.ops.dbscan import dbscan
from raid.ops.jaccard import jaccard_similarity
from raid.ops.kmeans import kmeans
from raid.ops.linkage import agglomerative

KEPT = ("all", "within_eps")


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    with thin_resnet.in_use():
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("clustering") / "images")


def simulated(images_per_identity: int, num_images: int = 1500) -> synthetic.SimulatedFeatures:
    return synthetic.features(
        1,
        num_identities=num_images // images_per_identity,
        images_per_identity=images_per_identity,
        dim=128,
        camera_shift=0.45,
    )


def test_methods_are_the_ops():
    people = simulated(10, 300)
    rows = people.features
    similarity = jaccard_similarity(rows, k1=12, k2=4)
    expected = {
        "agglomerative": agglomerative(similarity, num_clusters=30),
        "dbscan": dbscan(similarity, eps=0.7, min_samples=3),
        "kmeans": kmeans(rows, num_clusters=30, seed=5, restarts=2).labels,
    }
    assert -1 in expected["dbscan"]
    for method, labels in expected.items():
        how = Clustering(method=method, eps=0.7, min_samples=3, restarts=2)
        made = cluster(rows, how, 30, Neighbors(k1=12, k2=4), seed=5)
        np.testing.assert_array_equal(made.labels, labels)
        assert made.silhouette == quality.silhouette(similarity, labels)
        assert made.recall is None


@pytest.mark.parametrize("method", ["agglomerative", "dbscan", "kmeans"])
def test_on_disk_is_what_it_is_in_memory_and_nothing_is_left(method, tmp_path):
    rows, how, scratch = simulated(10, 300).features, Clustering(method=method), tmp_path / "not" / "there"
    neighbors = Neighbors(k1=12, k2=4)
    in_memory = cluster(rows, how, 30, neighbors, seed=5)
    on_disk = cluster(rows, how, 30, replace(neighbors, similarity="disk"), seed=5, scratch=scratch)
    np.testing.assert_array_equal(on_disk.labels, in_memory.labels)
    assert on_disk.silhouette == in_memory.silhouette
    assert list(scratch.iterdir()) == []
    cluster(rows, how, 30, replace(neighbors, similarity="disk"), seed=5)  # in the system's folder


def test_what_dbscan_looks_at_is_enough_for_its_labels():
    rows, how = simulated(30, 600).features, Clustering(method="dbscan", eps=0.7, min_samples=3)
    every = cluster(rows, how, 30, Neighbors(k1=12, k2=4), seed=5)
    near = cluster(rows, how, 30, Neighbors(k1=12, k2=4, keep="within_eps"), seed=5)
    np.testing.assert_array_equal(near.labels, every.labels)
    assert near.labels.max() > 5
    assert near.silhouette != every.silhouette
    linkage = [cluster(rows, Clustering(), 30, Neighbors(k1=12, k2=4, keep=keep), seed=5) for keep in KEPT]
    assert linkage[0].silhouette == linkage[1].silhouette
    keep = {"data.root": "none", "neighbors.keep": "within_eps"}
    load(IcsrConfig, overrides=keep | {"inter.method": "dbscan"})
    with pytest.raises(InputError, match=r"neighbors\.keep: .*no stage clusters by it"):
        load(IcsrConfig, overrides=keep)


def test_on_disk_it_is_mapped_while_it_is_clustered_and_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    def fail(similarity: Any, num_clusters: int) -> None:
        assert isinstance(similarity.data, np.memmap)
        assert isinstance(similarity.indices, np.memmap)
        (folder,) = tmp_path.iterdir()
        assert Path(similarity.data.filename).parent == folder
        raise RuntimeError("on purpose")

    monkeypatch.setattr(clustering, "agglomerative", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        cluster(
            simulated(10, 300).features, Clustering(), 30, Neighbors(similarity="disk"), seed=5,
            scratch=tmp_path,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"data\.cache_folder: .*file/in.* or neighbors\.similarity=memory"):
        cluster(
            simulated(10, 300).features, Clustering(), 30, Neighbors(similarity="disk"), seed=5,
            scratch=tmp_path / "file" / "in",
        )  # fmt: skip


def test_approximate_search_of_all_lists_gives_the_exact_labels():
    rows = simulated(10, 1500).features
    exact = cluster(rows, Clustering(), 150, Neighbors(), seed=5)
    approximate = cluster(rows, Clustering(), 150, Neighbors(search="approximate", probes=6), seed=5)
    np.testing.assert_array_equal(approximate.labels, exact.labels)
    assert approximate.recall == 1.0
    assert approximate.notes == exact.notes


def test_low_recall_is_a_figure_and_a_note():
    made = cluster(
        simulated(10, 1500).features, Clustering(), 150, Neighbors(search="approximate", probes=1), seed=5
    )
    assert made.recall is not None
    assert 0.1 < made.recall < 0.8
    assert (
        made.notes[-1] == f"the search found {made.recall:.0%} of the true neighbours: raise neighbors.probes"
    )


def test_too_few_lists_for_all_neighbours_name_the_field():
    neighbors = Neighbors(k1=900, search="approximate", probes=1)
    with pytest.raises(InputError, match=r"neighbors\.probes: 1 lists do not hold 900 neighbours of every"):
        cluster(simulated(10, 1500).features, Clustering(), 150, neighbors, seed=5)


@pytest.mark.parametrize("images_per_identity", [5, 10, 16, 30, 60])
def test_automatic_neighbourhoods_are_about_the_best_there_are(images_per_identity):
    people = simulated(images_per_identity)
    num_clusters = len(people.features) // images_per_identity

    def f(k1: int) -> float:
        similarity = jaccard_similarity(people.features, k1=k1, k2=min(6, k1))
        labels = agglomerative(similarity, num_clusters=num_clusters)
        return quality.bcubed(people.identities, labels).f

    chosen = f(auto_k1(len(people.features), num_clusters))
    best = max(f(k1) for k1 in (4, 6, 10, 16, 20, 30, 45, 60))
    assert chosen >= best - 0.02
    if images_per_identity <= 16:
        assert chosen > f(30) + (0.02 if images_per_identity > 5 else 0.0)


@pytest.mark.parametrize(
    ("images", "clusters", "expected"),
    [(500, 100, 6), (160, 10, 10), (300, 10, 18), (600, 10, 30), (60_000, 10, 30), (10, 10, 6)],
)
def test_rule_of_the_automatic_neighbourhood(images, clusters, expected):
    assert auto_k1(images, clusters) == expected


def test_neighbourhood_is_not_larger_than_the_set():
    assert Neighbors(k1=30, k2=6).of(100, 5) == (30, 6)
    assert Neighbors(k1=30, k2=6).of(8, 5) == (8, 6)
    assert Neighbors(k1=30, k2=6).of(4, 5) == (4, 4)
    assert Neighbors(k1="auto", k2=8).of(100, 50) == (6, 6)


def test_automatic_neighbourhood_needs_a_number_of_clusters():
    with pytest.raises(InputError, match=r"neighbors\.k1: auto is a share of a cluster's images, which dbs"):
        load(
            IcsrConfig,
            overrides={"data.root": "x", "neighbors.k1": "auto", "inter.method": "dbscan"},
        )


@pytest.mark.parametrize("method", ["dbscan", "kmeans"])
def test_a_run_with_another_method_in_both_stages(root, tmp_path, method):
    config = tiny.config(
        root, tmp_path / "run", intra__method=method, inter__method=method,
        intra__eps=0.9, inter__eps=0.8, intra__min_samples=2, inter__min_samples=2, neighbors__k1=6,
        numerics__dtype="float32", neighbors__search="approximate", neighbors__similarity="disk",
    )  # fmt: skip
    folder = icsr.run(config)
    assert not list(config.data.cache_folder.glob("similarity_*"))
    local = pq.read_table(folder.local_labels)["local_label"].to_numpy()
    epoch = folder.metrics()[-1]
    assert np.isfinite(epoch["train/loss"])
    assert epoch["neighbors/recall"] == 1.0  # as few images are searched exactly
    assert "recall of the neighbours" in folder.report.read_text()
    if method == "kmeans":
        assert epoch["cluster/num"] == 8
        assert local.min() == 0
    else:
        assert epoch["cluster/num"] >= 2


def test_a_camera_without_a_cluster_judges_nobody(root, tmp_path, caplog):
    config = tiny.config(
        root, tmp_path / "run", intra__method="dbscan", intra__eps=0.01, intra__min_samples=9
    )
    with caplog.at_level(logging.WARNING):
        folder = icsr.run(config)
    assert "DBSCAN found no cluster (intra.eps, intra.min_samples); training ends" in caplog.text
    local = pq.read_table(folder.local_labels)["local_label"].to_numpy()
    assert (local == -1).all()
    assert folder.metrics()[-1]["refine/discarded"] == 0.0


def test_a_set_without_a_cluster_is_an_error_that_names_the_fields(root, tmp_path):
    config = tiny.config(
        root, tmp_path / "run", inter__method="dbscan", inter__eps=0.01, inter__min_samples=40,
        refine__enabled=False,
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"inter\.eps: no image has 40 .* raise inter\.eps, or lower inter\."
    ):
        icsr.run(config)


def test_large_neighbourhoods_are_warned_of_once_a_stage(root, tmp_path, caplog):
    config = tiny.config(
        root, tmp_path / "run", neighbors__k1=15, inter__epochs=1, inter__num_clusters=15,
        numerics__dtype="float32",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        icsr.run(config)
    warned = [line for line in caplog.messages if "reach into other people" in line]
    assert len(warned) == 2
    assert warned[0].startswith("neighbors.k1: 15 neighbours, and an average global cluster has 3 images")
    assert warned[1].endswith("neighbors.k1=auto would take 6")
