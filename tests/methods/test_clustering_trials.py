"""A search over clusterings: what trials share, and that it changes nothing of what each gives alone."""

import pickle
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from raid.data import synthetic
from raid.errors import InputError
from raid.methods.icsr import clustering, clustering_trials
from raid.methods.icsr.clustering import cluster
from raid.methods.icsr.clustering_trials import (
    Trial,
    neighbor_table,
    outcome_of,
    run_trials,
    shared_of,
    stability,
)
from raid.methods.sections import Clustering, Neighbors
from raid.ops import quality
from raid.ops.jaccard import jaccard_from_neighbors
from raid.ops.neighbors import knn

SEED = 5


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """A trial alone would search on it, a sweep does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def people() -> synthetic.SimulatedFeatures:
    return synthetic.features(1, num_identities=30, images_per_identity=10, dim=96, camera_shift=0.45)


def trial(k1: Any, k2: int, num_clusters: int, method: str = "agglomerative", **more: Any) -> Trial:
    kept = {"similarity": more.pop("similarity", "memory")}
    return Trial(Neighbors(k1=k1, k2=k2, **kept), Clustering(method=method, **more), num_clusters)  # type: ignore[arg-type]


def all_kinds() -> list[Trial]:
    """Of four (k1, k2), mixed, one named in two ways."""
    return [
        trial(12, 4, 30),
        trial(20, 6, 30),
        trial(12, 4, 3),  # fewer than components, perhaps
        trial(12, 4, 30, "dbscan", eps=0.7, min_samples=3),
        trial(12, 4, 30, "dbscan", eps=0.5, min_samples=3),
        trial(20, 6, 25, "kmeans", restarts=2),
        trial(12, 4, 25, "kmeans", restarts=2),
        trial("auto", 6, 30),  # k1 = 6
        trial(12, 4, 55),
        trial(20, 6, 300),
        trial(6, 6, 40),
        trial(12, 2, 30),
        trial(12, 2, 20, "kmeans", restarts=2),
        trial(12, 2, 25, "kmeans", restarts=1),
    ]


def assert_as_alone(outcome: clustering_trials.Outcome, features: np.ndarray, width: int = 1) -> None:
    of = outcome.trial
    alone = cluster(features, of.how, of.num_clusters, of.neighbors, seed=SEED, width=width)
    assert outcome.labels.tobytes() == alone.labels.tobytes()
    assert outcome.labels.dtype == alone.labels.dtype
    assert outcome.figures["cluster/silhouette"] == alone.silhouette
    assert outcome.notes == alone.notes


@pytest.mark.parametrize("width", [1, 16])
def test_every_trial_gives_what_it_gives_alone(people, width):
    trials = all_kinds()
    outcomes = list(run_trials(people.features, trials, seed=SEED, width=width))
    assert sorted(outcome.place for outcome in outcomes) == list(range(len(trials)))
    assert any(-1 in outcome.labels for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.trial == trials[outcome.place]
        assert_as_alone(outcome, people.features, width)


def test_notes_are_those_of_the_trial_alone():
    apart = np.kron(np.eye(8), np.ones((12, 1))).astype(np.float32)  # eight people who share nothing
    apart += 0.01 * np.random.default_rng(0).random(apart.shape, np.float32)
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    outcomes = list(run_trials(apart, [trial(6, 2, 3), trial(6, 2, 60)], seed=SEED))
    assert "3 clusters asked for" in outcomes[0].notes[0]
    assert outcomes[1].notes == []
    for outcome in outcomes:
        assert_as_alone(outcome, apart)


@pytest.mark.parametrize("duplicated", [False, True])
def test_a_table_of_more_neighbours_begins_with_that_of_fewer(people, duplicated):
    rows = people.features
    if duplicated:  # few values, small integers: ties everywhere, at every k-th place
        rows = np.random.default_rng(0).integers(-1, 2, (300, 5)).astype(np.float32)
    products, index = knn(rows, rows, 40, block_rows=64)
    if duplicated:
        assert (products[:, 11] == products[:, 12]).mean() > 0.5
    for k in (1, 2, 12, 39):
        fewer, fewer_index = knn(rows, rows, k, block_rows=64)
        assert np.ascontiguousarray(products[:, :k]).tobytes() == fewer.tobytes()
        assert np.ascontiguousarray(index[:, :k]).tobytes() == fewer_index.tobytes()


def test_tied_neighbours_give_what_they_give_alone():
    rows = np.random.default_rng(0).integers(-1, 2, (300, 6)).astype(np.float32) + np.float32(0.1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for outcome in run_trials(rows, [trial(20, 6, 40), trial(9, 3, 40)], seed=SEED):
        assert_as_alone(outcome, rows)


def counted(monkeypatch, module: Any, name: str) -> list[Any]:
    """What a function of `module` has returned since."""
    results, before = [], getattr(module, name)

    def call(*arguments: Any, **named: Any) -> Any:
        results.append(before(*arguments, **named))
        return results[-1]

    monkeypatch.setattr(module, name, call)
    return results


def test_what_is_shared_is_made_once(people, monkeypatch):
    tables = counted(monkeypatch, clustering_trials, "knn")
    similarities = counted(monkeypatch, clustering_trials, "jaccard_from_neighbors")
    trees = counted(monkeypatch, clustering_trials, "merge_tree")
    partitions = counted(monkeypatch, clustering, "kmeans")
    alone = counted(monkeypatch, clustering, "agglomerative")
    list(run_trials(people.features, all_kinds(), seed=SEED))
    assert (len(tables), len(similarities), len(trees), len(partitions), len(alone)) == (1, 4, 4, 3, 0)
    assert tables[0][1].shape == (300, 20)


def test_one_similarity_is_alive_at_a_time(people, monkeypatch):
    made: list[Any] = []
    alive = []

    def jaccard(*arguments: Any, **named: Any) -> Any:
        alive.append(sum(one() is not None for one in made))  # while the next is made
        result = jaccard_from_neighbors(*arguments, **named)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(clustering_trials, "jaccard_from_neighbors", jaccard)
    list(run_trials(people.features, all_kinds(), seed=SEED))
    assert alive == [0, 0, 0, 0]
    assert [one() for one in made] == [None] * 4


def test_outcomes_come_as_they_are_ready(people, monkeypatch):
    similarities = counted(monkeypatch, clustering_trials, "jaccard_from_neighbors")
    places, made = [], []
    for outcome in run_trials(people.features, all_kinds(), seed=SEED):
        places.append(outcome.place)
        made.append(len(similarities))
    assert places == [0, 2, 3, 4, 6, 8, 1, 5, 9, 7, 10, 11, 12, 13]
    assert made == [1] * 6 + [2] * 3 + [3] * 2 + [4] * 3


def test_no_tree_where_nobody_links(people, monkeypatch):
    trees = counted(monkeypatch, clustering_trials, "merge_tree")
    list(run_trials(people.features, [trial(12, 4, 1, "dbscan")], seed=SEED))
    assert trees == []


def test_seconds_add_up_without_the_callers_own(people):
    trials = [trial(12, 4, count) for count in (20, 30, 40)]
    list(run_trials(people.features, trials, seed=SEED))  # compiled
    started, pause, outcomes = time.perf_counter(), 0.3, []
    for outcome in run_trials(people.features, trials, seed=SEED):
        outcomes.append(outcome)
        time.sleep(pause)
    spent = sum(outcome.seconds for outcome in outcomes)
    assert 0 < spent <= time.perf_counter() - started - len(trials) * pause


def test_figures_are_those_of_the_ops(people):
    identities = people.identities.copy()
    identities[::7] = -1  # unknown
    known = identities >= 0
    outcomes = list(
        run_trials(
            people.features, all_kinds(), seed=SEED, identities=identities, cameras=people.cameras
        )
    )  # fmt: skip
    for outcome in outcomes:
        labels, figures = outcome.labels, outcome.figures
        assert figures["cluster/num"] == len(set(labels.tolist()) - {-1})
        assert figures["cluster/outliers"] == (labels == -1).sum()
        assert figures["cluster/camera_purity"] == quality.camera_purity(labels, people.cameras)
        for name, noise in (("global", "drop"), ("global_all", "singletons")):
            truth, kept = identities[known], labels[known]
            assert figures[f"quality/{name}/bcubed_f"] == quality.bcubed(truth, kept, noise=noise).f
            assert figures[f"quality/{name}/pairwise_f"] == quality.pairwise(truth, kept, noise=noise).f
            assert figures[f"quality/{name}/nmi"] == quality.nmi(truth, kept, noise=noise)
            assert figures[f"quality/{name}/ari"] == quality.ari(truth, kept, noise=noise)


@pytest.mark.parametrize("identities", [None, np.full(300, -1)])
def test_without_truth_there_are_no_figures_of_it(people, identities):
    (outcome,) = run_trials(people.features, [trial(12, 4, 30)], seed=SEED, identities=identities)
    assert {key.split("/")[0] for key in outcome.figures} == {"cluster"}
    assert "cluster/camera_purity" not in outcome.figures


def test_similarity_on_disk_gives_the_same_and_is_removed_also_after_a_stop(people, tmp_path):
    trials = [trial(12, 4, 30, similarity="disk"), trial(12, 4, 40), trial(20, 6, 30, similarity="disk")]
    for outcome in run_trials(people.features, trials, seed=SEED, scratch=tmp_path):
        assert_as_alone(outcome, people.features)
        assert len(list(tmp_path.iterdir())) == (outcome.place != 1)
    stopped = run_trials(people.features, trials, seed=SEED, scratch=tmp_path)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_features_of_a_file_are_not_written_to(people, tmp_path):
    np.save(tmp_path / "features.npy", people.features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    for outcome in run_trials(mapped, all_kinds()[3:7], seed=SEED):
        assert_as_alone(outcome, people.features)


def test_what_is_shared_goes_through_a_store_without_a_copy(people):
    trials = [trial(12, 4, 30), trial(12, 4, 30, "dbscan", eps=0.7), trial(12, 4, 9, "kmeans", restarts=2)]
    table = neighbor_table(people.features, [*trials, trial(20, 6, 30)])
    assert table[1].shape == (300, 20)
    buffers: list[pickle.PickleBuffer] = []
    stored = pickle.dumps(shared_of(people.features, table, trials), 5, buffer_callback=buffers.append)
    # Read-only, as those of Ray's store; and everything large is out of band.
    shared = pickle.loads(stored, buffers=[memoryview(bytes(buffer)) for buffer in buffers])
    assert len(stored) < 5_000
    assert not shared.similarity.data.flags.writeable
    for one in trials:
        outcome = outcome_of(shared, one, people.features, seed=SEED)
        assert_as_alone(outcome, people.features)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (trial(12, 4, 301), "num_clusters: 301 clusters of 300 images"),
        (trial(12, 4, 0, "kmeans"), "num_clusters: 0 clusters of 300 images; choose 1 to 300"),
        (Trial(Neighbors(search="approximate"), Clustering(), 30), r"neighbors\.search"),
        (Trial(Neighbors(keep="within_eps"), Clustering(method="dbscan"), 30), r"neighbors\.keep"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_run(people, wrong, message):
    with pytest.raises(InputError, match=message):
        run_trials(people.features, [trial(12, 4, 30), wrong], seed=SEED)


def test_stability_is_the_adjusted_rand_index():
    labels = np.array([0, 0, 0, 1, 1, 1])
    others = np.array([0, 0, 1, 1, 2, 2])
    # By hand: pairs together in both 2, in labels 6, in others 3, of 15: (2 - 18/15) / (9/2 - 18/15).
    assert stability(labels, others) == pytest.approx(0.8 / 3.3)
    assert stability(others, labels) == pytest.approx(0.8 / 3.3)
    assert stability(labels, (labels + 1) % 2) == 1.0


def test_stability_counts_outliers_as_clusters_of_their_own():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    partly = np.where(np.arange(8) < 2, labels, -1)
    alone = np.array([0, 0, 2, 3, 4, 5, 6, 7])
    assert stability(labels, partly) == pytest.approx(quality.ari(labels, alone)) != 1.0
    assert stability(partly, labels) == pytest.approx(quality.ari(labels, alone))
    assert stability(partly, partly) == 1.0


def test_stability_tells_a_number_of_clusters_that_fits_from_one_that_does_not():
    first = synthetic.features(
        1, num_identities=20, images_per_identity=12, dim=64, camera_shift=0.2, noise=0.6
    )
    moved = first.features + 0.1 * np.random.default_rng(1).standard_normal(first.features.shape) / 8
    moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    trials = [trial(10, 3, 20), trial(10, 3, 120)]
    epochs = zip(*(run_trials(rows, trials, seed=SEED) for rows in (first.features, moved)), strict=True)
    fits, torn = (stability(one.labels, other.labels) for one, other in epochs)
    assert fits > torn + 0.1


def test_of_one_image_and_of_no_trial():
    one = np.ones((1, 4), np.float32) / 2
    (outcome,) = run_trials(one, [trial(30, 6, 1)], seed=SEED)
    assert outcome.labels.tolist() == [0]
    assert list(run_trials(one, [], seed=SEED)) == []
