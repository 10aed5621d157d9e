"""The report of a whole run of MAR, read back as a browser would."""

import re

import numpy as np
import page
import pytest
import torch
from made_up import record_of
from made_up_mar import LOSSES, PRETRAINING, SECTIONS, STEPS, mining, multilabels

from raid.report import write_report
from raid.report.pictures import picture

PARTS = {
    "MDL": "Discriminative loss (MDL, eq. 4)",
    "CML": "Cross-view loss (CML, eq. 6)",
    "AL": "Agent loss (AL, eq. 7)",
    "RJ": "Joint embedding loss (RJ, eq. 8)",
}
HISTOGRAM = "Similar pairs of epoch {}"


def test_all_sections_are_there_and_the_contents_lead_to_them(mar_shown):
    assert [node.attributes["id"] for node in mar_shown.all("section")] == SECTIONS
    assert [node.attributes["href"] for node in mar_shown.one("nav").all("a")] == [
        f"#{name}" for name in SECTIONS
    ]
    assert set(page.charts(mar_shown)) == {
        "Pretraining loss", "Pretraining accuracy", "Total loss", *PARTS.values(), "Accuracy on the source",
        "mAP and rank-1", "CMC curve of the last epoch", "Pairs mined", "Positives: one person",
        "Hard negatives: two persons", "Threshold", HISTOGRAM.format(4), HISTOGRAM.format(6),
        "Time by stage",
    }  # fmt: skip


def test_charts_show_what_was_recorded(mar_run, mar_shown):
    of = page.charts(mar_shown)
    expected = {(PARTS[name.upper()], name.upper()): f"train/{name}" for name in LOSSES} | {
        ("Pretraining accuracy", "classified right"): "pretraining/accuracy",
        ("Accuracy on the source", "classified right by the agents"): "source/accuracy",
        ("mAP and rank-1", "mAP"): "eval/mAP",
        ("mAP and rank-1", "rank-1"): "eval/rank1",
        ("Pairs mined", "positive"): "mining/positives",
        ("Pairs mined", "hard negative"): "mining/negatives",
        ("Positives: one person", "of the mined"): "mining/positive_precision",
        ("Positives: one person", "of all similar pairs"): "mining/base_rate",
        ("Hard negatives: two persons", "of the mined"): "mining/negative_precision",
        ("Threshold", "threshold, at the end"): "mining/threshold",
        ("Threshold", "reached by a batch, mean"): "mining/reached",
    }
    for (title, name), key in expected.items():
        chart = of[title]
        values = [(epoch["epoch"] + 1, epoch[key]) for epoch in mar_run.metrics() if key in epoch]
        assert len(values) >= 2
        assert [x for x, _ in chart.told[name]] == [x for x, _ in values], (title, name)
        for (_, value), (_, told), (_, drawn) in zip(
            values, chart.told[name], chart.drawn[name], strict=True
        ):
            assert page.value_of(told) == pytest.approx(value, rel=1e-3, abs=6e-4), (title, name)
            assert drawn == pytest.approx(value, abs=chart.resolution), (title, name)
    others = of["Hard negatives: two persons"].drawn["of all similar pairs"]
    base = [1 - epoch["mining/base_rate"] for epoch in mar_run.metrics() if "mining/base_rate" in epoch]
    assert [share for _, share in others] == pytest.approx(base, abs=0.01)


def test_the_losses_of_the_steps_are_of_their_stage(mar_run, mar_shown):
    of = page.charts(mar_shown)
    for title, key, epochs in (
        ("Pretraining loss", "pretraining/loss", range(PRETRAINING)),
        ("Total loss", "train/loss", range(PRETRAINING, 6)),
    ):
        chart = of[title]
        middles = [STEPS * epoch + (1 + STEPS) / 2 for epoch in epochs]
        means = [mar_run.metrics()[epoch][key] for epoch in epochs]
        assert [x for x, _ in chart.drawn["mean of an epoch"]] == middles
        assert [y for _, y in chart.drawn["mean of an epoch"]] == pytest.approx(means, abs=chart.resolution)
        last = [step["loss"] for step in mar_run.steps() if step["epoch"] in epochs][-1]
        assert chart.legend["of a step"] == f"{last:.2f}"
        figure = figure_of(mar_shown, title)
        (line,) = figure.one("svg", "chart").all("path", "thin")
        assert line.attributes["d"].count("L") == len(epochs) * STEPS - 1


def test_each_loss_says_what_it_makes_of_the_total(mar_run, mar_shown):
    last = mar_run.metrics()[-1]
    notes = {
        figure.one("figcaption").text: figure.all("p")[-1].text
        for figure in page.section(mar_shown, "losses").all("figure")
        if figure.all("p")
    }
    weights = {"mdl": 1.0, "cml": 2e-4, "al": 50.0, "rj": 10.0}  # lambda2 * beta
    for name, weight in weights.items():
        times, adds = re.fullmatch(
            r"Times ([\d.]+) in the total: ([\d.]+) in the last epoch.", notes[PARTS[name.upper()]]
        ).groups()
        assert float(times) == pytest.approx(weight)
        assert float(adds) == pytest.approx(weight * last[f"train/{name}"], rel=1e-3)
    assert notes["mAP and rank-1"] == "Epoch 2 is the source alone, before MAR."


def test_the_heading_has_source_only_beside_the_result(mar_run, mar_shown, root, source):
    header = mar_shown.one("header")
    assert header.one("h1").text == "MAR: mar"
    assert header.one("p", "result").text == "The result: the last epoch, 6"
    before, last = mar_run.metrics()[PRETRAINING - 1], mar_run.metrics()[-1]
    (told,) = [node.text for node in header.all("p") if node.text.startswith("Source only, epoch 2 ")]
    for name, key in (("mAP", "eval/mAP"), ("rank-1", "eval/rank1"), ("mINP", "eval/mINP")):
        gained = 100 * (last[key] - before[key])
        assert f"{name} {100 * before[key]:.1f}\N{NO-BREAK SPACE}% ({gained:+.1f})" in told
    facts = [li.text for li in header.one("ul", "facts").all("li")]
    for fact in (
        f"target {root}", "target set Made-up", f"source {source}", "source set Elsewhere, version V1",
        "auxiliary train", "epochs 6, 2 of them pretraining",
    ):  # fmt: skip
        assert fact in facts


@pytest.mark.parametrize("epoch", [4, 6])
def test_the_histogram_is_the_records_with_the_threshold(mar_run, mar_shown, sets, epoch):
    title = HISTOGRAM.format(epoch)
    figure = figure_of(mar_shown, title)
    svg, chart = figure.one("svg", "chart"), page.charts(mar_shown)[title]
    line = mining(epoch - 1, sets)
    x_ticks = [node for node in svg.all("text", "tick") if "middle" in node.classes]
    assert (x_ticks[0].text, x_ticks[-1].text) == ("0", "1")
    left, right = (float(node.attributes["x"]) for node in (x_ticks[0], x_ticks[-1]))
    (bottom, zero), *_, (y_top, top) = y_ticks(svg)
    assert zero == 0
    per_count = (bottom - y_top) / top
    for key, look, below in (("same", "c2", [0] * 20), ("different", "c1", line["same"])):
        bars = [rect.attributes for rect in svg.one("g", look).all("rect")]
        assert len(bars) == 20
        for number, (bar, count, under) in enumerate(zip(bars, line[key], below, strict=True)):
            middle = float(bar["x"]) + float(bar["width"]) / 2
            assert middle == pytest.approx(left + (right - left) * (number + 0.5) / 20, abs=0.2)
            assert float(bar["height"]) == pytest.approx(count * per_count, abs=0.2)
            foot = float(bar["y"]) + float(bar["height"])
            assert foot == pytest.approx(bottom - under * per_count, abs=0.3)
    assert chart.legend == {"one person": "300", "two persons": "400"}
    told = svg.one("g", "c2").all("rect")[10].one("title").text
    assert told == f"one person, agreement 0.50 to 0.55: {line['same'][10]}"
    threshold = mar_run.metrics()[epoch - 1]["mining/threshold"]
    x = float(re.match(r"M([\d.]+) ", svg.one("path", "cut").attributes["d"])[1])
    assert (x - left) / (right - left) == pytest.approx(threshold, abs=0.003)
    assert f"threshold: agreement {threshold:.4g}" in chart.label


def figure_of(tree: page.Node, title: str) -> page.Node:
    (figure,) = [node for node in tree.all("figure") if title in [c.text for c in node.all("figcaption")]]
    return figure


def y_ticks(svg: page.Node) -> list[tuple[float, float]]:
    """(pixel, value) of the y axis, from the bottom."""
    ticks = [node for node in svg.all("text", "tick") if "end" in node.classes]
    return [(float(node.attributes["y"]) - 3.5, float(node.text)) for node in ticks]


def test_reference_agents_are_the_records_with_their_pictures(mar_shown, sets):
    record = multilabels(sets)
    strips = page.section(mar_shown, "agents").all("ol", "strip")
    assert len(strips) == len(record["target_rows"]) == 4
    targets = page.pixels(sets.target_images, len(sets.target))
    people = page.pixels(sets.source_images, len(sets.source))
    for sample, strip in enumerate(strips):
        target, *agents = strip.all("li")
        assert page.closest(target, targets) == record["target_rows"][sample]
        assert len(agents) == 6
        values = record["values"][sample]
        for place, item in enumerate(agents):
            number = record["agents"][sample, place] + 1
            assert item.one("small").text == f"agent {number}"
            row = record["source_rows"][sample, place]
            assert page.closest(item, people) == row
            assert item.one("img").attributes["alt"] == f"agent {number}: {sets.source.paths[row]}"
            assert item.one("b").text == f"{100 * values[place]:.1f}\N{NO-BREAK SPACE}%"
            wide = re.fullmatch(r"width:(\d+)%", item.one("i", "likelihood").attributes["style"])[1]
            assert float(wide) == pytest.approx(100 * values[place] / values[0], abs=0.6)
    titles = [node.text for node in page.section(mar_shown, "agents").all("p") if "agents hold" in node.text]
    for title, row, values in zip(titles, record["target_rows"], record["values"], strict=True):
        held = f"6 agents hold {100 * float(values.sum()):.1f}\N{NO-BREAK SPACE}% of its multilabel"
        camera = sets.target.cameras[row] + 1
        assert title == f"Image {row + 1}, camera {camera}: {held}"


def test_mined_pairs_are_those_of_the_last_epoch_with_their_pictures(mar_shown, sets):
    line, section = mining(5, sets), page.section(mar_shown, "pairs")
    assert "mined in epoch 6" in section.all("p")[0].text
    assert [node.text for node in section.all("h3")] == ["Mined as positive", "Mined as hard negative"]
    images = page.pixels(sets.target_images, len(sets.target))
    people = sets.target.identities
    for shown, kind in zip(section.all("ul", "pairs"), ("positives", "negatives"), strict=True):
        items = shown.all("li")
        assert len(items) == len(line[kind]) == 6
        for item, pair in zip(items, line[kind], strict=True):
            same = bool(people[pair["rows"][0]] == people[pair["rows"][1]])
            right = same == (kind == "positives")
            assert item.classes == ["right" if right else "wrong"]
            what = "one person" if same else "two persons"
            assert item.one("b").text == f"{'✓' if right else '✗'} {what}"
            assert [node.text for node in item.all("small")] == [
                f"similarity {pair['similarity']:.2f}",
                f"agreement {pair['agreement']:.2f}",
                "cameras {}, {}".format(*(sets.target.cameras[pair["rows"]] + 1)),
            ]
            rows = [page.closest(page.Node("", {}, [image]), images) for image in item.all("img")]
            assert rows == pair["rows"]
            assert item.all("img")[0].attributes["alt"] == (
                f"{what}, {item.classes[0]}: {sets.target.paths[rows[0]]}"
            )
        assert len({tuple(item.classes) for item in items}) == 2


def test_what_both_methods_show_is_there(mar_shown, both):
    record = record_of(both.target.retrieval)
    assert len(page.section(mar_shown, "lists").all("img")) == 11 * len(record["shown_rows"])
    rows = page.section(mar_shown, "cameras").one("table").one("tbody").all("tr")
    assert [row.one("th").text for row in rows] == record["camera_names"].tolist()
    drawn = page.charts(mar_shown)["CMC curve of the last epoch"].drawn["found by the last place"]
    assert [y for _, y in drawn] == pytest.approx(record["cmc"].tolist(), abs=0.01)
    times = page.section(mar_shown, "times").text
    assert "Without prepare, statistics, which come before the epochs." in times


def test_the_same_files_make_the_same_page(mar_run, both, sets):
    before = mar_run.report.read_bytes()
    write_report(mar_run, both.target.retrieval, sets)
    assert mar_run.report.read_bytes() == before


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(384, 128, (240, 80)), (256, 128, (160, 80)), (128, 64, (128, 64))]
)
def test_large_pictures_are_shrunk_to_what_is_seen(sets, height, width, shown):
    class Large:
        def __init__(self) -> None:
            self.height, self.width = height, width

        def gather(self, rows: np.ndarray) -> torch.Tensor:
            return torch.zeros(len(rows), 3, height, width, dtype=torch.uint8)

    item = page.parse(picture(0, "an image", (sets.target, Large())))
    assert page.pixels_of(item).shape == (*shown, 3)
