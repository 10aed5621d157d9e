"""Sweeps that have not ended, of which much failed, or whose words are markup; what cannot be reported."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import page
import pytest
from made_up_sweeps import DECAY, DECAYS, LOSS, SECTIONS, add, curve, record, rows, written

from raid.cli import main
from raid.commands.command_line import EXIT_INPUT_ERROR
from raid.errors import InputError
from raid.report import write_sweep_report
from raid.report.sweep_colours import colours
from raid.report.sweep_reading import Sweep
from raid.report.sweep_values import heat
from raid.sweep_folder import Axis, SweepFolder

RATE = Axis("optimizer.learning_rate", (), 1e-5, 1e-2, log=True)
GEOMETRY = ("d", "x", "y", "cx", "cy", "width", "height", "transform", "viewBox")
MARKUP = "<script>alert(1)</script>"


def sweep(path, axes=(DECAY,), **changes) -> SweepFolder:
    folder = SweepFolder(path)
    folder.write(record(axes, **changes))
    return folder


def whole(folder: SweepFolder) -> page.Node:
    """The page, which has all sections and no place that is no number."""
    tree = written(folder)
    assert [node.attributes["id"] for node in tree.all("section")] == SECTIONS
    placed = " ".join(v for node in tree.walk() for k, v in node.attributes.items() if k in GEOMETRY)
    assert not re.search(r"nan|inf|e[-+]\d", placed)
    for section in tree.all("section"):
        assert len(section.text) > len(section.one("h2").text)  # says something, if only why there is nothing
    return tree


def test_one_trial_alone(tmp_path):
    folder = sweep(tmp_path, num_trials=5)
    add(folder, 0, {DECAY.path: "off"}, 0.4)
    tree = whole(folder)
    assert [node.one("b").text for node in page.section(tree, "best").all("li")] == [
        "40.0\N{NO-BREAK SPACE}%",
        "off",
    ]
    assert "The same in all: refine.decay off." in page.section(tree, "points").text
    assert "No axis varies" in page.section(tree, "effects").text
    assert "takes 10 trials" in page.section(tree, "importance").text
    assert len(page.section(tree, "curves").all("g", "trial")) == 1
    assert "4 of 5 trials have not begun" in tree.one("header").text


def test_no_trial_has_a_value(tmp_path):
    folder = sweep(tmp_path)
    for number, (name, state) in enumerate(
        zip(DECAYS, ("failed", "failed", "running", "stopped", "done"), strict=True)
    ):
        add(
            folder,
            number,
            {DECAY.path: name},
            None,
            state=state,
            reason="it broke" if state == "failed" else "",
        )
    tree = whole(folder)
    assert "There is none yet" in page.section(tree, "best").text
    assert [row[2] for row in rows(page.section(tree, "points"), "Points")[1:]] == ["–"] * 5
    assert tree.one("main").all("svg") == []
    assert "1 done, 1 stopped, 2 failed, 1 unfinished" in tree.one("header").text
    reasons = [row[-1] for row in rows(page.section(tree, "trials"), "All trials")[1:]]
    assert reasons == ["it broke", "it broke", "–", "–", "–"]


def test_in_the_middle_of_a_sweep(tmp_path):
    """Two seeds are done, the third goes on: it has no value of its own yet, its last epoch has."""
    folder = sweep(tmp_path, seeds=(1, 2, 3), num_trials=15)
    add(folder, 0, {DECAY.path: "off"}, 0.40, seed=1)
    add(folder, 1, {DECAY.path: "off"}, 0.42, seed=2)
    add(folder, 2, {DECAY.path: "off"}, None, seed=3, state="running", epochs=curve("eval/mAP", 0.6, 6)[:2])
    add(folder, 3, {DECAY.path: "none"}, None, seed=1, state="running")
    tree = whole(folder)
    assert "11 of 15 trials have not begun, and 2 have begun and not ended." in tree.one("header").text
    assert "no point is done with each of the 3 seeds" in page.section(tree, "best").text
    assert "Points that lack a seed come after" in page.section(tree, "points").text
    first, second = rows(page.section(tree, "points"), "Points")[1:]
    assert first == ["1", "off", "2", "41.0 ± 1.4", "reference", "", "2 done, 1 unfinished"]
    assert second == ["2", "none", "0", "–", "–", "", "1 unfinished"]
    going = rows(page.section(tree, "trials"), "All trials")[3]
    assert going[0] == "2"
    assert page.value_of(going[4]) == pytest.approx(curve("eval/mAP", 0.6, 6)[1]["eval/mAP"], abs=1e-3)
    assert going[5] == "–"
    assert page.section(tree, "trials").all("a")[-1].attributes["href"] == "trials/001/report.html"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_told_and_not_drawn(tmp_path, value):
    folder = sweep(tmp_path)
    for number, (name, of) in enumerate(zip(DECAYS, (0.3, value, 0.4, 0.5, 0.6), strict=True)):
        epochs = [{"epoch": 0, "eval/mAP": 0.1}, {"epoch": 1, "eval/mAP": of}]
        add(folder, number, {DECAY.path: name}, of, epochs=epochs)
    tree = whole(folder)
    assert page.section(tree, "best").all("li")[1].one("b").text == "cosine"
    assert str(value) in rows(page.section(tree, "trials"), "All trials")[2][4]
    assert len(page.section(tree, "coordinates").all("g", "trial")) == 4
    assert "1 without a value" in page.section(tree, "coordinates").text
    assert rows(page.section(tree, "points"), "Points")[-1][1:] == ["none", "–", "1 done"]


def test_a_failed_trial_keeps_its_curve_and_has_no_figure(tmp_path):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, 0.3)
    add(folder, 1, {DECAY.path: "none"}, 0.9, state="failed", reason="out of memory")
    tree = whole(folder)
    assert page.section(tree, "best").all("li")[1].one("b").text == "off"
    assert rows(page.section(tree, "points"), "Points")[2][1:] == ["none", "(90.0)", "1 failed"]
    failed = page.section(tree, "curves").all("g", "trial")[0]
    assert "failed" in failed.one("title").text
    assert [n for n in failed.all("path", "line") if "transform" in n.attributes]


def test_markup_is_text_wherever_it_stands(tmp_path):
    axes = [
        Axis("model.weights", (MARKUP, 'a"b', "<b>"), instead={MARKUP: {"<i>": "<u>"}}),
        Axis("augment.erase_area", ([0.02, 0.4], {"<a>": "&"})),
    ]
    objective = replace(LOSS, name="<em>", meaning="<q>")
    folder = sweep(
        tmp_path, axes, name=MARKUP, file="<f>", overrides=("a=<c>",), objective=objective, seeds=(1, 2)
    )
    number = 0
    for weights in axes[0].values:
        for area in axes[1].values:
            for seed in (1, 2):
                state = "failed" if number == 3 else "done"
                value = None if state == "failed" else 0.1 * number
                point = {axes[0].path: weights, axes[1].path: area}
                add(folder, number, point, value, seed=seed, state=state, reason=MARKUP, key=LOSS.key)
                number += 1
    folder.best.write_text(f"model:\n  weights: {MARKUP}\n")
    tree = whole(folder)
    page.check_policy(tree)
    assert not {"u", "f", "c", "em", "q"} & {node.tag for node in tree.walk()}
    assert all(node.classes for node in tree.all("i"))  # steps of a band of colours
    assert tree.one("h1").text == f"Sweep of icsr: {MARKUP}"
    assert rows(page.section(tree, "trials"), "All trials")[1][-1] == MARKUP
    assert '{"<a>": "&"}' in page.section(tree, "effects").text
    assert MARKUP in page.section(tree, "best").one("details").text
    assert f"{MARKUP}: <i>=<u>" in page.section(tree, "configuration").text


def test_a_failure_of_many_words_is_told_whole(tmp_path):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, None, state="failed", reason="why " * 100)
    section = page.section(whole(folder), "trials")
    assert section.one("span", "reason").text == "why " * 100


@pytest.mark.parametrize("values", [(None, 5), (True, False), ([1, 2], [3, 4]), (0.0, 1), ("auto", 30)])
def test_axes_of_all_kinds(tmp_path, values):
    axis = Axis("pool.size", values)
    folder = sweep(tmp_path, [axis])
    for number, value in enumerate(values):
        add(folder, number, {axis.path: value}, 0.1 * number)
    (figure,) = page.section(whole(folder), "effects").all("figure")
    assert len(figure.all("text", "name")) == 2


def test_a_range_with_a_nought_is_not_drawn_by_its_logarithm(tmp_path):
    folder = sweep(tmp_path, [RATE], search="random", num_samples=3)
    for number, value in enumerate((0.0, 1e-3, 1e-2)):
        add(folder, number, {RATE.path: value}, 0.1 * number)
    whole(folder)


def test_a_trial_that_lacks_an_axis_is_shown(tmp_path):
    folder = sweep(tmp_path, [RATE, DECAY], search="random", num_samples=3)
    add(folder, 0, {RATE.path: 1e-3, DECAY.path: "off"}, 0.1)
    add(folder, 1, {DECAY.path: "none"}, 0.3)
    add(folder, 2, {RATE.path: 2e-3, DECAY.path: "off"}, 0.2)
    tree = whole(folder)
    assert rows(page.section(tree, "points"), "Points")[1][1:3] == ["–", "none"]


def test_all_trials_come_to_the_same(tmp_path):
    folder = sweep(tmp_path)
    for number, name in enumerate(DECAYS):
        for seed in (1, 2, 3):
            add(folder, 3 * number + seed, {DECAY.path: name}, 0.3, seed=seed)
    tree = whole(folder)
    assert "no better than the mean" in page.section(tree, "importance").text
    assert page.section(tree, "importance").all("rect") == []


def test_points_that_are_equal_to_the_best_are_counted(tmp_path):
    folder = sweep(tmp_path)
    for number, (name, value) in enumerate(zip(DECAYS, (0.1, 0.4, 0.4, 0.2, 0.4), strict=True)):
        add(folder, number, {DECAY.path: name}, value)
    section = page.section(whole(folder), "best")
    assert section.all("li")[1].one("b").text == "none"  # the first of them
    assert "2 other points are equal to it. One seed" in section.text


def test_chance_has_no_bars(tmp_path):
    folder = sweep(tmp_path, [RATE], search="random", num_samples=12)
    for number in range(12):
        add(folder, number, {RATE.path: 10.0 ** (-5 + number / 4)}, 0.3 + 0.1 * ((number * 7) % 5 - 2) ** 2)
    section = page.section(whole(folder), "importance")
    assert re.search(r"no better than the mean does \(cross-validated R² -\d", section.text)
    assert section.all("rect") == []


def test_too_few_trials_have_no_bars(tmp_path):
    folder = sweep(tmp_path, seeds=(1, 2))
    for number in range(9):
        add(folder, number, {DECAY.path: DECAYS[number // 2]}, 0.1 * number, seed=1 + number % 2)
    section = page.section(whole(folder), "importance")
    assert "takes 10 trials or more" in section.text
    assert section.all("svg") == []


def test_a_sweep_without_training_has_no_curves(tmp_path):
    folder = sweep(tmp_path)
    for number, name in enumerate(DECAYS):
        add(folder, number, {DECAY.path: name}, 0.1 * number, epochs=[{"epoch": 0, "eval/mAP": 0.1 * number}])
    assert "no trial has the figure of more than one epoch" in page.section(whole(folder), "curves").text


def test_many_points_are_folded_away_and_none_is_lost(tmp_path):
    axis = Axis("inter.num_clusters", tuple(range(100, 160)))
    folder = sweep(tmp_path, [axis, DECAY])
    for number, value in enumerate(axis.values):
        add(folder, number, {axis.path: value, DECAY.path: "off"}, 0.001 * number, epochs=[])
    tree = whole(folder)
    for anchor, caption in (("points", "Points"), ("trials", "All trials")):
        section = page.section(tree, anchor)
        shown, more = rows(section, caption), rows(section.one("details"), f"{caption}, continued")
        assert (len(shown), len(more)) == (26, 36)
        assert section.one("details").one("summary").text.startswith("35 more")
    labels = [n for n in page.section(tree, "coordinates").all("text", "tick") if "end" in n.classes]
    heights = sorted(float(node.attributes["y"]) for node in labels)
    assert min(b - a for a, b in pairwise(heights)) >= 15


def test_long_names_and_values_are_cut_where_there_is_no_room(tmp_path):
    axis = Axis("model.weights", ("/a/very/long/path/to/the/first/weights.pt", "none"))
    folder = sweep(tmp_path, [axis])
    for number, value in enumerate(axis.values):
        add(folder, number, {axis.path: value}, 0.1 * number)
    tree = whole(folder)
    name = page.section(tree, "effects").all("text", "name")[0]
    assert name.one("title").text == axis.values[0]
    assert len(name.children[-1]) == 20
    cell = page.section(tree, "points").all("tr")[2].all("span")[0]
    assert cell.attributes["title"] == axis.values[0]
    assert len(cell.text) == 28


def test_what_changes_nothing_beside_another_axis_is_neither_told_nor_drawn(tmp_path):
    """Of dbscan there is no number of clusters: its trials have the first, and it means nothing."""
    method = Axis("inter.method", ("kmeans", "dbscan"))
    count = Axis("inter.num_clusters", (100, 200, 400), only={method.path: ("kmeans",)})
    folder = sweep(tmp_path, [method, count])
    tried = [("dbscan", 100), ("kmeans", 100), ("kmeans", 200), ("kmeans", 400)]
    for number, (name, of) in enumerate(tried):
        add(folder, number, {method.path: name, count.path: of}, 0.5 - 0.1 * number)
    tree = whole(folder)
    found = rows(page.section(tree, "points"), "Points")[1:]
    assert [row[1:3] for row in found] == [["dbscan", "–"], *([name, str(of)] for name, of in tried[1:])]
    assert [node.one("b").text for node in page.section(tree, "best").all("li")][1:] == ["dbscan", "–"]
    of_count = page.section(tree, "effects").all("figure")[1]
    assert len(of_count.one("svg", "chart").all("path", "mark")) == 3
    svg = page.section(tree, "coordinates").one("svg", "parallel")
    (dash,) = [node for node in svg.all("text", "tick") if node.text == "–"]
    assert "–: the axis changes nothing" in page.section(tree, "coordinates").text
    (best,) = svg.all("path", "strong")
    middle = best.attributes["d"].split("L")[1]
    assert float(middle.split()[1]) == float(dash.attributes["y"]) - 3.5
    assert "num_clusters" not in svg.all("g", "trial")[-1].one("title").text
    assert rows(page.section(tree, "configuration"), "Axes")[2][3] == "inter.method kmeans"


def test_trials_without_the_axis_that_is_coloured_are_grey(tmp_path):
    method = Axis("inter.method", ("kmeans", "dbscan"))
    count = Axis("inter.num_clusters", (100, 200), only={method.path: ("kmeans",)})
    folder = sweep(tmp_path, [method, count])
    for number, (name, of) in enumerate([("dbscan", 100), ("kmeans", 100), ("kmeans", 200)]):
        add(folder, number, {method.path: name, count.path: of}, 0.5 - 0.1 * number)
    found = colours(Sweep.read(folder), count)
    assert found.styles == {0: "c6", 1: heat(0), 2: heat(1)}
    assert [name for _, name, _ in found.legend] == ["100", "200", "without num_clusters"]


def test_how_many_trials_there_are_to_be_need_not_be_known(tmp_path):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, 0.4)
    header = whole(folder).one("header")
    assert header.one("ul", "facts").all("li")[0].text == "trials 1: 1 done"
    assert "not begun" not in header.text


def test_axes_of_one_name_are_told_apart(tmp_path):
    axes = [Axis("intra.epochs", (1, 2)), Axis("inter.epochs", (1, 2)), Axis("epochs", (1, 2))]
    folder = sweep(tmp_path, axes)
    for number, value in enumerate((1, 2)):
        add(folder, number, dict.fromkeys((axis.path for axis in axes), value), 0.1)
    head = rows(page.section(whole(folder), "points"), "Points")[0]
    assert head[1:4] == ["intra.epochs", "inter.epochs", "epochs"]


def spoil_record(folder: SweepFolder) -> None:
    folder.record.write_text("{}")


def spoil_trial(folder: SweepFolder) -> None:
    (folder.run(0).path / "trial.json").write_text("{")


def spoil_metrics(folder: SweepFolder) -> None:
    (folder.run(0).path / "metrics.jsonl").write_text('{"epoch" 0}\n')


def spoil_epochs(folder: SweepFolder) -> None:
    (folder.run(0).path / "metrics.jsonl").write_text('{"eval/mAP": 0.1}\n')


def spoil_place(folder: SweepFolder) -> None:
    (folder.report / "in the way").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_record, "not a file that raid wrote"),
        (spoil_trial, "not a file that raid wrote"),
        (spoil_metrics, "metrics.jsonl: is damaged"),
        (spoil_epochs, "line 1 lacks epoch"),
        (spoil_place, "cannot be written"),
    ],
)
def test_damaged_records_are_input_errors(tmp_path, spoil, told):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, 0.4)
    spoil(folder)
    with pytest.raises(InputError, match=told):
        write_sweep_report(folder)


def test_what_is_no_sweep_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no sweep\.json"):
        write_sweep_report(SweepFolder(tmp_path))
    with pytest.raises(InputError, match="no trial has begun"):
        write_sweep_report(sweep(tmp_path))


def test_half_a_last_line_of_a_killed_trial_is_left_out(tmp_path):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, None, state="running", epochs=curve("eval/mAP", 0.4, 3))
    with (folder.run(0).path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "eval/m')
    whole(folder)


# raid report


def test_the_command_writes_the_page_of_a_sweep(tmp_path, capsys):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, 0.4)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{folder.report}\n"
    assert page.read(folder.report).one("h1").text == "Sweep of icsr: made_up"


def test_the_command_takes_no_fields_of_a_sweep(tmp_path, capsys):
    folder = sweep(tmp_path)
    add(folder, 0, {DECAY.path: "off"}, 0.4)
    assert main(["report", str(tmp_path), "data.root=elsewhere"]) == EXIT_INPUT_ERROR
    assert "data.root=elsewhere: the report of a sweep shows no images" in capsys.readouterr().err
    assert not folder.report.exists()
