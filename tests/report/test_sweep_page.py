"""The page of a sweep, read back as a browser would."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import page
import pytest
from made_up_sweeps import (
    DECAY,
    DECAYS,
    LOSS,
    MAP,
    SECTIONS,
    SILHOUETTE,
    add,
    curve,
    record,
    rows,
    written,
)

from raid.report import write_sweep_report
from raid.report.style import NUM_LOOKS
from raid.sweep_folder import Axis, SweepFolder

SEEDS = (1, 2, 3)
RATE = Axis("optimizer.learning_rate", (), 1e-5, 1e-2, log=True)
CLUSTERS = Axis("inter.num_clusters", (100, 200, 400))


def values_of(folder: SweepFolder) -> dict[str, np.ndarray]:
    """The objective of every schedule by seed, in percent."""
    found = {name: [t.value for t in folder.trials() if t.point[DECAY.path] == name] for name in DECAYS}
    return {name: 100 * np.array(values) for name, values in found.items()}


def spread(values: np.ndarray, sign: str = "") -> str:
    return f"{values.mean():{sign}.1f} ± {values.std(ddof=1):.1f}"


def places(svg: page.Node, style: str = "line") -> list[list[tuple[float, float]]]:
    """The corners of every line of a class."""
    found = [path.attributes["d"] for path in svg.all("path", style)]
    return [[tuple(map(float, place.split())) for place in d[1:].split("L")] for d in found]


def measured(svg: page.Node, axis: str, shift: float = 3.5) -> tuple[float, float]:
    """Slope and start of what the ticks of an axis say: value = slope * pixel + start."""
    ticks = [node for node in svg.all("text", "tick") if ("middle" in node.classes) == (axis == "x")]
    pixels = [float(node.attributes[axis]) - (shift if axis == "y" else 0) for node in ticks]
    slope, start = np.polyfit(pixels, [page.value_of(node.text) for node in ticks], 1)
    return float(slope), float(start)


def test_all_sections_are_there_and_the_contents_lead_to_them(sweep_shown):
    assert [node.attributes["id"] for node in sweep_shown.all("section")] == SECTIONS
    assert [node.attributes["href"] for node in sweep_shown.one("nav").all("a")] == [
        f"#{name}" for name in SECTIONS
    ]


def test_the_page_needs_nothing_but_itself(decay_sweep, sweep_shown):
    loaded = [v for n in sweep_shown.walk() for k, v in n.attributes.items() if k in ("src", "href")]
    ways = [f"trials/{number:03d}/report.html" for number in range(15)]
    assert [place for place in loaded if not place.startswith(("#", "data:"))] == ["best.yaml", *ways]
    assert not {"iframe", "object", "img", "base"} & {node.tag for node in sweep_shown.walk()}
    assert "url(" not in decay_sweep.report.read_text()
    page.check_policy(sweep_shown)


def test_the_header_says_what_was_compared(sweep_shown):
    header = sweep_shown.one("header")
    assert (
        header.one("h1").text == sweep_shown.one("head").one("title").text == "Sweep of icsr: decay_schedule"
    )
    facts = [node.text for node in header.one("ul", "facts").all("li")]
    assert facts[:5] == ["trials 15 of 15: 15 done", "points 5", "axes 1", "seeds 1, 2, 3", "search grid"]
    assert facts[5:] == [
        "begun 2023-11-14 22:13 UTC", "last trial ended 2023-11-14 22:32 UTC", "took 19 min 0 s"
    ]  # fmt: skip
    assert "mAP (eval/mAP), higher is better. Mean average precision of the last epoch." in header.text


def test_a_best_that_was_selected_on_the_test_set_says_so(sweep_shown, tmp_path):
    (box,) = sweep_shown.one("header").all("p", "alarm")
    assert "selected on the test set" in box.text.lower()
    assert "optimistic" in box.text
    folder = SweepFolder(tmp_path)
    folder.write(record([DECAY], objective=LOSS))
    for number, name in enumerate(DECAYS):
        add(folder, number, {DECAY.path: name}, 0.5, key=LOSS.key)
    header = written(folder).one("header")
    assert header.all("p", "alarm") == []
    assert "loss (train/loss), lower is better" in header.text


def test_the_best_point_with_its_deviation_and_its_command(decay_sweep, sweep_shown):
    best, of = page.section(sweep_shown, "best"), values_of(decay_sweep)
    cards = [(node.one("b").text, node.one("span").text) for node in best.all("li")]
    figure = f"{spread(of['cosine'])} %".replace(" ", "\N{NO-BREAK SPACE}")
    assert cards == [(figure, "mAP, 3 seeds"), ("cosine", "decay")]
    reach = of["cosine"].mean() - of["cosine"].std(ddof=1)
    as_good = sum(values.mean() >= reach for name, values in of.items() if name != "cosine")
    assert as_good == 1
    assert "1 other point is as good within one deviation" in best.text
    assert "among the 5 points done with each of the 3 seeds, of 5 begun" in best.text
    assert best.one("pre", "box").text == f"raid icsr {decay_sweep.best}"
    assert best.one("details").one("pre").text == decay_sweep.best.read_text()


def test_points_are_told_best_first_with_differences_by_seed(decay_sweep, sweep_shown):
    head, *found = rows(page.section(sweep_shown, "points"), "Points")
    assert head == ["place", "decay", "seeds", "mAP, %", "rank-1, %", "difference", "by seed", "trials"]
    of = values_of(decay_sweep)
    order = sorted(DECAYS, key=lambda name: -of[name].mean())
    for place, (row, name) in enumerate(zip(found, order, strict=True), start=1):
        assert row[0] == (f"{place} ★" if place == 1 else str(place))
        assert row[1:5] == [name, "3", spread(of[name]), spread(of[name] + 5)]
        paired = of[name] - of["off"]
        each = ", ".join(f"{seed}: {value:+.1f}" for seed, value in zip(SEEDS, paired, strict=True))
        assert row[5:] == (
            ["reference", "", "3 done"] if name == "off" else [spread(paired, "+"), each, "3 done"]
        )
    assert "to the first point (decay off), paired by seed, in percentage points" in (
        page.section(sweep_shown, "points").text
    )


def test_the_ablation_reads_as_a_figure(decay_sweep, sweep_shown):
    """A row a schedule: its dots, mean and deviation, measured between the ticks."""
    (figure,) = page.section(sweep_shown, "effects").all("figure")
    assert figure.one("figcaption").text == DECAY.path
    svg, of = figure.one("svg", "chart"), values_of(decay_sweep)
    slope, start = measured(svg, "x")
    names = [node.children[-1] for node in svg.all("text", "name")]
    assert names == list(DECAYS)
    assert [node.text for node in svg.all("text", "figure")] == [spread(of[name]) for name in DECAYS]
    dots = [
        list(map(float, re.findall(r"[-\d.]+", n.attributes["transform"]))) for n in svg.all("path", "mark")
    ]
    heights = [float(node.attributes["y"]) - 3.5 for node in svg.all("text", "name")]
    for name, y in zip(DECAYS, heights, strict=True):
        row = sorted([place for place in dots if abs(place[1] - y) < 6], key=lambda place: place[1])
        assert [100 * (slope * x + start) for x, _ in row] == pytest.approx(of[name], abs=0.05)
        (mean,) = [d for n in svg.all("path", "cut") if (d := n.attributes["d"]).startswith("M") and "V" in d
                   and abs(float(d.split()[1].split("V")[0]) + 9.88 - y) < 0.2]  # fmt: skip
        assert 100 * (slope * float(mean[1:].split()[0]) + start) == pytest.approx(of[name].mean(), abs=0.05)
    best = [node for node in svg.all("path", "mark") if "c1" in node.classes]
    assert len(best) == 3
    assert all(f"{name}: {spread(of[name])}" in svg.attributes["aria-label"] for name in DECAYS)


def test_parallel_coordinates_lead_every_trial_to_its_value(decay_sweep, sweep_shown):
    svg = page.section(sweep_shown, "coordinates").one("svg", "parallel")
    lines = places(svg)
    assert len(lines) == 15
    assert {len(line) for line in lines} == {2}
    ticks = [node for node in svg.all("text", "tick") if "end" not in node.classes]
    pixels = [float(node.attributes["y"]) - 3.5 for node in ticks]
    slope, start = np.polyfit(pixels, [page.value_of(node.text) for node in ticks], 1)
    drawn = sorted(100 * (slope * line[-1][1] + start) for line in lines)
    assert drawn == pytest.approx(sorted(np.concatenate(list(values_of(decay_sweep).values()))), abs=0.05)
    # The best point's three lines are the last, above the others, and begin at its value's label.
    styles = [path.classes for path in svg.all("path", "line")]
    assert [("strong" in style) for style in styles] == [False] * 12 + [True] * 3
    (label,) = [node for node in svg.all("text", "tick") if node.text == "cosine"]
    for line in lines[-3:]:
        assert abs(line[0][1] - (float(label.attributes["y"]) - 3.5)) <= 8
    assert "decay cosine" in svg.all("g", "trial")[-1].one("title").text
    assert svg.attributes["aria-label"].startswith(
        "Parallel coordinates: 15 trials over refine.decay and mAP"
    )


def test_the_axis_matters_more_than_the_seed(sweep_shown):
    section = page.section(sweep_shown, "importance")
    svg = section.one("svg", "chart")
    assert [node.children[-1] for node in svg.all("text", "name")] == ["decay", "seed (chance)"]
    drops = [float(node.text.split(" ± ")[0]) for node in svg.all("text", "figure")]
    assert drops[0] > 0.5 > abs(drops[1])
    slope, start = measured(svg, "x")
    for bar, drop in zip(svg.all("rect"), drops, strict=True):
        left = float(bar.attributes["x"])
        ends = [slope * x + start for x in (left, left + float(bar.attributes["width"]))]
        assert ends == pytest.approx(sorted([0.0, drop]), abs=0.02)
    r2 = float(re.search(r"cross-validated R² ([\d.]+)", section.text).group(1))
    assert 0.2 < r2 < 1
    assert "of 15 trials" in section.text


def test_curves_are_those_of_the_trials(decay_sweep, sweep_shown):
    section = page.section(sweep_shown, "curves")
    (figure,) = section.all("figure")  # the objective is mAP: one chart
    assert figure.one("figcaption").text == "mAP"
    assert "Coloured by refine.decay" in section.text
    svg = figure.one("svg", "chart")
    (slope, start), (along, first) = measured(svg, "y"), measured(svg, "x")
    groups = svg.all("g", "trial")
    assert len(groups) == 15
    for group in groups:
        number = int(re.search(r"trial (\d+)", group.one("title").text).group(1))
        epochs = decay_sweep.run(number).metrics()
        line = places(group)[-1]
        assert [slope * y + start for _, y in line] == pytest.approx(
            [e["eval/mAP"] for e in epochs], abs=1e-3
        )
        assert [along * x + first for x, _ in line] == pytest.approx(range(1, 13), abs=0.02)
        look = group.all("path", "line")[-1].classes
        assert f"c{number // 3}" in look
        assert ("strong" in look) == (number >= 12)
    legend = [node.one("span").text for node in figure.one("ul", "legend").all("li")]
    assert legend == [*DECAYS, "thick: the best point"]


def test_all_trials_with_a_way_to_their_pages(decay_sweep, sweep_shown):
    section = page.section(sweep_shown, "trials")
    head, *found = rows(section, "All trials")
    assert head == ["trial", "state", "seed", "decay", "mAP", "time"]
    for trial, row in zip(decay_sweep.trials(), found, strict=True):
        value = f"{100 * trial.value:.1f}\N{NO-BREAK SPACE}%"
        assert row == [
            str(trial.number),
            "done",
            str(trial.seed),
            trial.point[DECAY.path],
            value,
            "5 min 0 s",
        ]
    links = [node.attributes["href"] for node in section.all("a")]
    assert all((decay_sweep.path / link).exists() for link in links)
    assert len(links) == 15


def test_the_configuration_is_what_was_declared(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.write(record([DECAY, RATE, CLUSTERS], search="random", num_samples=2, overrides=("a.b=1", "c=d")))
    add(folder, 0, {DECAY.path: "off", RATE.path: 1e-3, CLUSTERS.path: 200}, 0.3)
    section = page.section(written(folder), "configuration")
    assert section.one("code").text == "jobs/icsr_demo.yaml"
    assert section.one("pre", "box").text == "a.b=1\nc=d"
    assert rows(section, "Axes")[1:] == [
        ["refine.decay", "off, none, linear, exponential, cosine", "off: refine.enabled=false", "–"],
        ["optimizer.learning_rate", "1e-05 to 0.01, by its logarithm", "–", "–"],
        ["inter.num_clusters", "100, 200, 400", "–", "–"],
    ]


def test_a_grid_of_an_axis_that_has_a_range_too_is_of_its_values(tmp_path):
    """Searches draw from the range; a grid takes the values, which are rows and no scale."""
    axis = Axis("losses.beta", (0.05, 0.2, 0.8), low=0.02, high=1.0, log=True)
    folder = SweepFolder(tmp_path)
    folder.write(record([axis]))
    for number, value in enumerate(axis.values):
        add(folder, number, {axis.path: value}, 0.3 + 0.01 * number)
    tree = written(folder)
    assert rows(page.section(tree, "configuration"), "Axes")[1][1] == "0.05, 0.2, 0.8"
    names = [node.children[-1] for node in page.section(tree, "effects").all("text", "name")]
    assert names == ["0.05", "0.2", "0.8"]


def test_the_same_files_give_the_same_page_wherever_one_stands(decay_sweep, monkeypatch):
    before = decay_sweep.report.read_bytes()
    monkeypatch.chdir(decay_sweep.path.parent)
    relative = SweepFolder(Path(decay_sweep.path.name))
    assert write_sweep_report(relative) == relative.report
    assert decay_sweep.report.read_bytes() == before


def searched(path, *, num: int = 16, stopped: int = 10) -> SweepFolder:
    """A random search whose figure goes by the logarithm of the rate, most of it stopped early."""
    folder, rng = SweepFolder(path), np.random.default_rng(4)
    folder.write(
        record([RATE, CLUSTERS], search="random", scheduler="asha", num_samples=num, seed=7, name="search")
    )
    rates = np.exp(rng.uniform(np.log(1e-5), np.log(1e-2), num))
    for number, rate in enumerate(rates):
        value = 0.1 + 0.05 * (np.log10(rate) + 5)
        full = curve("eval/mAP", value, 6)
        is_stopped = number < stopped
        epochs = full[: 2 + number % 2] if is_stopped else full
        add(
            folder, number, {RATE.path: float(rate), CLUSTERS.path: CLUSTERS.values[number % 3]},
            epochs[-1]["eval/mAP"], state="stopped" if is_stopped else "done", epochs=epochs,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> SweepFolder:
    return searched(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def search_shown(search) -> page.Node:
    return written(search)


def test_a_search_has_no_reference_and_no_deviation(search_shown):
    head, *found = rows(page.section(search_shown, "points"), "Points")
    assert head == ["place", "learning_rate", "num_clusters", "mAP, %", "trials"]
    assert "search random, seed 7" in search_shown.one("header").text
    # Those that are done first; where others stopped is in brackets.
    assert [row[-1] for row in found] == ["1 done"] * 6 + ["1 stopped"] * 10
    assert all(row[3].startswith("(") == (row[-1] == "1 stopped") for row in found)
    figures = [float(row[3].strip("()")) for row in found]
    assert figures[:6] == sorted(figures[:6], reverse=True)
    assert figures[6:] == sorted(figures[6:], reverse=True)


def test_means_of_a_value_are_of_what_is_done(search, search_shown):
    chart = page.section(search_shown, "effects").all("figure")[1]
    done = [trial for trial in search.trials() if trial.state == "done"]
    for node, count in zip(chart.all("text", "figure"), CLUSTERS.values, strict=True):
        values = [100 * trial.value for trial in done if trial.point[CLUSTERS.path] == count]
        assert node.text == spread(np.array(values))


def test_a_range_is_drawn_to_its_scale_and_words_side_by_side(search, search_shown):
    of_rate, of_clusters = page.section(search_shown, "effects").all("figure")
    assert of_rate.one("figcaption").text == RATE.path
    assert [n.children[-1] for n in of_clusters.all("text", "name")] == ["100", "200", "400"]
    svg = of_rate.one("svg", "chart")
    ticks = [node for node in svg.all("text", "tick") if "middle" in node.classes]
    slope, start = np.polyfit(
        [float(n.attributes["x"]) for n in ticks], np.log10([float(n.text) for n in ticks]), 1
    )
    along, first = measured(svg, "y")
    marks = svg.all("path", "mark")
    assert len(marks) == 16
    trials = search.trials()
    best = max((trial for trial in trials if trial.state == "done"), key=lambda trial: trial.value)
    assert "c1" in marks[-1].classes  # the best is drawn last
    order = [trial for trial in trials if trial != best] + [best]
    for trial, mark in zip(order, marks, strict=True):
        x, y = map(float, re.findall(r"[-\d.]+", mark.attributes["transform"]))
        assert slope * x + start == pytest.approx(np.log10(trial.point[RATE.path]), abs=0.01)
        assert along * y + first == pytest.approx(trial.value, abs=1e-3)
        assert ("hollow" in mark.classes) == (trial.state == "stopped")


def test_stopped_trials_are_dashed_and_end_with_a_cross(search_shown):
    svg = page.section(search_shown, "coordinates").one("svg", "parallel")
    for group in svg.all("g", "trial"):
        dashed = "dashed" in group.all("path", "line")[0].classes
        assert dashed == (", stopped," in group.one("title").text)
    assert sum("dashed" in path.classes for path in svg.all("path", "line")) == 10
    curves = page.section(search_shown, "curves").one("svg", "chart")
    for group in curves.all("g", "trial"):
        crosses = [n for n in group.all("path", "line") if "transform" in n.attributes]
        assert len(crosses) == (", stopped," in group.one("title").text)


def test_stopped_trials_are_compared_at_an_epoch_that_all_have(search_shown):
    section = page.section(search_shown, "importance")
    assert "16 trials at epoch 2, the last that all of them have" in section.text
    assert [n.children[-1] for n in section.all("text", "name")] == ["learning_rate", "num_clusters"]
    curves = page.section(search_shown, "curves")
    assert "Coloured by optimizer.learning_rate, the most important axis" in curves.text
    shades = [group.all("path", "line")[-1].classes for group in curves.all("g", "trial")]
    assert len({style for classes in shades for style in classes if re.fullmatch(r"h\d+", style)}) > 4


def test_lower_is_better_where_it_says_so(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.write(record([CLUSTERS], objective=LOSS))
    for number, (count, value) in enumerate(zip(CLUSTERS.values, (2.0, 1.0, 3.0), strict=True)):
        add(folder, number, {CLUSTERS.path: count}, value, key=LOSS.key)
    tree = written(folder)
    assert [row[1:3] for row in rows(page.section(tree, "points"), "Points")[1:]] == [
        ["200", "1.000"], ["100", "2.000"], ["400", "3.000"]
    ]  # fmt: skip
    svg = page.section(tree, "coordinates").one("svg", "parallel")
    *_, last = places(svg)
    assert last[-1][1] == min(line[-1][1] for line in places(svg))  # the best is the highest
    assert "strong" in svg.all("path", "line")[-1].classes
    assert page.section(tree, "best").all("li")[1].one("b").text == "200"


def test_another_objective_has_a_chart_of_mAP_beside_its_own(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.write(record([CLUSTERS], objective=SILHOUETTE))
    for number, count in enumerate(CLUSTERS.values):
        epochs = [{**epoch, "eval/mAP": 0.3} for epoch in curve(SILHOUETTE.key, 0.1 + number, 4)]
        add(folder, number, {CLUSTERS.path: count}, 0.1 + number, epochs=epochs)
    tree = written(folder)
    titles = [node.text for node in page.section(tree, "curves").all("figcaption")]
    assert titles == ["silhouette", "mAP"]
    assert rows(page.section(tree, "points"), "Points")[0] == [
        "place", "num_clusters", "silhouette", "mAP, %", "trials"
    ]  # fmt: skip


def test_colours_of_words_are_told_apart_and_come_again_where_there_are_many(tmp_path):
    axis = Axis("model.weights", tuple(f"w{i}" for i in range(NUM_LOOKS + 2)))
    folder = SweepFolder(tmp_path)
    folder.write(record([axis]))
    for number, name in enumerate(axis.values[:9]):
        add(folder, number, {axis.path: name}, 0.3)
    looks = [n.classes[1] for n in page.section(written(folder), "curves").all("path", "line") if n.classes]
    assert {f"c{i}" for i in range(9)} <= set(looks)


def test_drawings_are_well_formed_and_name_what_they_show(decay_sweep, sweep_shown):
    text = decay_sweep.report.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) > 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    for svg in sweep_shown.all("svg"):
        assert svg.attributes.get("aria-label") or svg.attributes.get("aria-hidden") == "true"
    assert MAP.name in sweep_shown.all("svg", "chart")[0].attributes["aria-label"]
