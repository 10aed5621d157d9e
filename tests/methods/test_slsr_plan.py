"""`raid plan slsr`: the run that is reckoned is the run that would be made."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from raid import cli, machine
from raid.config import load, to_yaml
from raid.data import synthetic
from raid.errors import InputError
from raid.methods.mar.config import MarConfig
from raid.methods.plan import Counts, Step, misfits
from raid.methods.probe import EncoderSpeed, timed
from raid.methods.slsr.clusters import cluster_images
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.dcgan_state import Dcgan
from raid.methods.slsr.memory import (
    SlsrSizes,
    check_memory,
    clustering_bytes,
    extracted_bytes,
    gan_image_bytes,
    generation_bytes,
    head_bytes,
    kmeans_bytes,
    label_bytes,
    num_clustered,
    plane_bytes,
    silhouette_bytes,
)
from raid.methods.slsr.plan import SlsrCounts, disk_bytes, make_plan
from raid.methods.slsr.probe import (
    ClusteringSpeed,
    GanSpeed,
    MakingSpeed,
    SlsrSpeed,
    probe,
    probe_clustering,
    probe_gan,
)

CPU = torch.device("cpu")
ENCODER = EncoderSpeed("cpu", 512, extract=0.5, train=2.0, activations=1e6, weights=1e6, fixed=3e6)
CLUSTERING = ClusteringSpeed(1e-6, 1e-8, 1e-4, 1e-7, 1e-8)
GAN = GanSpeed(step=0.25, generate=0.01, activations=1e6, weights=1e5, on_gpu=False)
SPEED = SlsrSpeed(ENCODER, ENCODER, 0.75, 1.25, MakingSpeed(CLUSTERING, GAN, 1e-5, 0.5), ranked_pair=3e-6)
COUNTS = SlsrCounts(Counts((100, 300, 200), 50, 250), identities=30)
GIB = 2**30


def config(**overrides: object) -> SlsrConfig:
    return tiny.slsr_config(Path("target"), Path("run"), **overrides)


def steps(config: SlsrConfig, counts: SlsrCounts = COUNTS, speed: SlsrSpeed = SPEED) -> dict[str, Step]:
    return {step.name: step for step in make_plan(config, counts, speed).steps}


def test_every_step_is_reckoned_from_its_numbers():
    chosen = config(
        run__workers=2, baseline__epochs=4, baseline__steps=None, finetuning__epochs=5,
        finetuning__steps=None, gan__steps=None, clusters__num_clusters=3, generated__count=120,
        evaluate__every=2,
    )  # fmt: skip
    found = steps(chosen)
    assert list(found) == [
        "baseline, an epoch", "extract", "cluster", "GAN, a cluster", "generate, a cluster",
        "fine-tune, an epoch", "evaluate",
    ]  # fmt: skip
    baseline = 600 // 16 * (16 * 2.0 / 2 + 0.75)
    assert (found["baseline, an epoch"].seconds, found["baseline, an epoch"].times) == (baseline, 4)
    tuned = 720 // 16 * (16 * 2.0 / 2 + 1.25)
    assert (found["fine-tune, an epoch"].seconds, found["fine-tune, an epoch"].elapsed) == (tuned, 5 * tuned)
    assert (found["extract"].seconds, found["extract"].times) == (600 * 0.5 / 2, 1)
    pairs = 600**2
    clustered = 600 * 512 * 1e-6 + pairs * 512 * 1e-8 + 600 * 1e-4 + pairs * 1e-7 + 600 * 512 * 1e-8
    assert found["cluster"].elapsed == pytest.approx(clustered)
    gan = 2 * (200 // 8 * 8 * 0.25 + 128 * 0.01)  # two epochs, after each of which samples are looked at
    assert found["GAN, a cluster"].seconds == pytest.approx(gan)
    assert (found["GAN, a cluster"].times, found["GAN, a cluster"].elapsed) == (3, pytest.approx(2 * gan))
    on_pool, on_driver = 40 * 0.01 + (40 + 200) * 200 * 1e-5, 2 * 40 * 0.5 / 2 + 0.5
    assert found["generate, a cluster"].seconds == pytest.approx(on_pool + on_driver)
    assert found["generate, a cluster"].elapsed == pytest.approx(2 * on_pool + 3 * on_driver)
    assert found["evaluate"].times == 1 + 3  # after stage 1; epochs 2, 4 and the last
    assert found["evaluate"].seconds == pytest.approx(300 * 2 * 0.5 / 2 + 3e-6 * 50 * 250)
    once = steps(replace(chosen, evaluate=replace(chosen.evaluate, flip=False)))
    assert once["evaluate"].seconds == pytest.approx(300 * 0.5 / 2 + 3e-6 * 50 * 250)
    plan = make_plan(chosen, COUNTS, SPEED)
    assert plan.disk == 3 * 32 * 16 * 900
    assert plan.device_hours == pytest.approx(2 * plan.elapsed / 3600)


def test_a_parent_comes_first_and_a_larger_pool_trains_more_at_a_time():
    chosen = config(clusters__num_clusters=4, gan__parent="all_images", gan__steps=None, pool__size=3)
    found = steps(chosen)
    assert list(found).index("GAN of all images") + 1 == list(found).index("GAN, a cluster")
    assert found["GAN of all images"].elapsed == 2 * (600 // 8 * 8 * 0.25 + 1.28)
    one = found["GAN, a cluster"].seconds
    assert (found["GAN, a cluster"].elapsed, found["GAN, a cluster"].processes) == (2 * one, 3)
    many = steps(config(clusters__num_clusters=4, pool__size=9))["GAN, a cluster"]
    assert (many.elapsed, many.processes) == (many.seconds, 4)


def test_numbers_of_steps_go_before_passes_and_small_clusters_are_small_batches():
    found = steps(config(baseline__steps=3, finetuning__steps=7))
    assert found["baseline, an epoch"].seconds == 3 * (16 * 2.0 + 0.75)
    assert found["fine-tune, an epoch"].seconds == 7 * (16 * 2.0 + 1.25)
    assert found["GAN, a cluster"].seconds == pytest.approx(2 * (2 * 8 * 0.25 + 1.28))
    few = SlsrCounts(Counts((16,), 0, 0), 4)
    small = steps(config(clusters__num_clusters=4, gan__steps=None), few)["GAN, a cluster"]
    assert small.seconds == pytest.approx(2 * (1 * 4 * 0.25 + 1.28))
    assert small.memory == gan_image_bytes(config(), 4) + 4e5 + 4 * 1e6


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        ({"finetuning__epochs": 0}, ["baseline, an epoch", "evaluate"]),
        ({"generated__label": "none"}, ["fine-tune, an epoch", "evaluate"]),
        (
            {"generated__label": "none", "finetuning__start": "baseline"},
            ["baseline, an epoch", "fine-tune, an epoch", "evaluate"],
        ),
        ({"generated__folder": "other"}, ["fine-tune, an epoch", "evaluate"]),
        (
            {"baseline__checkpoint": "there.pt"},
            [
                "extract", "cluster", "GAN, a cluster", "generate, a cluster", "fine-tune, an epoch",
                "evaluate",
            ],
        ),
    ],
)  # fmt: skip
def test_what_a_run_leaves_out_is_no_step(overrides, left):
    chosen = config(**overrides)
    speed = SPEED if chosen.makes_images else replace(SPEED, making=None)
    found = steps(chosen, speed=speed)
    assert list(found) == left
    assert found["evaluate"].times == ("baseline, an epoch" in left) + chosen.finetuning.epochs
    no_queries = replace(COUNTS, target=Counts((600,), 0, 0))
    assert steps(chosen, no_queries, speed)["evaluate"].times == 0


def test_images_of_another_run_are_trained_on_all_the_same():
    whole = {"finetuning__steps": None, "generated__count": 64}
    taken = steps(config(generated__folder="other", **whole), speed=replace(SPEED, making=None))
    real = steps(config(generated__label="none", **whole), speed=replace(SPEED, making=None))
    batch = 16 * 2.0 + 1.25
    assert taken["fine-tune, an epoch"].seconds == 664 // 16 * batch
    assert real["fine-tune, an epoch"].seconds == 600 // 16 * batch


def test_a_baseline_of_another_network_is_reckoned_with_its_own_speed():
    slow = replace(ENCODER, extract=5.0, train=20.0, weights=2e6)
    found = steps(config(baseline__backbone="resnet18"), speed=replace(SPEED, baseline=slow))
    assert found["baseline, an epoch"].seconds == 3 * (16 * 20.0 + 0.75)
    assert found["fine-tune, an epoch"].seconds == 3 * (16 * 2.0 + 1.25)
    assert found["extract"].seconds == 600 * 5.0
    assert (found["evaluate baseline"].times, found["evaluate"].times) == (1, 2)
    ranked = 3e-6 * 50 * 250
    assert found["evaluate baseline"].seconds == pytest.approx(300 * 2 * 5.0 + ranked)
    assert found["evaluate"].seconds == pytest.approx(300 * 2 * 0.5 + ranked)


def test_memory_is_that_of_what_is_held():
    """By hand; the models are float64, what is clustered float32."""
    chosen = config(run__workers=2)
    found = steps(chosen)
    assert num_clustered(chosen) == 512
    assert extracted_bytes(chosen, 600) == 12 * 600 * 512
    assert found["extract"].memory == ENCODER.weights + 12 * 600 * 512
    beside = [
        kmeans_bytes(chosen, 600, 512),
        silhouette_bytes(chosen, 600, 512),
        plane_bytes(600, 512),
    ]
    assert found["cluster"].memory == 4 * 600 * 512 + max(beside) == clustering_bytes(chosen, 600)
    assert found["cluster"].together == found["cluster"].memory + 12 * 600 * 512
    in_process = steps(config())["cluster"]
    assert in_process.together == in_process.memory
    assert found["GAN, a cluster"].memory == 3 * 32 * 16 * 300 + 4 * 1e5 + 8 * 1e6
    assert found["GAN, a cluster"].together == 2 * found["GAN, a cluster"].memory
    assert found["generate, a cluster"].memory == generation_bytes(chosen) == 3 * 32 * 16 * 4000
    labels = 18 * (30 + 2) * 30
    assert label_bytes(chosen, COUNTS.sizes, generated=True) == labels
    beside = labels + head_bytes(chosen, chosen.finetuning, 512, 30)
    assert found["fine-tune, an epoch"].memory == ENCODER.fixed + 8 * ENCODER.activations + beside
    assert found["fine-tune, an epoch"].together == 2 * found["fine-tune, an epoch"].memory
    one_more = config(generated__label="all_in_one")
    assert label_bytes(one_more, COUNTS.sizes, generated=True) == 18 * 32 * 31
    assert label_bytes(one_more, COUNTS.sizes, generated=False) == 18 * 30 * 30


def test_maps_are_as_long_as_those_of_the_network():
    """Golden: a ResNet-50's map at 288 x 144, last stride 2, is 2048 x 9 x 5; what clusters them is known."""
    given = {"model__backbone": "resnet50", "model__last_stride": 2, "numerics__dtype": "float32"}
    chosen = config(**given, data__height=288, data__width=144, clusters__features="map")
    assert num_clustered(chosen) == 92_160
    assert extracted_bytes(chosen, 12_936) == 4 * 12_936 * 92_160
    assert plane_bytes(12_936, 92_160) < 2**29  # a covariance would be 63 GiB


def test_disk_holds_images_and_gans_at_their_fullest():
    chosen = config(generated__count=100, clusters__num_clusters=3)
    assert disk_bytes(chosen, 1000.0) == 100 * 3 * 32 * 16 + 3 * 3 * 1000
    parent = config(generated__count=100, clusters__num_clusters=3, gan__parent="all_images")
    assert disk_bytes(parent, 1000.0) == 100 * 3 * 32 * 16 + 4 * 3 * 1000


def test_prediction_of_memory_is_what_is_taken():
    images, dimensions, of_plane, people = 2500, 1200, 100_000, 1500
    overrides = ["gan.channels=16", "gan.batch_size=32", "gan.height=64", "clusters.restarts=4"]
    overrides.append("model.noise_layer=transition")
    script = Path(__file__).with_name("slsr_peak.py")
    folders = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
    # Or malloc would keep what was freed, and give it out without a trace.
    environment = {**os.environ, "PYTHONPATH": folders, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    numbers = map(str, (images, dimensions, of_plane, people))
    done = subprocess.run(
        [sys.executable, script, *numbers, *overrides],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    chosen = load(SlsrConfig, overrides=["data.root=x", "model.weights=none", *overrides])
    gan = probe_gan(chosen.gan, CPU, None)
    predicted = {
        "kmeans": kmeans_bytes(chosen, images, dimensions),
        "silhouettes": silhouette_bytes(chosen, images, dimensions),
        "plane": plane_bytes(50, of_plane),
        "gan": gan.fixed + 32 * gan.activations,
        "labels": label_bytes(chosen, SlsrSizes(images, people), generated=True),
        "classifier": head_bytes(chosen, chosen.finetuning, 64, people),
    }
    ratios = {name: predicted[name] / measured[name] for name in predicted}
    assert all(0.8 <= ratio <= 1.7 for ratio in ratios.values()), ratios


def test_probes_measure_something():
    torch.set_num_threads(1)
    chosen = config(numerics__dtype="float32", baseline__backbone="resnet18")
    found = probe(chosen, 30, tflops=None)
    assert (found.encoder.device, found.encoder.dimensions) == ("cpu", 512)
    assert found.encoder.fixed == 3 * found.encoder.weights
    assert found.baseline.weights > 2 * found.encoder.weights
    assert found.making is not None
    gan, clustering = found.making.gan, found.making.clustering
    seconds = (
        found.encoder.extract, found.baseline_loss, found.loss, gan.step, gan.generate,
        found.making.compared, found.making.frechet, clustering.kmeans, clustering.silhouettes,
        clustering.plane_kmeans, clustering.plane_silhouettes, clustering.plane,
    )  # fmt: skip
    assert all(0 < value < 1 for value in seconds)
    assert found.encoder.train > found.encoder.extract
    assert gan.step > gan.generate
    assert 0 < found.ranked_pair < 2e-7


def test_what_is_no_part_of_a_run_is_not_probed():
    found = probe(config(generated__label="none", numerics__dtype="float32"), 30, tflops=1.0)
    assert found.making is None
    assert found.baseline is found.encoder
    assert found.encoder.train == 3 * found.encoder.extract
    # Products of 16 rows of 512 features with a bottleneck of 8 and 30 classes, forward and backward.
    assert 2 * 16 * 8 * (512 + 30) < found.loss * 1e12 < 8 * 16 * 8 * (512 + 30)


def test_operations_of_a_gan_are_those_of_its_layers():
    """By hand: each of two networks' four 5x5 layers at 32 x 16 with 4 channels at the narrow end."""
    gan = config(gan__channels=4).gan
    found = probe_gan(gan, CPU, 1.0)
    of_layers = sum(
        25 * wide * narrow * rows * rows // 2
        for rows, wide, narrow in ((2, 32, 16), (4, 16, 8), (8, 8, 4), (16, 4, 3))
    )
    forward = 2 * (of_layers + 4 * 32 * 2)
    assert found.generate * 1e12 == pytest.approx(forward, rel=0.05)
    # A step: the generator three times and the discriminator four, and each backward about twice that.
    assert 12 * forward < found.step * 1e12 < 20 * forward


def _least(work: Callable[[], object], times: int = 3) -> float:
    return min(timed(work)[1] for _ in range(times))


def test_prediction_of_a_gan_s_time_holds():
    """Of steps on the whole batch, which the probe does not reach: a factor of ten for a busy machine."""
    torch.set_num_threads(1)
    gan = config(gan__height=64, gan__width=32, gan__channels=16, gan__batch_size=64).gan
    predicted = min(probe_gan(gan, CPU, None).step for _ in range(2)) * 64
    networks = Dcgan(gan, (1, 2), CPU)
    pictures, noise = torch.zeros(64, 3, 64, 32), torch.rand(64, gan.num_latent)
    taken = _least(lambda: networks.step(pictures, noise))
    assert taken / 10 < predicted < 10 * taken


def test_prediction_of_the_clustering_s_time_holds():
    """Of three times as many images as the probe's, of a quarter of its dimensions."""
    torch.set_num_threads(1)
    clusters = config(clusters__restarts=4, clusters__silhouettes=(2, 3, 4)).clusters
    speed = probe_clustering(clusters, 1)
    rows = synthetic.features(2, num_identities=300, images_per_identity=10, dim=512).features
    labels = np.zeros(3000, dtype=np.int64)
    taken = _least(lambda: cluster_images((clusters, 1), rows, labels), 2)
    assert taken / 10 < speed.seconds(3000, 512) < 10 * taken


def advice(chosen: SlsrConfig, counts: SlsrCounts, available: float, speed: SlsrSpeed) -> dict[str, str]:
    lines = misfits(make_plan(chosen, counts, speed), available)
    return {line.split(":")[0]: line.partition("; ")[2] for line in lines}


def test_what_does_not_fit_is_said_with_what_would():
    many = replace(COUNTS, target=Counts((1_000_000,), 0, 0))
    maps = config(numerics__dtype="float32", clusters__features="map", gan__steps=1)
    found = advice(maps, many, 16 * GIB, SPEED)
    assert re.fullmatch(r"it fits with clusters\.features=pooled \(1\d\.\d GiB\)", found["cluster"])
    large = replace(SPEED, encoder=replace(ENCODER, activations=1e9))
    assert "it fits with run.workers=2 (" in advice(config(), COUNTS, 9 * GIB, large)["fine-tune, an epoch"]
    assert advice(config(), COUNTS, 2 * GIB, large)["fine-tune, an epoch"] == "take a machine with more"
    assert SPEED.making is not None
    gans = replace(SPEED, making=replace(SPEED.making, gan=replace(GAN, activations=1e9)))
    assert advice(config(), COUNTS, 3 * GIB, gans) == {
        "GAN, a cluster": "it fits with gan.batch_size=2 (1.9 GiB)"
    }
    people = SlsrCounts(Counts((100_000,), 0, 0), 20_000)
    wide = config(model__noise_layer="transition", numerics__dtype="float32", gan__steps=1)
    found = advice(wide, people, 10 * GIB, SPEED)["fine-tune, an epoch"]
    assert found.startswith("it fits with model.noise_layer=bottleneck (6.")


def test_gans_on_a_gpu_are_held_there():
    assert SPEED.making is not None
    making = replace(SPEED.making, gan=replace(GAN, on_gpu=True))
    on_gpu = replace(SPEED, encoder=replace(ENCODER, device="cuda"), making=making)
    plan = make_plan(config(), COUNTS, replace(on_gpu, baseline=on_gpu.encoder))
    assert [step.name for step in plan.steps if step.on_gpu] == [
        "baseline, an epoch", "GAN, a cluster", "fine-tune, an epoch",
    ]  # fmt: skip
    assert steps(config(), COUNTS, on_gpu)["GAN, a cluster"].memory == 4 * 1e5 + 8 * 1e6


def test_check_before_a_run_names_what_would_fit():
    maps = config(numerics__dtype="float32", clusters__features="map")
    with pytest.raises(
        InputError,
        match=r"^clusters\.features: to cluster the map features of 1000000 images, 1024 numbers each, takes "
        r"about \d+\.\d GiB on one process, and its machine has 16\.0; it fits with "
        r"clusters\.features=pooled \(1\d\.\d GiB\) \(`raid plan` says",
    ):
        check_memory(maps, 1_000_000, 30, 16 * GIB)
    check_memory(config(numerics__dtype="float32"), 1_000_000, 30, 16 * GIB)
    check_memory(replace(maps, finetuning=replace(maps.finetuning, epochs=0)), 1_000_000, 30, 16 * GIB)
    with pytest.raises(
        InputError,
        match=r"^data\.root: the labels of 40000 identities, distributions over all of them, take about "
        r"26\.8 GiB on one process, and its machine has 12\.0; take a machine with more \(",
    ):
        check_memory(config(generated__label="none"), 100_000, 40_000, 12 * GIB)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("plan") / "images")


def run_file(path: Path, chosen: SlsrConfig | MarConfig) -> str:
    path.write_text(to_yaml(chosen))
    return str(path)


def test_command_counts_the_set(root, tmp_path, capsys):
    chosen = tiny.slsr_config(root, tmp_path / "run", run__workers=2)
    assert cli.main(["plan", "slsr", run_file(tmp_path / "run.yaml", chosen)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        "5 people, 45 training images of 3 cameras, 15 queries, 30 gallery images; 512 dimensions\n"
        "2 workers of 1 threads, encoder on cpu: "
    )
    assert " images/s of a GAN's step, " in text.splitlines()[1]
    for step in ("baseline, an epoch", "extract", "cluster", "GAN, a cluster", "fine-tune, an epoch"):
        assert f"\n{step} " in text
    assert "512 numbers of 45 images (clusters.features=pooled)" in text
    assert "2 of 22 images each, as if clusters were of one size: 4 steps; 2 at a time" in text
    assert "of generated images and GANs in run.folder" in text
    assert not (tmp_path / "run").exists()


def test_command_prints_a_plan_without_any_images(tmp_path, capsys, monkeypatch):
    file = run_file(tmp_path / "run.yaml", config(numerics__dtype="float32", generated__label="none"))
    arguments = ["plan", "slsr", file, "--images", "12936", "--cameras", "6", "--query", "3368"]
    arguments += ["--gallery", "15913"]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        "raid: --identities: say how many people the --images show: the classifier is as wide\n"
    )
    assert cli.main([*arguments, "--identities", "751", "--tflops", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("751 people, 12,936 training images of 6 cameras, 3,368 queries, 15,913 gallery ")
    assert "GAN" not in text
    monkeypatch.setattr(machine, "memory_bytes", lambda: 2 * GIB)
    assert cli.main([*arguments, "--identities", "20000", "--tflops", "1"]) == 2
    assert "raid: it does not fit: fine-tune, an epoch: one process takes 6." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--images", "900", "--identities", "5", "--source-images", "9"],
            "--source-images, --source-people",
        ),
        (["--identities", "5"], "--identities, --cameras, --query, --gallery: go with --images"),
        (
            ["--images", "5", "--identities", "2"],
            "baseline.batch_size: a batch of 16 images, and the set has 5",
        ),
    ],
)
def test_what_is_given_of_the_set_is_checked(tmp_path, capsys, arguments, message):
    file = run_file(tmp_path / "run.yaml", config())
    assert cli.main(["plan", "slsr", file, *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"raid: {message}")


def test_identities_are_said_for_slsr_alone(tmp_path, capsys):
    chosen = tiny.mar_config(Path("source"), Path("target"), tmp_path / "run")
    file = run_file(tmp_path / "run.yaml", chosen)
    assert cli.main(["plan", "mar", file, "--images", "900", "--identities", "5"]) == 2
    assert capsys.readouterr().err.startswith("raid: --identities: is for `raid plan slsr`; mar knows")


def test_images_of_nobody_known_are_no_part_of_the_plan(root, monkeypatch):
    from raid.methods.inputs import load_samples
    from raid.methods.slsr import plan

    samples = load_samples(tiny.slsr_config(root, Path("run")).data)
    junk = samples.table.set_column(
        samples.table.schema.get_field_index("identity"),
        "identity",
        [[None if identity == 0 else int(identity) for identity in samples.identities]],
    )
    monkeypatch.setattr(plan, "load_samples", lambda data: replace(samples, table=junk))
    found = plan._counted(tiny.slsr_config(root, Path("run")))
    assert found == SlsrCounts(Counts((12, 12, 12), 15, 30), 4)
