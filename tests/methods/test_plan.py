"""What the plans of all methods share."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from raid import cli, machine
from raid.errors import InputError
from raid.methods.fitting import changes_that_fit
from raid.methods.plan import Counts, Plan, Step, counts_of, evaluation, extraction, misfits
from raid.methods.plan_text import describe_disk, describe_plan, time_text
from raid.methods.probe import EncoderSpeed
from raid.methods.sections import Data

ENCODER = EncoderSpeed("cpu", 100, extract=0.5, train=2.0, activations=1e6, weights=1e6, fixed=4e6)
GIB = 2**30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("plan") / "images")


def test_counts_are_those_of_the_set(root):
    data = tiny.config(root, root.parent / "run").data
    assert counts_of(data) == Counts((15, 15, 15), 15, 30)
    test_half = replace(data, pattern=r"(?P<split>query|gallery)/(?P<identity>\d+)_c(?P<camera>\d+)_")
    with pytest.raises(InputError, match=r"^data\.root: .* has no training images"):
        counts_of(replace(test_half, splits={"query": "query", "gallery": "gallery"}))


def test_cameras_of_a_set_that_is_not_there_are_of_one_size():
    counts = Counts.shared(10, 3, 5, 7)
    assert counts == Counts((4, 3, 3), 5, 7)
    assert counts.train == 10


def test_sums_of_a_plan():
    steps = (
        Step("one", 2.0, 3, 6.0, 4, memory=5.0, together=20.0),
        Step("other", 1800.0, 2, 3600.0, 2, memory=70.0, together=140.0, on_gpu=True),
    )
    plan = Plan(steps, disk=0.0)
    assert plan.elapsed == 3606.0
    assert plan.device_hours == pytest.approx((4 * 6 + 2 * 3600) / 3600)
    assert (plan.memory, plan.gpu_memory) == (20.0, 70.0)
    assert Plan((), 0.0).memory == 0.0


def test_extraction_is_shared_and_evaluation_ranks_every_pair():
    step = extraction(600, 5, ENCODER, workers=2)
    assert (step.seconds, step.times, step.elapsed, step.processes) == (150.0, 5, 750.0, 2)
    assert step.memory == 1e6 + 4 * 600 * 100
    assert step.together == 2 * step.memory
    step = evaluation(Counts((1,), 50, 250), 3, ENCODER, ranked_pair=1e-3, workers=2)
    assert step.seconds == pytest.approx(300 * 0.5 / 2 + 1e-3 * 50 * 250)
    assert step.memory == 4 * 300 * 100 + 4 * 512 * 250
    assert step.together == step.memory + 4 * 300 * 100
    assert step.dense == 4 * 50 * 250
    twice = evaluation(Counts((1,), 50, 250), 3, ENCODER, ranked_pair=1e-3, workers=2, flip=True)
    assert twice.seconds == pytest.approx(2 * 300 * 0.5 / 2 + 1e-3 * 50 * 250)
    assert replace(twice, seconds=step.seconds, elapsed=step.elapsed) == step


def test_a_step_on_a_gpu_is_measured_by_the_gpu_s_memory():
    def step(on_gpu: bool) -> Step:
        return Step("train", 1.0, 1, 1.0, 1, memory=3.0 * GIB, on_gpu=on_gpu, advice="{:.0f} would do".format)

    assert list(misfits(Plan((step(False),), 0.0), 2 * GIB, on_gpu=4 * GIB)) == [
        f"train: one process takes 3.0 GiB, and this machine has 2.0; {2 * GIB} would do"
    ]
    assert list(misfits(Plan((step(True),), 0.0), 2 * GIB, on_gpu=4 * GIB)) == []
    assert list(misfits(Plan((step(True),), 0.0), 4 * GIB, on_gpu=1 * GIB)) == [
        f"train: one process takes 3.0 GiB, and its GPU has 1.0; {1 * GIB} would do"
    ]


def test_memory_of_gpus_is_said_apart(root):
    step = Step("train", 1.0, 1, 1.0, 1, memory=3.0 * GIB, together=9.0 * GIB, on_gpu=True)
    other = Step("extract", 1.0, 1, 1.0, 1, memory=0.1 * GIB, together=0.5 * GIB)
    config = tiny.config(root, root.parent / "run")
    text = describe_plan(Plan((other, step), 0.0), config, ENCODER, head="", remarks=[], disk="")
    assert "memory         0.50 GiB in all processes together, and 3.00 GiB on each GPU\n" in text


def test_images_that_a_cache_does_not_take_are_said():
    data = Data(root=Path("x"), cache_limit_gib=2.0)
    assert describe_disk([GIB, 2.0 * GIB], data) == "3.00 GiB of decoded images on every node"
    assert (
        describe_disk([3.0 * GIB], data)
        == "no decoded images (data.cache_limit_gib=2, and they take 3.00 GiB)"
    )
    assert describe_disk([GIB, 3.0 * GIB], data) == (
        "1.00 GiB of decoded images on every node; 3.00 GiB more is too much for data.cache_limit_gib=2"
    )


def test_changes_that_fit_are_the_fewest():
    changes = {
        "half=true": lambda size: size / 2,
        "less=true": lambda size: size - 1,
        "more=true": lambda size: size,
    }
    assert changes_that_fit(4.0 * GIB, changes, float, 2 * GIB) == "it fits with half=true (2.0 GiB)"
    assert changes_that_fit(4.0 * GIB, changes, lambda size: size, 2 * GIB - 1) == (
        "it fits with half=true less=true (2.0 GiB)"
    )
    assert changes_that_fit(4.0 * GIB, changes, float, 1.0) == "take a machine with more"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (89.0, "89.0 s"), (90.0, "1.5 min"), (5400.0, "1.5 h"), (2e5, "2.3 d")],
)
def test_times_have_a_unit_that_suits_them(seconds, text):
    assert time_text(seconds) == text


def test_memory_of_this_machine_is_no_more_than_is_installed():
    assert 2**28 < machine.memory_bytes() < 2**50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["icsr", "--query", "3"], "--cameras, --query, --gallery: go with --images"),
        (["mar", "--cameras", "2"], "--cameras, --query, --gallery: go with --images"),
        (["icsr", "--images", "30", "--source-images", "9"], "icsr has no source set"),
        (["icsr", "--images", "30", "--source-people", "9"], "icsr has no source set"),
        (["mar", "--images", "300", "--source-images", "900"], "--source-images, --source-people: give both"),
        (["mar", "--images", "300", "--source-people", "9"], "--source-images, --source-people: give both"),
        (["mar", "--images", "300"], "set source.root to where it is"),
    ],
)
def test_what_is_said_of_the_sets_fits_together(tmp_path, capsys, arguments, message):
    file = tmp_path / "run.yaml"
    other = "source: {root: nowhere}\n" if arguments[0] == "mar" else ""
    file.write_text(f"data: {{root: nowhere}}\n{other}")
    method, *options = arguments
    assert cli.main(["plan", method, str(file), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("raid: ")
    assert captured.err.count("\n") == 1
