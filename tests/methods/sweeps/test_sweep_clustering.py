"""Trials that cluster stored features give what the library gives, and refuse other features."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from sweeping import options

from raid.config import to_yaml
from raid.distributed.fanout import InProcess
from raid.errors import InputError
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.clustering import cluster
from raid.methods.icsr.clustering_trials import neighbor_table, stability
from raid.methods.inputs import load_samples, open_inputs
from raid.methods.pool_extraction import extract_on_pool
from raid.methods.sections import Clustering as StageClustering
from raid.methods.sections import Neighbors
from raid.methods.sweeps import clustering, neighborhoods
from raid.methods.sweeps.clustering import ClusteringRun, ImagesOf, stored_features, trial_of
from raid.methods.sweeps.definition import SILHOUETTE, Sweep
from raid.methods.sweeps.planning import planned
from raid.methods.trained import Trained
from raid.sweep_folder import Axis, Trial

K1 = Axis("neighbors.k1", (6, 10))
METHOD = Axis("inter.method", ("agglomerative", "dbscan", "kmeans"))
GLOBAL = Sweep("clustering", "icsr", "clusters", (K1, METHOD), (SILHOUETTE,))
LOCAL = Sweep("clustering", "icsr", "clusters", (K1, Axis("intra.num_clusters", (3, 5))), (SILHOUETTE,))


class InHere:
    """The memo without Ray; counts what is made."""

    def __init__(self, *shared):
        self.shared, self.made = shared, {}

    def get(self, key):
        if key not in self.made:
            self.made[key] = neighborhoods.make(key, *self.shared)
        return self.made[key]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny.write_images(tmp_path_factory.mktemp("clustering") / "images", num_identities=16)


@pytest.fixture
def features(root, tmp_path):
    train = load_samples(tiny.config(root, tmp_path).data).split("train")
    random = np.random.default_rng(0)
    files = []
    for place, noise in enumerate((0.4, 1.5)):
        rows = random.normal(size=(99, 32))[train.identities] + noise * random.normal(size=(len(train), 32))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        files.append(tmp_path / f"features_{place}.npy")
        np.save(files[-1], rows.astype(np.float32))
    return files


def prepared(sweep, stage, files, root, tmp_path):
    """The sweep's base, its trials, and what runs one of them."""
    file = tmp_path / "tiny.yaml"
    file.write_text(to_yaml(tiny.config(root, tmp_path / "sweep")))
    base, _, trials = planned(sweep, options(file))
    images = ImagesOf.read(tiny.config(root, tmp_path).data)
    parts = images.parts(stage)
    configs = [base.config(point, seed) for point, seed in trials.values()]
    tables = [
        [
            neighbor_table(
                neighborhoods.rows_of(file, rows), [trial_of(config, stage, len(rows)) for config in configs]
            )
            for rows in parts
        ]
        for file in files
    ]
    memo = InHere(files, parts, tables, True)
    return base, trials, ClusteringRun(stage, images, parts, files, memo)


def test_a_trial_is_the_clustering_of_a_training_run_byte_for_byte(root, features, tmp_path):
    base, trials, run = prepared(GLOBAL, "global", features[:1], root, tmp_path)
    rows = np.load(features[0])
    told = {}
    for number, (point, seed) in trials.items():
        run(
            base,
            number,
            point,
            seed,
            lambda value, epochs, number=number: told.update({number: (value, epochs)}),
        )
        config = base.config(point, seed)
        alone = cluster(rows, config.inter, config.inter.num_clusters, config.neighbors, seed=seed)
        folder = base.folder.run(number)
        np.testing.assert_array_equal(np.load(folder.path / "labels.npy"), alone.labels)
        (line,) = folder.metrics()
        assert line["cluster/silhouette"] == alone.silhouette == told[number][0]
        assert line["cluster/num"] == len(np.unique(alone.labels[alone.labels >= 0]))
        assert "quality/global_all/bcubed_f" in line
    assert sorted(run.memo.made) == [(0, 0, 6, 3), (0, 0, 10, 3)]  # one similarity for three methods


def test_two_epochs_features_say_how_stable_the_clusters_are(root, features, tmp_path):
    base, trials, run = prepared(GLOBAL, "global", features, root, tmp_path)
    point, seed = trials[0]
    run(base, 0, point, seed, lambda value, epochs: None)
    config = base.config(point, seed)
    labels = [
        cluster(np.load(file), config.inter, config.inter.num_clusters, config.neighbors, seed=seed).labels
        for file in features
    ]
    (line,) = base.folder.run(0).metrics()
    assert line["cluster/churn"] == 1.0 - stability(*labels)
    assert 0.0 < line["cluster/churn"] < 1.0


def test_cameras_are_clustered_on_their_own_and_weighted_by_their_images(root, features, tmp_path):
    base, trials, run = prepared(LOCAL, "local", features[:1], root, tmp_path)
    point, seed = trials[3]
    run(base, 3, point, seed, lambda value, epochs: None)
    rows, images, config = np.load(features[0]), run.images, base.config(point, seed)
    labels = np.load(base.folder.run(3).path / "labels.npy")
    silhouettes, sizes = [], []
    for camera in np.unique(images.cameras):
        of_camera = images.cameras == camera
        alone = cluster(rows[of_camera], config.intra, 5, config.neighbors, seed=seed)
        # The same groups, numbered otherwise, and none in two cameras.
        assert stability(alone.labels, labels[of_camera]) == 1.0
        assert not set(labels[of_camera]) & set(labels[~of_camera])
        silhouettes.append(alone.silhouette)
        sizes.append(of_camera.sum())
    (line,) = base.folder.run(3).metrics()
    assert line["cluster/silhouette"] == pytest.approx(np.average(silhouettes, weights=sizes), abs=1e-12)
    assert line["cluster/num"] == 5 * len(sizes)


def test_a_trial_that_was_interrupted_is_begun_anew(root, features, tmp_path):
    base, trials, run = prepared(GLOBAL, "global", features[:1], root, tmp_path)
    for _ in range(2):
        run(base, 0, *trials[0], lambda value, epochs: None)
    assert len(base.folder.run(0).metrics()) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((72, 4), np.float32), "its rows are not of length 1"),
        (np.full((72, 4), np.nan, np.float32), "its rows are not of length 1"),
        (
            np.ones((71, 1), np.float32),
            r"shape \(71, 1\); wanted are float32, a row for each of the 72",
        ),
        (np.ones((72, 1)), "holds float64"),
        (np.ones(72, np.float32), r"shape \(72,\)"),
        (np.array([{}] * 72), "cannot be read as .npy"),
    ],
)
def test_features_of_something_else_are_refused(root, tmp_path, rows, message):
    file = tmp_path / "features.npy"
    np.save(file, rows, allow_pickle=True)
    config = tiny.config(root, tmp_path)
    with pytest.raises(InputError, match=message):
        stored_features(file, tmp_path / "made.npy", config, ImagesOf.read(config.data), 1)


def test_a_set_without_cameras_has_no_local_clusters():
    images = ImagesOf(None, None, "", 3)
    assert [len(rows) for rows in images.parts("global")] == [3]
    with pytest.raises(InputError, match="--stage local: the set has no cameras"):
        images.parts("local")


def test_what_trials_share_needs_no_tree_where_nobody_links(features):
    table = neighbor_table(
        np.load(features[0]), [clustering.Trial(Neighbors(k1=6, k2=3), StageClustering(), 3)]
    )
    parts = [np.arange(72)]
    for linked in (False, True):
        shared = neighborhoods.make((0, 0, 6, 3), features[:1], parts, [[table]], linked)
        assert (shared.tree is not None) is linked


def test_what_is_shared_is_made_in_the_order_of_the_trials(root, features, tmp_path):
    base, trials, run = prepared(GLOBAL, "global", features, root, tmp_path)
    for number, (point, seed) in trials.items():
        run(base, number, point, seed, lambda value, epochs: None)
    configs = [base.config(point, seed) for point, seed in trials.values()]
    tried = [[trial_of(config, "global", len(rows)) for config in configs] for rows in run.parts]
    assert neighborhoods.keys_of(run.parts, tried, 2) == list(run.memo.made)


@pytest.mark.parametrize(
    ("ended", "drawn", "expected"),
    [((), False, [6, 10]), ((0, 1, 2), False, [10]), ((0,), False, [6, 10]), ((), True, [])],
)
def test_nothing_is_made_ahead_that_nobody_will_ask_for(
    root, features, tmp_path, monkeypatch, ended, drawn, expected
):
    base, trials, _ = prepared(GLOBAL, "global", features[:1], root, tmp_path)
    for number in ended:
        point, seed = trials[number]
        base.folder.write_trial(Trial(number=number, point=point, seed=seed, started_s=0.0, state="done"))
    orders = []

    def start(*shared, at_most, order):
        orders.append([k1 for _, _, k1, _ in order])
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(clustering, "begin", lambda *arguments: None)
    monkeypatch.setattr(clustering.Memo, "start", start)
    with clustering.Clustering((features[0],), "global").trials(base, {} if drawn else trials, 2):
        pass
    assert orders == [expected]


def test_features_are_extracted_once_by_a_model(root, tmp_path, monkeypatch):
    class Here(InProcess):
        def close(self):
            pass

    monkeypatch.setattr(clustering.RayPool, "start", lambda size, threads: Here())
    config = tiny.config(root, tmp_path / "run", inter__epochs=1, inter__steps=1, refine__enabled=False)
    run = icsr.run(config)
    images, made = ImagesOf.read(config.data), tmp_path / "made.npy"
    file = stored_features(run.path, made, config, images, 2)
    assert file == made
    trained = Trained.read(run.model)
    settings = trained.config.encoder(trained.statistics)
    wanted = extract_on_pool(
        trained.network(settings), settings, open_inputs(config.data).train_images, InProcess()
    )
    np.testing.assert_array_equal(np.load(made), wanted.numpy().astype(np.float32))
    monkeypatch.setattr(clustering, "_extract", None)  # what is there is not extracted again
    assert stored_features(run.path, made, config, images, 2) == made
