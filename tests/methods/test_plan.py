"""`raid plan`: the run that is reckoned is the run that would be made."""

import itertools
import re
from pathlib import Path

import pytest
import tiny

from raid import cli, machine
from raid.errors import InputError
from raid.methods import icsr
from raid.methods.icsr_config import IcsrConfig
from raid.methods.memory import cluster_bytes, usual_entries
from raid.methods.plan import Counts, counts_of, make_plan
from raid.methods.probe import ClusterSpeed, EncoderSpeed, probe_clustering, probe_encoder

ENCODER = EncoderSpeed("cpu", 100, extract=0.5, train=2.0, activations=1e6, fixed=4e6)
CLUSTERS = ClusterSpeed(4000, pair=1e-6, entry=1e-5, entries=(100.0, 100.0))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("plan") / "images")


def planned(root: Path, counts: Counts, **overrides: object) -> dict[str, object]:
    config = tiny.config(root, root.parent / "run", **overrides)
    plan = make_plan(config, counts, ENCODER, CLUSTERS)
    return {"plan": plan, **{step.name: step for step in plan.steps}}


def test_every_step_is_reckoned_from_its_numbers(root):
    counts = Counts((100, 300, 200), 50, 250)
    found = planned(root, counts, run__workers=2, inter__epochs=5, inter__steps=3, evaluate__every=2)
    clustering = 1e-6 * 600**2 / 2 + 1e-5 * 600 * 100
    assert (found["extract"].seconds, found["extract"].times) == (600 * 0.5 / 2, 5)
    assert (found["cluster"].seconds, found["cluster"].times) == (pytest.approx(clustering), 5)
    assert (found["train"].seconds, found["train"].elapsed) == (3 * 16 * 2.0 / 2, 5 * 3 * 16 * 2.0 / 2)
    assert found["evaluate"].times == 3  # epochs 2, 4 and the last
    assert found["cluster"].dense == 2 * 4 * 600**2
    assert found["plan"].disk == 3 * 32 * 16 * 900
    assert found["plan"].elapsed == pytest.approx(sum(step.elapsed for step in found["plan"].steps))


def test_cameras_are_given_to_the_process_that_is_free_first(root):
    counts = Counts((100, 300, 200), 0, 0)
    one = planned(root, counts, intra__epochs=2, intra__steps=1)["stage 1, a camera"]
    cameras = [1 * 16 * 2.0 + 2 * (n * 0.5 + 1e-6 * n**2 + 1e-5 * n * 100) for n in counts.cameras]
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


def test_entries_grow_towards_a_limit():
    # 1 / e = 1 / 300 + 1000 / (150 N) is 1 / 150 at 2000 rows and 1 / 200 at 4000.
    speed = ClusterSpeed(4000, 1e-6, 1e-5, entries=(150.0, 200.0))
    assert speed.entries_per_row(2000) == pytest.approx(150)
    assert speed.entries_per_row(4000) == pytest.approx(200)
    assert speed.entries_per_row(10**9) == pytest.approx(300, rel=1e-3)
    assert speed.entries_per_row(10) == pytest.approx(1 / (1 / 300 + 20 / 3 / 10))
    level = ClusterSpeed(4000, 1e-6, 1e-5, entries=(100.0, 100.0))
    assert level.entries_per_row(1_000_000) == pytest.approx(100)
    assert level.entries_per_row(50) == 50  # not more than there are rows


def test_memory_of_a_million_rows_is_far_from_the_dense_way():
    assert cluster_bytes(1_000_000, 256, 1600) < 1e-2 * 8.0 * 1_000_000**2


def test_probes_measure_something(root):
    config = tiny.config(root, root.parent / "run", numerics__dtype="float32")
    encoder = probe_encoder(config, tflops=None)
    assert encoder.device == "cpu"
    assert encoder.dimensions == 512
    assert encoder.extract > 0
    assert encoder.train > 0
    reckoned = probe_encoder(config, tflops=1.0)
    # ResNet-18 at 32 x 16: some tens of million operations.
    assert 1e-5 < reckoned.extract < 1e-3
    assert reckoned.train == 3 * reckoned.extract
    clustering = probe_clustering(config, dimensions=16, cluster_size=8)
    assert clustering.rows == 4000
    assert 8 < clustering.entries_per_row(4000) < 4000


def test_counts_are_those_of_the_set(root):
    counts = counts_of(tiny.config(root, root.parent / "run"))
    assert counts == Counts((15, 15, 15), 15, 30)


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


def test_processes_that_do_not_fit_together_are_said(monkeypatch, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**30)
    arguments = ["plan", "icsr", str(file), "--images", "600", "--cameras", "4"]
    assert cli.main([*arguments, "--workers", "16", "sampler.identities=256", "model.ghost_size=64"]) == 0
    assert re.search(
        r"more than this machine's 1\.0: spread the processes over \d+ such", capsys.readouterr().out
    )


def test_what_cannot_fit_is_said(monkeypatch, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**20)
    assert cli.main(["plan", "icsr", str(file), "--images", "600", "--cameras", "4"]) == 2
    assert "raid: it does not fit: " in capsys.readouterr().err


def test_memory_of_this_machine_is_no_more_than_is_installed():
    assert 2**28 < machine.memory_bytes() < 2**50


def test_prediction_of_a_clusterings_memory_holds(root):
    """The entries that are predicted for twice the probe's rows are those that there are."""
    from raid.data import synthetic
    from raid.ops.jaccard import jaccard_similarity

    config = IcsrConfig(data=tiny.config(root, root.parent / "run").data)
    speed = probe_clustering(config, dimensions=64, cluster_size=16)
    rows = synthetic.features(2, num_identities=500, images_per_identity=16, dim=64).features
    entries = jaccard_similarity(rows, k1=30, k2=6).nnz / len(rows)
    assert speed.entries_per_row(len(rows)) == pytest.approx(entries, rel=0.25)
    assert usual_entries(len(rows), 30) == pytest.approx(entries, rel=0.5)


def test_run_that_cannot_be_clustered_is_refused_before_anything_is_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2**10)
    config = tiny.config(root, tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.root: to cluster 45 training images takes about .* GiB"):
        icsr.run(config)
    assert not config.run.folder.exists()
