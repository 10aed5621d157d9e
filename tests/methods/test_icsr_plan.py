"""`raid plan icsr`: the run that is reckoned is the run that would be made."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from raid import cli, machine
from raid.errors import InputError
from raid.methods.icsr import probe
from raid.methods.icsr import recipe as icsr
from raid.methods.icsr.check import check_memory
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.memory import ClusterTask, cluster_bytes, disk_bytes, usual_entries, what_would_fit
from raid.methods.icsr.plan import make_plan
from raid.methods.icsr.probe import (
    ClusterSpeed,
    method_work,
    probe_clustering,
    probe_training,
    searched_pairs,
)
from raid.methods.inputs import open_inputs
from raid.methods.plan import Counts, misfits
from raid.methods.probe import EncoderSpeed
from raid.methods.sections import Clustering, Neighbors

ENCODER = EncoderSpeed("cpu", 100, extract=0.5, train=2.0, activations=1e6, weights=1e6, fixed=4e6)
CLUSTERS = ClusterSpeed(
    (2000, 4000),
    pair=1e-6,
    ranked_pair=3e-6,
    entry=1e-5,
    entries=(200.0, 200.0),
    methods={"agglomerative": 2e-5},
)
GIB = 2**30
MILLION = ClusterTask("inter", 1_000_000, 2048, 1200, Clustering(), Neighbors(), 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("plan") / "images")


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters an eighth of the rows, where it does not matter how well they are timed."""
    monkeypatch.setattr("raid.methods.icsr.probe._CLUSTER_ROWS", (500, 1500))


@pytest.fixture
def one_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """All plans of a test take what the first one measures."""
    found: list[ClusterSpeed] = []

    def measured(config: IcsrConfig, **sizes: Any) -> ClusterSpeed:
        if not found:
            found.append(probe_clustering(config, **sizes))
        return found[0]

    monkeypatch.setattr("raid.methods.icsr.plan.probe_clustering", measured)


def planned(root: Path, counts: Counts, **overrides: object) -> dict[str, object]:
    config = tiny.config(root, root.parent / "run", **overrides)
    plan = make_plan(config, counts, ENCODER, CLUSTERS)
    return {"plan": plan, **{step.name: step for step in plan.steps}}


def test_every_step_is_reckoned_from_its_numbers(root):
    counts = Counts((100, 300, 200), 50, 250)
    found = planned(root, counts, run__workers=2, inter__epochs=5, inter__steps=3, evaluate__every=2)
    clustering = 1e-6 * 600**2 / 2 + 1e-5 * 600 * 200 / 2 + 2e-5 * 600 * 200
    assert (found["extract"].seconds, found["extract"].times) == (600 * 0.5 / 2, 5)
    assert (found["cluster"].seconds, found["cluster"].times) == (pytest.approx(clustering), 5)
    assert (found["train"].seconds, found["train"].elapsed) == (3 * 16 * 2.0 / 2, 5 * 3 * 16 * 2.0 / 2)
    assert found["evaluate"].times == 3  # epochs 2, 4 and the last
    assert found["evaluate"].seconds == pytest.approx(300 * 0.5 / 2 + 3e-6 * 50 * 250)
    assert found["cluster"].dense == 2 * 4 * 600**2
    assert found["plan"].disk == 3 * 32 * 16 * 900
    assert found["plan"].elapsed == pytest.approx(sum(step.elapsed for step in found["plan"].steps))


def test_evaluations_look_at_mirror_images_too(root):
    counts = Counts((100, 300, 200), 50, 250)
    once, twice = (planned(root, counts, evaluate__flip=flip) for flip in (False, True))
    assert twice["evaluate"].seconds - once["evaluate"].seconds == pytest.approx(300 * 0.5)
    assert twice["extract"] == once["extract"]  # what is clustered never has them


def test_micro_batches_take_the_memory_of_what_passes_at_once(root):
    counts = Counts((100, 300, 200), 50, 250)
    for wanted, images in ((None, 16), (9, 8), (1, 4), (64, 16)):
        found = planned(root, counts, numerics__micro_batch=wanted)
        assert found["train"].memory == 4e6 + images * 1e6


def test_cameras_are_given_to_the_process_that_is_free_first(root):
    counts = Counts((100, 300, 200), 0, 0)
    one = planned(root, counts, intra__epochs=2, intra__steps=1)["stage 1, a camera"]
    cameras = [1 * 16 * 2.0 + 2 * (n * 0.5 + 1e-6 * n**2 + 3e-5 * n * min(n, 200)) for n in counts.cameras]
    assert one.elapsed == pytest.approx(sum(cameras))
    two = planned(root, counts, intra__epochs=2, intra__steps=1, pool__size=2)["stage 1, a camera"]
    best = min(
        max(sum(cameras) - part, part)
        for part in (sum(c) for r in (1, 2) for c in itertools.combinations(cameras, r))
    )
    assert two.elapsed == pytest.approx(best)


def test_baseline_has_no_first_stage_and_a_set_without_queries_no_evaluation(root):
    found = planned(root, Counts((600,), 0, 0), refine__enabled=False)
    assert "stage 1, a camera" not in found
    assert found["evaluate"].elapsed == 0.0


def test_stage_1_of_another_run_costs_nothing(root, monkeypatch):
    counts, taken = Counts((100, 300, 200), 50, 250), {"intra__labels": "labels.parquet"}
    given, made = planned(root, counts, **taken), planned(root, counts)
    assert "stage 1, a camera" not in given
    steps = [[(step.name, step.elapsed) for step in found["plan"].steps] for found in (given, made)]
    assert steps[0] == steps[1][1:]
    probed = []
    monkeypatch.setattr(
        probe, "_cluster", lambda config, stages, *rest: probed.append(len(stages)) or CLUSTERS
    )
    for chosen in ({}, taken):
        probe_clustering(tiny.config(root, root.parent / "run", **chosen), dimensions=16, cluster_size=8)
    assert probed == [2, 2, 1, 1]  # of two sets each; a method that nothing uses is not measured


def test_entries_grow_towards_a_limit():
    def law(rows: float) -> float:
        return 1 / (1 / 300 + 0.5 * rows**-0.6)

    speed = replace(CLUSTERS, entries=(law(2000), law(4000)))
    for rows in (300, 2000, 4000, 1_000_000):
        assert speed.entries_per_row(rows) == pytest.approx(law(rows))
    assert speed.entries_per_row(10**12) == pytest.approx(300, rel=1e-3)
    level = replace(CLUSTERS, entries=(100.0, 100.0))
    assert level.entries_per_row(1_000_000) == pytest.approx(100)
    assert level.entries_per_row(50) == 50  # not more than there are rows


def test_memory_of_a_million_rows_is_far_from_the_dense_way():
    assert cluster_bytes(MILLION, 1600) < 1e-2 * 8.0 * 1_000_000**2


def with_neighbors(task: ClusterTask, **values: object) -> ClusterTask:
    return replace(task, neighbors=replace(task.neighbors, **values))


def with_method(task: ClusterTask, method: str) -> ClusterTask:
    return replace(task, how=replace(task.how, method=method))


def test_memory_follows_the_method_and_the_store():
    in_memory, on_disk = MILLION, with_neighbors(MILLION, similarity="disk")
    similarity = 8.0 * 1_000_000 * 1600
    assert cluster_bytes(in_memory, 1600) > 4.0 * 1_000_000 * 2048 + 1.3 * similarity
    assert cluster_bytes(in_memory, 1600) - cluster_bytes(on_disk, 1600) == pytest.approx(similarity)
    assert (disk_bytes(in_memory, 1600), disk_bytes(on_disk, 1600)) == (0.0, similarity)
    by_dbscan = cluster_bytes(with_method(in_memory, "dbscan"), 1600)
    assert by_dbscan < cluster_bytes(in_memory, 1600) - 0.2 * similarity
    starts = 10 * 1200 * 2048 * 16  # of k-means: sums and centroids
    assert cluster_bytes(with_method(in_memory, "kmeans"), 1600) > by_dbscan - 2 * GIB + starts


def test_time_of_an_approximate_search_grows_with_the_images():
    few, many = MILLION, replace(MILLION, num_images=2_000_000)
    assert searched_pairs(many) == 4 * searched_pairs(few)
    few, many = (with_neighbors(task, search="approximate") for task in (few, many))
    assert searched_pairs(few) == pytest.approx(1e6 * (96 * 256 + 3907 * (2 + 5 / 8)), rel=1e-3)
    assert searched_pairs(many) < 3 * searched_pairs(few)
    small = replace(few, num_images=1000)  # 4 lists, all of which are probed
    assert searched_pairs(small) == pytest.approx(1000 * 4 * 256 + 1000 * 4 * 2 + 5 * 128 * 4)


def test_time_of_a_method_grows_with_what_it_goes_through():
    assert method_work(MILLION, 1600) == method_work(with_method(MILLION, "dbscan"), 1600) == 1.6e9
    assert method_work(with_method(MILLION, "kmeans"), 1600) == 1e6 * 1200 * 10


def test_what_would_fit_names_what_helps_and_nothing_else():
    def needed(task: ClusterTask) -> float:
        return cluster_bytes(task, 1600) + 1

    on_disk = with_neighbors(MILLION, similarity="disk")
    by_dbscan = with_method(MILLION, "dbscan")
    one = what_would_fit(MILLION, 1600, needed(on_disk))
    assert re.fullmatch(r"it fits with neighbors\.similarity=disk \(\d+\.\d GiB\)", one)
    either = what_would_fit(MILLION, 1600, needed(by_dbscan))
    assert "neighbors.similarity=disk (" in either
    assert " or inter.method=dbscan (" in either
    assert "approximate" not in either
    both = what_would_fit(MILLION, 1600, needed(with_method(on_disk, "dbscan")))
    assert both.startswith("it fits with neighbors.similarity=disk inter.method=dbscan (")
    assert what_would_fit(MILLION, 1600, GIB) == "take a machine with more"
    auto = with_neighbors(MILLION, k1="auto")
    assert "dbscan" not in what_would_fit(auto, 1600, cluster_bytes(auto, 1600))


@pytest.mark.usefixtures("one_probe")
@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_a_million_images_in_memory_are_refused_with_what_to_do(search, monkeypatch, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    monkeypatch.setattr(machine, "memory_bytes", lambda: 80 * GIB)
    arguments = ["plan", "icsr", str(file), "--images", "1000000", "--cameras", "15"]
    arguments += [f"neighbors.search={search}", "neighbors.k1=30", "inter.num_clusters=50000"]
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert "To cluster 1,000,000 images the dense way would need 7,450.6 GiB, this one " in printed.out
    assert "raid: it does not fit: cluster: one process takes " in printed.err
    assert "it fits with neighbors.similarity=disk (" in printed.err
    assert cli.main([*arguments, "neighbors.similarity=disk"]) == 0
    assert "GiB of similarity where it is clustered" in capsys.readouterr().out


def test_a_million_images_are_refused_before_the_run_as_well(root, monkeypatch):
    config = IcsrConfig(data=tiny.config(root, root.parent / "run").data)
    train = open_inputs(config.data).train
    million = train.take(np.resize(np.arange(len(train)), 1_000_000))
    with pytest.raises(
        InputError,
        match=r"^data\.root: to cluster 1000000 training images takes about 9\d\.\d GiB, and the machine has "
        r"24\.0; it fits with neighbors\.similarity=disk inter\.method=dbscan \(\d+\.\d GiB\) or "
        r"inter\.method=dbscan neighbors\.keep=within_eps \(\d+\.\d GiB\) \(`raid plan`",
    ):
        check_memory(config, million, 2048, 24 * GIB)
    lean = replace(
        config,
        neighbors=Neighbors(similarity="disk"),
        inter=replace(config.inter, method="dbscan"),
    )
    check_memory(lean, million, 2048, 24 * GIB)


def test_a_step_that_does_not_fit_for_another_reason_gets_no_advice_on_clustering(root):
    config = tiny.config(root, root.parent / "run")
    large = replace(ENCODER, activations=1e12)
    plan = make_plan(config, Counts((600,), 0, 0), large, CLUSTERS)
    assert [line.split(":")[0] for line in misfits(plan, 2**36)] == ["stage 1, a camera", "train"]
    assert not any("it fits with" in line for line in misfits(plan, 2**36))


def test_probes_measure_something(root):
    config = tiny.config(root, root.parent / "run", numerics__dtype="float32")
    encoder = probe_training(config, tflops=None)
    assert encoder.device == "cpu"
    assert encoder.dimensions == 512
    assert encoder.extract > 0
    assert encoder.train > 0
    reckoned = probe_training(config, tflops=1.0)
    # ResNet-18 at 32 x 16: some tens of million operations.
    assert 1e-5 < reckoned.extract < 1e-3
    assert reckoned.train == 3 * reckoned.extract
    clustering = probe_clustering(config, dimensions=16, cluster_size=8)
    assert clustering.rows == (4000, 12000)
    assert set(clustering.methods) == {"agglomerative"}
    assert 8 < clustering.entries_per_row(4000) < 4000


@pytest.mark.usefixtures("quick_probe")
def test_command_prints_a_plan_without_any_images(tmp_path, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    arguments = ["plan", "icsr", str(file), "--images", "600", "--cameras", "4", "--workers", "4"]
    assert cli.main([*arguments, "--query", "153", "--gallery", "515"]) == 0
    text = capsys.readouterr().out
    assert "600 training images of 4 cameras, 153 queries, 515 gallery images; 512 dimensions" in text
    assert "4 workers of 1 threads, encoder on cpu" in text
    for step in ("stage 1, a camera", "extract", "cluster", "train", "evaluate"):
        assert f"\n{step} " in text
    assert "CPU hours" in text


@pytest.mark.usefixtures("quick_probe")
def test_processes_that_do_not_fit_together_are_said(monkeypatch, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    # What a probe finds depends on what this process has held before.
    monkeypatch.setattr("raid.methods.icsr.plan.probe_training", lambda config, tflops: ENCODER)
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**30)
    arguments = ["plan", "icsr", str(file), "--images", "600", "--cameras", "4"]
    assert cli.main([*arguments, "--workers", "16", "sampler.identities=256", "model.ghost_size=64"]) == 0
    assert re.search(
        r"more than this machine's 1\.0: spread the processes over \d+ such", capsys.readouterr().out
    )


@pytest.mark.usefixtures("quick_probe")
def test_what_cannot_fit_is_said(monkeypatch, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**20)
    assert cli.main(["plan", "icsr", str(file), "--images", "600", "--cameras", "4"]) == 2
    assert "raid: it does not fit: " in capsys.readouterr().err


def test_prediction_of_a_clusterings_memory_holds(root):
    """The entries that are predicted for twice the probe's smaller set are those that there are."""
    from raid.data import synthetic
    from raid.ops.jaccard import jaccard_similarity

    config = IcsrConfig(data=tiny.config(root, root.parent / "run").data)
    speed = probe_clustering(config, dimensions=64, cluster_size=16)
    rows = synthetic.features(2, num_identities=500, images_per_identity=16, dim=64).features
    entries = jaccard_similarity(rows, k1=30, k2=6).nnz / len(rows)
    assert speed.entries_per_row(len(rows)) == pytest.approx(entries, rel=0.25)
    assert entries / 2.5 < usual_entries(len(rows), 30) < 2.5 * entries  # these rows are noisy ones


@pytest.mark.parametrize(
    ("rows", "entries"), [(12_936, 1351), (32_621, 1905), (100_000, 3151), (10**6, 5352)]
)
def test_usual_entries_are_about_those_of_the_benchmarks(rows, entries):
    assert usual_entries(rows, 30) == pytest.approx(entries, rel=0.2)


def test_run_that_cannot_be_clustered_is_refused_before_anything_is_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**10)
    config = tiny.config(root, tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.root: to cluster 45 training images takes about .* GiB"):
        icsr.run(config)
    assert not config.run.folder.exists()


@pytest.mark.parametrize(
    ("method", "search", "similarity"),
    [
        ("agglomerative", "exact", "memory"),
        ("agglomerative", "exact", "disk"),
        ("dbscan", "approximate", "memory"),
        ("kmeans", "exact", "memory"),
    ],
)
def test_prediction_of_memory_is_what_a_clustering_takes(method, search, similarity):
    """Of 6,000 rows; on disk, of what the system cannot drop."""
    how, neighbors = {"method": method}, {"search": search, "similarity": similarity}
    script = Path(__file__).with_name("clustering_peak.py")
    folders = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, script, "6000", "256", json.dumps({"how": how, "neighbors": neighbors})],
        env={**os.environ, "PYTHONPATH": folders}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    rows = taken["rows"]
    task = ClusterTask("inter", rows, 256, rows // 16, Clustering(**how), Neighbors(**neighbors), 1)
    predicted = cluster_bytes(task, taken["entries_per_row"]) - 4 * rows * 256  # the features were there
    measured = taken["anonymous"] if similarity == "disk" else taken["peak"]
    assert 0.9 * measured <= predicted <= 3 * measured
