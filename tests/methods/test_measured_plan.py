"""`raid plan --from-runs`: the epochs take what runs took, and the rest is the probe's; `--set`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from scaling_runs import IMAGES, add_epochs, epochs_of, run_of, strong

from raid import cli
from raid.config import to_yaml
from raid.data.counts import MSMT17
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.mar.plan import MarCounts
from raid.methods.mar.plan import make_plan as plan_mar
from raid.methods.mar.probe import MarSpeed
from raid.methods.measured_plan import measured, scaling_for
from raid.methods.plan import PUBLISHED, Counts, Plan, Step
from raid.methods.plan_text import describe_makespans
from raid.methods.probe import EncoderSpeed
from raid.methods.slsr.plan import SlsrCounts
from raid.methods.slsr.plan import make_plan as plan_slsr
from raid.methods.slsr.probe import ClusteringSpeed, GanSpeed, MakingSpeed, SlsrSpeed

ENCODER = EncoderSpeed("cpu", 100, extract=0.5, train=2.0, activations=1e6, weights=1e6, fixed=4e6)
MAR = MarSpeed(ENCODER, softmax=0.25, losses=0.75, multilabel=1e-2, pair=1e-4, ranked_pair=3e-6)
GAN = GanSpeed(step=0.25, generate=0.01, activations=1e6, weights=1e5, on_gpu=False)
MAKING = MakingSpeed(ClusteringSpeed(1e-6, 1e-8, 1e-4, 1e-7, 1e-8), GAN, 1e-5, 0.5)
SLSR = SlsrSpeed(ENCODER, ENCODER, 0.75, 1.25, MAKING, ranked_pair=3e-6)
COUNTS = Counts((100, 300, 200), 50, 250)
CAMERAS = [(15, 7.0), (15, 9.0), (15, 2.0)]
DATA = {"data.root": "images"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("measured") / "images")


def config(folder: Path, workers: int = 1, root: Path = Path("images"), **overrides: Any) -> IcsrConfig:
    return tiny.config(root, folder, run__workers=workers, **overrides)


def icsr_steps(workers: int, epochs: int = 4, num_steps: int = 3) -> Plan:
    """A plan as ICSR's of a probe would be."""
    steps = (
        Step("stage 1, a camera", 100.0, 3, 200.0, workers, span="cameras"),
        Step("extract", 100.0, epochs, 100.0 * epochs, workers, span="training/extract"),
        Step("cluster", 100.0, epochs, 100.0 * epochs, workers, span="training/cluster"),
        Step("train", 100.0, epochs, 0.0, workers, 5e6, span="training/train", images=16 * num_steps),
        Step("evaluate", 100.0, 2, 200.0, workers, span="training/evaluate"),
        Step("other", 100.0, 1, 100.0, workers),
    )
    return Plan(steps, disk=7.0)


def test_steps_take_what_the_runs_took(tmp_path):
    runs = strong(tmp_path, config, (1, 2), cameras=CAMERAS)
    planned = config(tmp_path / "plan", 4, inter__epochs=50, inter__steps=30, seed=3)
    found = scaling_for(runs, "icsr", planned, DATA)
    before = icsr_steps(4, epochs=50, num_steps=30)
    plan = measured(before, found, 4)
    steps = {step.name: step for step in plan.steps}
    images = 16 * 30
    train = (0.5 / 4 + 0.02 * 3 / 4 + 0.05 / 4) * images
    assert {name: step.seconds for name, step in steps.items() if step.measured} == pytest.approx(
        {"stage 1, a camera": 6.0, "extract": 1.5, "cluster": 2.25, "train": train, "evaluate": 1.5}
    )
    assert {name: step.elapsed for name, step in steps.items()} == pytest.approx(
        {
            "stage 1, a camera": 9.0, "extract": 75.0, "cluster": 112.5, "train": 50 * train,
            "evaluate": 3.0, "other": 100.0,
        }
    )  # fmt: skip
    assert (steps["train"].memory, steps["train"].times, plan.disk) == (5e6, 50, 7.0)  # are the plan's
    assert steps["other"] == before.steps[-1]
    assert list(plan.times) == [
        "* training: of 2 runs on 1, 2 workers, strong scaling, by T(W) = a + b/W (nothing tells how good a "
        "line through two is); 4 workers are beyond them",
        f"* stage 1: what {runs[0]} took for each camera, handed out to the processes",
        "The others: times are a probe's, scaled: good to a factor of two.",
    ]


def test_cameras_are_handed_out_to_the_plans_processes(tmp_path):
    runs = strong(tmp_path, config, (1, 2), cameras=[(15, 7.0), (15, 5.0), (15, 4.0), (15, 3.0)])
    found = scaling_for(runs, "icsr", config(tmp_path / "plan", 2), DATA)
    assert measured(icsr_steps(2), found, 2).steps[0].elapsed == 10.0
    assert measured(icsr_steps(1), found, 1).steps[0].elapsed == 19.0


def test_without_runs_a_plan_stays_as_it_is():
    plan = icsr_steps(2)
    assert measured(plan, None, 2) is plan
    assert plan.times == ("Times are a probe's, scaled: good to a factor of two.",)


def test_what_the_runs_have_not_measured_stays_the_probes(tmp_path):
    bare = [{"train": 8.0 / workers, "data_wait": 0.5 / workers} for workers in (1, 2, 4)]
    runs = [
        run_of(tmp_path / f"{workers}", config(tmp_path / f"{workers}", workers), [epoch] * 3)
        for workers, epoch in zip((1, 2, 4), bare, strict=True)
    ]
    before = icsr_steps(4)
    plan = measured(before, scaling_for(runs, "icsr", config(tmp_path / "plan", 4), DATA), 4)
    assert [step.name for step in plan.steps if step.measured] == ["train"]
    assert [step for step in plan.steps if not step.measured] == [
        step for step in before.steps if step.name != "train"
    ]
    assert len(plan.times) == 2
    assert "(off by 0%)" in plan.times[0]
    assert "beyond" not in plan.times[0]


def test_weak_scaling_plans_the_grown_batch(tmp_path):
    runs = [
        run_of(
            tmp_path / f"{workers}",
            config(tmp_path / f"{workers}", workers, scale="weak"),
            epochs_of(workers, IMAGES * workers),
        )
        for workers in (1, 2)
    ]
    found = scaling_for(runs, "icsr", config(tmp_path / "plan", 8, scale="weak"), DATA)
    (stage,) = found.stages
    assert stage.mode == "weak"
    per_image = stage.training_seconds(8)
    assert per_image == pytest.approx(0.55 / 8 + 0.02 * 7 / 8)
    with pytest.raises(
        InputError, match=r"--from-runs: the plan's steps have 16 images, and those of the runs"
    ):
        scaling_for(runs, "icsr", config(tmp_path / "plan", 4), DATA)


@pytest.mark.parametrize(
    ("workers", "overrides", "data", "message"),
    [
        (
            (1, 2),
            {"sampler__identities": 16},
            "images",
            "have 32 images, and .*strong scaling, would have 16 on",
        ),
        (
            (1, 2),
            {"model__backbone": "resnet18"},
            "images",
            r"model\.backbone is resnet10, in the plan resnet18",
        ),
        ((2,), {}, "images", "--from-runs: all runs have 2 workers; .* takes runs on two numbers of workers"),
        ((1, 2), {}, "others", "strong_1: on other images than the plan"),
    ],
)
def test_runs_of_something_else_are_refused(tmp_path, workers, overrides, data, message):
    runs = strong(tmp_path, config, workers)
    planned = config(tmp_path / "plan", 4, **overrides)
    with pytest.raises(InputError, match=message) as raised:
        scaling_for(runs, "icsr", planned, {"data.root": data})
    assert "\n" not in str(raised.value)


def mar_runs(folder: Path) -> list[Path]:
    paths = []
    for workers in (1, 2, 4):
        path = folder / f"mar_{workers}"
        made = tiny.mar_config(Path("source"), Path("images"), path, run__workers=workers)
        data = {"data.root": "images", "source.root": "source"}
        run_of(path, made, epochs_of(workers), method="mar", data=data, loss="pretraining/loss")
        add_epochs(path, epochs_of(workers, 2 * IMAGES))
        paths.append(path)
    return paths


def slsr_runs(folder: Path) -> list[Path]:
    paths = []
    for workers in (1, 2, 4):
        path = folder / f"slsr_{workers}"
        made = tiny.slsr_config(Path("images"), path, run__workers=workers)
        run_of(path, made, epochs_of(workers), method="slsr", data=DATA, loss="baseline/loss")
        add_epochs(path, epochs_of(workers, 2 * IMAGES))
        paths.append(path)
    return paths


def plan_of_mar(folder: Path) -> tuple[Any, Plan]:
    made = tiny.mar_config(Path("source"), Path("images"), folder, run__workers=2)
    return made, plan_mar(made, MarCounts(COUNTS, source=90, people=7), MAR)


def plan_of_slsr(folder: Path) -> tuple[Any, Plan]:
    made = tiny.slsr_config(Path("images"), folder, run__workers=2)
    return made, plan_slsr(made, SlsrCounts(COUNTS, identities=30), SLSR)


@pytest.mark.parametrize(
    ("method", "runs_of", "plan_of", "first", "second"),
    [
        ("mar", mar_runs, plan_of_mar, "pretrain, an epoch", "train, an epoch"),
        ("slsr", slsr_runs, plan_of_slsr, "baseline, an epoch", "fine-tune, an epoch"),
    ],
)
def test_both_stages_of_the_other_methods_are_measured(
    tmp_path: Path,
    method: str,
    runs_of: Callable[[Path], list[Path]],
    plan_of: Callable[[Path], tuple[Any, Plan]],
    first: str,
    second: str,
):
    planned, plan = plan_of(tmp_path / "plan")
    found = measured(plan, scaling_for(runs_of(tmp_path), method, planned, DATA), 2)
    steps = {step.name: step for step in found.steps if step.measured}
    assert {first, second} <= set(steps)
    # The made-up epochs of the second stage take twice the seconds, for the same three steps of 16.
    assert steps[first].seconds == pytest.approx(0.285 * steps[first].images)
    assert steps[second].seconds == pytest.approx(2 * 0.285 * steps[second].images)
    assert steps["evaluate"].seconds == pytest.approx(2.5)
    before = {step.name: step for step in plan.steps}
    assert {step.name: step.images for step in steps.values() if step.images} == {
        name: before[name].images for name in (first, second)
    }
    assert before[second].images == 16 * 3
    assert len(found.times) == 3
    # What happens once has not been measured by epochs.
    assert not any(
        step.measured for step in found.steps if step.name in ("start", "cluster", "GAN, a cluster")
    )


@pytest.fixture
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raid.methods.icsr.probe._CLUSTER_ROWS", (500, 1500))


@pytest.mark.usefixtures("quick_probe")
def test_the_command_says_where_its_times_come_from(root, tmp_path, capsys):
    fingerprint = load_samples(config(tmp_path, root=root).data).fingerprint()

    def of(folder: Path, workers: int) -> IcsrConfig:
        return config(folder, workers, root=root)

    runs = strong(tmp_path, of, (1, 2), data=fingerprint, cameras=CAMERAS)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(of(tmp_path / "run", 1)))
    arguments = ["plan", "icsr", str(file), "--workers", "4"]
    names = [str(path) for path in runs]
    assert cli.main([*arguments, "--from-runs", *names, "inter.epochs=2"]) == 0
    text = capsys.readouterr().out
    assert "45 training images of 3 cameras, 15 queries, 30 gallery images" in text
    assert "\nextract*                   1.5 s       2       3.0 s" in text
    assert "\ntrain*                     7.3 s" in text
    assert "\n* training: of 2 runs on 1, 2 workers" in text
    assert "\n  takes           18.0 s     9.0 s     9.0 s" in text
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "*" not in text
    assert "\nTimes are a probe's, scaled: good to a factor of two.\n" in text
    assert "stage 1        3 cameras, the largest first, on so many processes" in text
    for other in (["--images", "45"], ["--set", "msmt17"]):
        assert cli.main([*arguments, *other, "--from-runs", *names]) == 2
        assert capsys.readouterr().err.startswith("raid: --from-runs: their times are of their own images")
    assert cli.main([*arguments, "data.pattern=" + tiny.WITHOUT_TEST_IMAGES, "--from-runs", *names]) == 2
    assert "strong_1: on other images than the plan" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_probe")
def test_the_baseline_has_no_stage_1(tmp_path, capsys):
    file = Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml"
    arguments = ["plan", "icsr", str(file), "--images", "600", "--cameras", "4", "refine.enabled=false"]
    assert cli.main(arguments) == 0
    assert "stage 1" not in capsys.readouterr().out


def test_a_published_set_is_known_camera_by_camera():
    counts = Counts.published(PUBLISHED["msmt17"])
    assert counts == Counts(MSMT17.train_images, 11_659, 82_161)
    assert (counts.train, max(counts.cameras), min(counts.cameras)) == (32_621, 4910, 203)
    for name, numbers in PUBLISHED.items():
        assert Counts.published(numbers).train == numbers.splits["train"].images, name


@pytest.mark.usefixtures("quick_probe")
def test_the_command_takes_a_published_set(capsys):
    file = str(Path(__file__).parents[2] / "jobs" / "icsr_demo.yaml")
    assert cli.main(["plan", "icsr", file, "--set", "dukemtmc", "--tflops", "50"]) == 0
    text = capsys.readouterr().out
    assert "16,522 training images of 8 cameras, 2,228 queries, 17,661 gallery images" in text
    assert "stage 1        8 cameras, the largest first" in text
    assert cli.main(["plan", "icsr", file, "--set", "msmt17", "--images", "3"]) == 2
    assert "--set, --images: give one of both" in capsys.readouterr().err


def test_the_table_of_stage_1_by_hand():
    assert describe_makespans([4.0, 3.0, 2.0], "stage 1") == [
        "stage 1",
        "  processes            1         2         4         8        16        32        64",
        "  takes            9.0 s     5.0 s     4.0 s     4.0 s     4.0 s     4.0 s     4.0 s",
        "  at least         9.0 s     4.5 s     4.0 s     4.0 s     4.0 s     4.0 s     4.0 s",
        "  3 processes are as fast as any number: one camera takes 4.0 s",
    ]
    assert (
        describe_makespans([4.0], "x")[-1] == "  1 process is as fast as any number: one camera takes 4.0 s"
    )
