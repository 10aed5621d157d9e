"""`raid scaling`: runs read, told apart as strong or weak, and what their times come to."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scaling_runs
import tiny
from scaling_runs import IMAGES, add_epochs, epochs_of, run_of, spans, strong
from scipy.optimize import minimize

from raid import cli
from raid.config import load
from raid.errors import InputError
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.makespan import makespan
from raid.methods.scaled_runs import OF_TRAINING, ScaledRun
from raid.methods.scaling import fit, scaling
from raid.methods.scaling_text import as_markdown, as_text
from raid.run_folder import RunFolder

WORKERS = (1, 2, 4)
README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- run by tests/methods/test_scaling.py -->\n"


def config(folder: Path, workers: int = 1, **overrides: Any) -> IcsrConfig:
    return tiny.config(Path("images"), folder, run__workers=workers, inter__epochs=4, **overrides)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return strong(tmp_path, config)


@pytest.fixture
def weak_runs(tmp_path: Path) -> list[Path]:
    return [
        run_of(
            tmp_path / f"weak_{workers}",
            config(tmp_path / f"weak_{workers}", workers, scale="weak"),
            epochs_of(workers, IMAGES * workers),
        )
        for workers in WORKERS
    ]


def test_an_epoch_is_what_its_groups_come_to(tmp_path):
    run = ScaledRun.read(run_of(tmp_path / "run", config(tmp_path / "run", 2), epochs_of(2)))
    (stage,) = run.stages.values()
    assert (run.workers, stage.batch, stage.steps, stage.images, stage.epochs) == (2, 16, 3, IMAGES, 3)
    assert stage.seconds == pytest.approx(
        {
            "compute": 0.25 * IMAGES, "collective": 0.01 * IMAGES, "data_wait": 0.025 * IMAGES,
            "extract": 3.0, "cluster": 2.5, "evaluate": 2.5, "other": 0.25,
        }
    )  # fmt: skip
    assert stage.of_epoch["evaluate"] == pytest.approx(2.5 * 2 / 3)  # of the three epochs two were evaluated
    assert stage.total == pytest.approx(sum(stage.of_epoch.values()))
    assert stage.total == pytest.approx(0.285 * IMAGES + 3.0 + 2.5 + 0.25 + 2.5 * 2 / 3)


def test_of_several_epochs_the_median_counts_and_none_with_a_start(tmp_path):
    path = run_of(tmp_path / "run", config(tmp_path / "run"), [])
    slow = {"train": 1000.0, "data_wait": 0.0, "extract": 1000.0}
    others = [{"train": seconds, "data_wait": 1.0, "extract": 1.0 + seconds} for seconds in (2.0, 90.0, 3.0)]
    add_epochs(path, [slow, others[0], {**slow, "startup": 1.0}, *others[1:]])  # resumed in the third
    (stage,) = ScaledRun.read(path).stages.values()
    assert stage.epochs == 3
    assert stage.seconds == {"compute": 2.0, "data_wait": 1.0, "extract": 4.0}


def test_stages_are_apart(tmp_path):
    made = tiny.mar_config(Path("source"), Path("target"), tmp_path / "run")
    images = {"data.root": "target", "source.root": "source", "pretraining.checkpoint": "of seed 1"}
    path = run_of(
        tmp_path / "run", made, epochs_of(1), method="mar", data=images, loss="pretraining/loss", steps=7
    )
    add_epochs(path, epochs_of(1))
    run = ScaledRun.read(path)
    assert {name: (of.batch, of.steps, of.epochs) for name, of in run.stages.items()} == {
        "pretraining": (16, 7, 3),
        "training": (16, 3, 3),
    }
    assert run.data == {"data.root": "target", "source.root": "source"}


def test_slsr_leaves_out_what_no_network_of_its_own_was_trained_in(tmp_path):
    made = tiny.slsr_config(Path("images"), tmp_path / "run")
    path = run_of(
        tmp_path / "run",
        made,
        epochs_of(1, number=2),
        method="slsr",
        data={"data.root": "images"},
        loss="baseline/loss",
    )
    add_epochs(path, [{"extract": 50.0, "gan": 500.0}, {}], loss="gan/cluster_0/real")
    add_epochs(path, epochs_of(1))
    run = ScaledRun.read(path)
    assert {name: of.epochs for name, of in run.stages.items()} == {"baseline": 1, "training": 3}
    assert run.stages["training"].seconds["extract"] == 6.0


def test_strong_scaling_by_hand(runs):
    (stage,) = scaling(runs).stages
    assert (stage.name, stage.mode, stage.workers) == ("training", "strong", [1, 2, 4])
    totals = [
        0.55 * IMAGES + 6.0 + 3.0 + 0.25 + 4.5 * 2 / 3,
        0.285 * IMAGES + 3.0 + 2.5 + 0.25 + 2.5 * 2 / 3,
        0.1525 * IMAGES + 1.5 + 2.25 + 0.25 + 1.5 * 2 / 3,
    ]
    assert [of.total for of in stage.times] == pytest.approx(totals)
    assert stage.efficiencies == pytest.approx([1.0, totals[0] / 2 / totals[1], totals[0] / 4 / totals[2]])
    lines = {group: (found.a, found.b) for group, found in stage.fits.items()}
    assert lines == {
        "compute": pytest.approx((0.0, 0.5), abs=1e-9),
        "collective": pytest.approx((0.02, -0.02), abs=1e-9),
        "data_wait": pytest.approx((0.0, 0.05), abs=1e-9),
        "extract": pytest.approx((0.0, 6.0), abs=1e-9),
        "cluster": pytest.approx((2.0, 1.0), abs=1e-9),
        "evaluate": pytest.approx((0.5, 4.0), abs=1e-9),
        "other": pytest.approx((0.25, 0.0), abs=1e-9),
    }
    assert stage.residual == pytest.approx(0.0, abs=1e-9)
    assert stage.expected_batch(8) == 16
    expected = 0.55 / 8 + 0.02 * 7 / 8 - 0.05 / 8 + 0.05 / 8 - 0.5 / 8 + 0.5 / 8
    assert stage.training_seconds(8) == pytest.approx(expected, rel=1e-6)


def test_weak_scaling_is_by_the_image(weak_runs):
    (stage,) = scaling(weak_runs).stages
    assert stage.mode == "weak"
    assert [of.batch for of in stage.times] == [16, 32, 64]
    assert stage.fits["compute"].at(1) == pytest.approx(0.5)
    assert stage.fits["compute"].at(8) == pytest.approx(0.5 / 8)
    assert stage.fits["extract"].at(4) == pytest.approx(1.5)  # the set is the same for all
    assert stage.expected_batch(8) == 128
    costs = [workers * (of.total / of.images) for workers, of in zip(WORKERS, stage.times, strict=True)]
    assert stage.efficiencies == pytest.approx([costs[0] / cost for cost in costs])
    # Collectives are all that grows here, and the set is gone through once for more and more images.
    assert stage.times[2].seconds["compute"] == pytest.approx(stage.times[0].seconds["compute"])


def test_what_is_fitted_is_what_was_measured_at_every_run(runs):
    """By groups and by whole epochs, whatever the stage's own arithmetic."""
    (stage,) = scaling(runs).stages
    for run, of in zip(stage.runs, stage.times, strict=True):
        for group, seconds in of.seconds.items():
            per = of.images if group in OF_TRAINING else 1
            assert per * stage.fits[group].at(run.workers) == pytest.approx(seconds)
        assert stage.epoch_seconds(run.workers, of) == pytest.approx(of.total)


@pytest.mark.parametrize("seed", range(8))
def test_fit_is_the_best_that_is_never_negative(seed):
    """Against a general minimiser, with and without lines that would fall below zero."""
    rng = np.random.default_rng(seed)
    workers = [*rng.integers(1, 9, 6).tolist(), 1, 8]
    falling = -0.2 if seed % 2 else 0.5
    seconds = [abs(falling + rng.normal(1.0, 0.4) / number) for number in workers]
    found = fit(workers, seconds)

    def squares(ends: np.ndarray) -> float:
        one, many = ends
        return sum((many + (one - many) / w - y) ** 2 for w, y in zip(workers, seconds, strict=True))

    best = minimize(
        squares, [1.0, 1.0], bounds=[(0, None), (0, None)], options={"ftol": 1e-15, "gtol": 1e-12}
    )
    ours = squares(np.array([found.at(1), found.a]))
    assert ours <= best.fun + 1e-9
    assert found.residual == pytest.approx((ours / len(workers)) ** 0.5)
    assert found.mean == pytest.approx(np.mean(seconds))
    assert all(found.at(number) >= 0 for number in (1, 2, 3, 16, 1024, 10**9))


def test_fit_by_hand():
    exact = fit([1, 2], [10.0, 6.0])
    assert (exact.a, exact.b, exact.numbers) == (pytest.approx(2.0), pytest.approx(8.0), 2)
    assert exact.residual == pytest.approx(0.0, abs=1e-12)
    too_good = fit([1, 2], [10.0, 4.0])  # twice as many, and more than twice as fast: a would be -2
    assert too_good.a == 0.0
    assert too_good.b == pytest.approx((10 * 1 + 4 * 0.5) / (1 + 0.25))
    assert too_good.residual > 0.1
    growing = fit([1, 2, 4], [0.0, 1.0, 1.5])  # collectives
    assert (growing.a, growing.b) == (pytest.approx(2.0), pytest.approx(-2.0))


def test_runs_may_be_named_in_any_order_and_twice_on_as_many_workers(tmp_path, runs):
    again = run_of(tmp_path / "again", config(tmp_path / "again", 2, seed=7), epochs_of(2))
    (stage,) = scaling([runs[2], again, runs[0], runs[1]]).stages
    assert [run.workers for run in stage.runs] == [1, 2, 2, 4]
    (plain,) = scaling(runs).stages
    for group, found in plain.fits.items():
        assert stage.fits[group].at(3) == pytest.approx(found.at(3))
    assert stage.efficiencies == pytest.approx(
        [1.0, plain.efficiencies[1], plain.efficiencies[1], plain.efficiencies[2]]
    )


def test_efficiency_is_against_the_fewest_workers_there_are(runs):
    (whole,), (part,) = scaling(runs).stages, scaling(runs[1:]).stages
    assert part.efficiencies == pytest.approx([1.0, whole.efficiencies[2] / whole.efficiencies[1]])
    assert part.residual is None
    text = as_text(scaling(runs[1:]))
    assert "what a worker does of what it does among 2 (the fewest here)" in text
    assert "A line through two numbers of workers meets both" in text


def test_one_number_of_workers_tells_no_more_than_its_shares(runs, tmp_path):
    again = run_of(tmp_path / "again", config(tmp_path / "again", seed=2), epochs_of(1))
    for paths in (runs[:1], [runs[0], again]):
        found = scaling(paths)
        (stage,) = found.stages
        assert (stage.mode, stage.fits, set(stage.efficiencies)) == (None, {}, {None})
        for text in (as_text(found), as_markdown(found)):
            assert "One number of workers tells neither an efficiency nor what more would bring" in text
            assert "a + b/W" not in text
            assert "62.1%" in text  # compute
            assert ": 1 worker alone" in text


def refused(paths: list[Path], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        scaling(paths)
    assert "\n" not in str(raised.value)


def test_a_mix_of_strong_and_weak_is_refused(runs, weak_runs):
    refused(
        [*runs[:2], weak_runs[2]],
        r"^run\.workers: the runs' steps have 16 images on 1, 16 images on 2, 64 images on 4 workers: "
        r"neither strong scaling, .*nor weak scaling, .*; name the runs of one of both$",
    )
    refused([runs[1], weak_runs[1]], "16 images on 2, 32 images on 2 workers: neither")
    assert scaling([runs[0], weak_runs[1]]).stages[0].mode == "weak"  # of one worker both are the same


@pytest.mark.parametrize(
    ("overrides", "images", "message"),
    [
        (
            {"model__ghost_size": 8},
            "images",
            r"model\.ghost_size is 8, in .*strong_1 4: only runs that differ",
        ),
        ({"numerics__threads": 2}, "images", r"numerics\.threads is 2, in .*strong_1 1: only"),
        ({"run__device": "auto"}, "images", r"run\.device is auto, in .*strong_1 cpu: only"),
        ({"inter__steps": 5}, "images", r"inter\.steps is 5, in .*strong_1 3: only"),
        ({"pool__size": 5}, "images", r"pool\.size is 5, in .*strong_1 None: only"),
        ({}, "others", r"on other images than .*strong_1: times of one set alone"),
    ],
)
def test_runs_that_differ_in_more_are_refused(runs, tmp_path, overrides, images, message):
    path = tmp_path / "other"
    run_of(path, config(path, 2, **overrides), epochs_of(2), data=images)
    refused([runs[0], path], rf"^{path}: {message}")


def test_what_does_not_change_an_epoch_may_differ(runs, tmp_path):
    path = tmp_path / "other"
    other = {"seed": 9, "inter__epochs": 50, "evaluate__every": 3, "data__root": "moved"}
    made = tiny.config(Path("images"), path, run__workers=2, **other)
    run_of(path, made, epochs_of(2))
    assert scaling([runs[0], path]).stages[0].mode == "strong"


def test_other_methods_and_runs_without_times_are_refused(runs, tmp_path):
    of_mar = tiny.mar_config(Path("source"), Path("images"), tmp_path / "mar")
    images = {"data.root": "images", "source.root": "source"}
    mar = run_of(tmp_path / "mar", of_mar, epochs_of(1), method="mar", data=images)
    refused([runs[0], mar], r"mar: a run of mar, and .*strong_1 of icsr")
    for name, epochs in {"none": [], "one": epochs_of(1, number=1), "timeless": [{}] * 4}.items():
        path = run_of(tmp_path / name, config(tmp_path / name), epochs)
        refused([path], f"^{path}: no stage has two epochs with times .*train for three epochs or more$")
    refused([tmp_path / "nowhere"], "there is no such folder")
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write("{no json}\n")
    refused(runs, "metrics.jsonl: is damaged")


def test_a_run_of_an_older_raid_has_no_collectives(tmp_path):
    epochs = [{key: value for key, value in epoch.items() if key != "collective"} for epoch in epochs_of(2)]
    run = run_of(tmp_path / "old", config(tmp_path / "old", 2), epochs)
    (stage,) = ScaledRun.read(run).stages.values()
    assert "collective" not in stage.seconds
    assert stage.seconds["compute"] == pytest.approx((0.25 + 0.01) * IMAGES)


CAMERAS = [(30, 7.0), (50, 9.0), (20, 2.0), (50, 8.0)]


def test_stage_1_is_that_of_the_fewest_workers_in_the_order_it_was_handed_out(tmp_path):
    paths = strong(tmp_path, config)
    for path, factor in zip(paths[1:], (1.0, 3.0), strict=True):
        for number, (images, seconds) in enumerate(CAMERAS):
            line = {"camera": number, "name": "c", "images": images, "seconds": factor * seconds}
            RunFolder(path).record_camera(line)
    found = scaling(paths)
    assert found.of_cameras is not None
    assert found.of_cameras.path == paths[1]
    assert found.camera_seconds == [9.0, 8.0, 7.0, 2.0]
    record = found.as_record()["cameras"]
    assert [(each["processes"], each["seconds"], each["bound"]) for each in record["makespans"]] == [
        *((1, 26.0, 26.0), (2, 15.0, 13.0), (4, 9.0, 9.0)),
        *((number, 9.0, 9.0) for number in (8, 16, 32, 64)),
    ]
    assert makespan(found.camera_seconds, 3) == 9.0
    text = as_text(found)
    assert (
        f"stage 1: 4 cameras, the largest first, each as long as in {paths[1]}, on so many processes" in text
    )
    assert "  takes           26.0 s    15.0 s     9.0 s     9.0 s     9.0 s     9.0 s     9.0 s" in text
    assert "  at least        26.0 s    13.0 s     9.0 s" in text
    assert "3 processes are as fast as any number: one camera takes 9.0 s" in text
    assert "| 2 | 15.0 s | 13.0 s |" in as_markdown(found)


def test_runs_without_cameras_have_no_table_of_them(runs):
    found = scaling(runs)
    assert found.as_record()["cameras"] is None
    assert "stage 1" not in as_text(found)
    assert "stage 1" not in as_markdown(found)


def test_the_table(runs):
    lines = as_text(scaling(runs)).splitlines()
    assert lines[0] == "icsr, stage training: strong scaling, 16 images a step on any number of workers"
    assert lines[1].split() == [
        *("workers", "images", "each", "epochs", "seconds", "compute", "collectives", "waiting"),
        *("extract", "cluster", "evaluate", "other", "efficiency"),
    ]
    assert lines[2].split() == [
        *("1", "16", "3", "38.65", "62.1%", "0.0%", "6.2%", "15.5%", "7.8%", "7.8%", "0.6%", "1.00"),
    ]
    assert lines[4].split()[:3] == ["4", "4", "3"]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[6].split() == ["T(W)", "=", "a", "+", "b/W", "a", "b", "residual", "of"]
    assert lines[7].split() == ["compute", "0.000", "24.000", "0.000", "s", "an", "epoch"]
    assert lines[8].split()[:3] == ["collectives", "0.960", "-0.960"]
    assert lines[11].split() == ["cluster", "2.000", "1.000", "0.000", "s", "each", "time"]
    assert "By all lines together the epochs are off by 0.0%." in lines
    assert max(map(len, lines)) <= 250


def test_the_table_of_weak_scaling_is_by_the_image(weak_runs):
    text = as_text(scaling(weak_runs))
    assert "weak scaling, 16 images a step on each worker" in text
    assert ["compute", "0.000", "500.000", "0.000", "ms", "an", "image"] in map(str.split, text.splitlines())


def test_shares_add_up(runs):
    for row in scaling(runs).as_record()["stages"][0]["runs"]:
        assert sum(row["shares"].values()) == pytest.approx(1.0)


def test_markdown_has_the_same_cells(runs):
    found = scaling(runs)
    rows = [line for line in as_markdown(found).splitlines() if line.startswith("|")]
    assert rows[0].startswith("| workers | images each | epochs | seconds | compute | collectives |")
    assert rows[1] == f"| {' | '.join(['---:'] * 12)} |"
    plain = [line for line in as_text(found).splitlines() if line[:1].isdigit()]
    assert [row.strip("| ").split(" | ") for row in rows[2:5]] == [line.split() for line in plain]


def test_the_command(runs, tmp_path, capsys):
    names = [str(path) for path in runs]
    assert cli.main(["scaling", *names, "--json", str(tmp_path / "out" / "scaling.json")]) == 0
    assert capsys.readouterr().out == as_text(scaling(runs)) + "\n"
    record = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert record == json.loads(json.dumps(scaling(runs).as_record()))
    assert (record["format"], record["method"], record["stages"][0]["scaling"]) == (1, "icsr", "strong")
    assert record["stages"][0]["fits"]["compute"]["per"] == "image"
    assert record["stages"][0]["fits"]["cluster"]["per"] == "time"
    assert [row["workers"] for row in record["stages"][0]["runs"]] == [1, 2, 4]
    assert cli.main(["scaling", *names, "--markdown"]) == 0
    assert capsys.readouterr().out == as_markdown(scaling(runs)) + "\n"
    assert cli.main(["scaling", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"raid: {tmp_path}: not the folder of a run")


def test_the_readme_s_commands(tmp_path, monkeypatch, capsys):
    """On made-up runs of the configurations that its loop would train."""
    (block,) = re.findall(re.escape(MARK) + r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    render, loop, compare, plan = (line.split() for line in block.splitlines())
    assert render == ["raid", "data", "synth", "runs/people"]
    people = tiny.write_images(tmp_path / "people")  # stand for those that are rendered
    monkeypatch.chdir(tmp_path)
    Path("jobs").symlink_to(README.parent / "jobs")
    layout = ["data.layout=folder", f"data.pattern={tiny.PATTERN}", f"data.root={people}"]
    start, end = loop.index("raid") + 2, loop.index("done")
    workers = loop[loop.index("in") + 1 : loop.index("do")]
    for number in (text.rstrip(";") for text in workers):
        words = [word.rstrip(";").replace("$workers", number) for word in loop[start:end]]
        file, overrides = words[0], [word for word in words[1:] if "=" in word]
        made = load(IcsrConfig, file, [*overrides, *layout])
        assert made.inter.epochs >= 3
        data = load_samples(made.data).fingerprint()
        images = made.training.sampler.batch_size * made.inter.steps
        run_of(made.run.folder, made, epochs_of(int(number), images), data=data, steps=made.inter.steps)
    assert cli.main(compare[1:]) == 0
    assert "weak scaling, 64 images a step on each worker" in capsys.readouterr().out
    assert json.loads(Path(compare[-1]).read_text())["stages"][0]["scaling"] == "weak"
    monkeypatch.setattr("raid.methods.icsr.probe._CLUSTER_ROWS", (500, 1500))
    assert cli.main([*plan[1:], *layout]) == 0
    assert "\n* training: of 3 runs on 1, 2, 4 workers, weak scaling, " in capsys.readouterr().out


def test_the_formula_of_the_made_up_runs():
    """What the tests above compare with: an epoch's parts are of its training."""
    for workers in WORKERS:
        found = spans(workers)
        assert found["train"] > found["collective"] + found["data_wait"]
    assert scaling_runs.IMAGES == 48
