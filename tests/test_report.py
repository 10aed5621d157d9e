"""The report of runs whose records are made up, read back as a browser would."""

import base64
import json
import re
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import page
import pytest
import tiny
from PIL import Image

from raid.cli import EXIT_INPUT_ERROR, main
from raid.errors import InputError
from raid.evaluate import RetrievalSet, camera_record, final_record, save_record
from raid.health import alarms
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import Inputs, open_inputs
from raid.report import write_report
from raid.report.panels import seconds_text
from raid.run_folder import RunFolder

SECTIONS = ["alarms", "labels", "clusters", "fit", "cameras", "lists", "times", "figures", "configuration"]
QUALITY = {
    "B-cubed precision": "bcubed_precision",
    "B-cubed recall": "bcubed_recall",
    "B-cubed F": "bcubed_f",
    "Expansion": "expansion",
}
LINES = {
    "global": "global",
    "local (within a camera)": "local",
    "refined": "refined",
    "refined, discards as singletons": "refined_all",
}
STEPS = 4


def figures(
    epoch: int, *, refined: bool = True, identities: bool = True, evaluated: bool = True
) -> dict[str, Any]:
    """The figures of an epoch, all different."""
    rng = np.random.default_rng(epoch)
    found: dict[str, Any] = {
        "epoch": epoch,
        "train/loss": 3.0 / (1 + epoch),
        "cluster/num": 50.0 + epoch,
        "cluster/coverage": rng.uniform(0.7, 0.9) if refined else 1.0,
        "cluster/size_max": 30.0,
        "cluster/size_median": 4.5,
        "cluster/largest": 30.0 / 300,
        "cluster/singletons": 3.0 + epoch,
        "cluster/silhouette": rng.uniform(0.2, 0.4),
        "cluster/camera_purity": rng.uniform(0.5, 0.7),
        "refine/discarded": rng.uniform(0.1, 0.2) if refined else 0.0,
        "time/cluster_s": rng.uniform(1, 2),
        "time/train_s": rng.uniform(10, 20),
        "time/data_wait_s": rng.uniform(1, 2),
        "time/step_s": 1000.0,  # the mean of a step: no stage
    }
    if epoch:
        found["cluster/churn"] = rng.uniform(0.1, 0.4)
    if refined:
        found["refine/discard_probability"] = 1.0 - 0.1 * epoch
    if identities:
        for of in ("global", "refined", "refined_all", *(["local"] if refined else [])):
            scores = {key: rng.uniform(0.3, 0.9) for key in QUALITY.values()} | {
                "expansion": rng.uniform(1, 4)
            }
            found |= {f"quality/{of}/{key}": value for key, value in scores.items()}
    if evaluated:
        # The best epoch is the one before the last of three.
        found |= {"eval/mAP": [0.31, 0.52, 0.47][epoch % 3], "eval/rank1": rng.uniform(0.5, 0.6)}
        found |= {"eval/rank5": 0.7, "eval/rank10": 0.8, "eval/mINP": 0.2, "time/evaluate_s": 1.5}
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_images(tmp_path_factory.mktemp("report") / "images")


@pytest.fixture(scope="module")
def inputs(root: Path) -> Inputs:
    return open_inputs(tiny.config(root, root.parent).data)


def features(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def record_of(inputs: Inputs) -> dict[str, Any]:
    retrieval = inputs.retrieval
    sides = features(len(retrieval.query), 1), features(len(retrieval.gallery), 2)
    record = final_record(retrieval, *sides, ap="noninterp")
    return record | camera_record(features(len(inputs.train), 3), inputs.train)


def recorded(config: IcsrConfig, inputs: Inputs, epochs: list[dict[str, Any]]) -> RunFolder:
    """A finished run of these epochs, with an evaluation where one was evaluated."""
    folder = RunFolder.open(config.run.folder, config, inputs.fingerprint, resume=False, fresh=False)
    for epoch in epochs:
        losses = epoch["train/loss"] + np.linspace(-0.5, 0.5, STEPS)
        folder.record_epoch(epoch, losses.tolist())
    if any("eval/mAP" in epoch for epoch in epochs):
        save_record(folder.evaluation, record_of(inputs))
    folder.model.write_text("a model")
    return folder


@pytest.fixture(scope="module")
def run(root: Path, inputs: Inputs) -> RunFolder:
    folder = recorded(tiny.config(root, root.parent / "run"), inputs, [figures(epoch) for epoch in range(3)])
    write_report(folder, inputs.retrieval)
    return folder


@pytest.fixture(scope="module")
def shown(run: RunFolder) -> page.Node:
    return page.read(run.report)


def written(folder: RunFolder, retrieval: RetrievalSet | None = None) -> page.Node:
    path = write_report(folder, retrieval)
    assert path == folder.report
    return page.read(path)


def test_all_sections_are_there_and_the_contents_lead_to_them(shown):
    assert [node.attributes["id"] for node in shown.all("section")] == SECTIONS
    assert [node.attributes["href"] for node in shown.one("nav").all("a")] == [
        f"#{name}" for name in SECTIONS
    ]
    assert set(page.charts(shown)) == {
        *QUALITY, "Coverage", "Discards", "Number of clusters", "Cluster sizes", "Health without identities",
        "Loss", "mAP and rank-1", "CMC curve of the last epoch", "Time by stage",
    }  # fmt: skip


PLACES = ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background")


def references(tree: page.Node) -> list[str]:
    """Whatever a browser might load: attributes that name a place, and what styles name."""
    found, styles = [], []
    for node in tree.walk():
        found += [value for name, value in node.attributes.items() if name in PLACES]
        styles.append(node.attributes.get("style", ""))
        styles.append(node.text if node.tag == "style" else "")
    for text in styles:
        found += [place.strip("'\" ") for place in re.findall(r"url\((.*?)\)", text)]
        found += re.findall(r"@import\s+(\S+)", text)
    return found


def test_nothing_is_loaded_from_elsewhere(shown):
    found = references(shown)
    assert len(found) > 50
    assert [place for place in found if not place.startswith(("data:", "#"))] == []
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {node.tag for node in shown.walk()}
    assert not [name for node in shown.walk() for name in node.attributes if name.startswith("on")]
    (policy,) = [
        node.attributes["content"]
        for node in shown.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_a_reference_elsewhere_would_be_found():
    tree = page.parse(
        "<p style=\"background:url('http://a/b')\"></p><img src=x.png><style>@import y.css;</style>"
    )
    assert references(tree) == ["x.png", "http://a/b", "y.css;"]


def test_charts_show_what_was_recorded(run, shown):
    """Legend, tooltips and the drawing itself, measured between its ticks."""
    of = page.charts(shown)
    expected = {
        (title, name): f"quality/{key}/{score}"
        for title, score in QUALITY.items()
        for name, key in LINES.items()
    } | {
        ("Coverage", "in a cluster"): "cluster/coverage",
        ("Discards", "discard probability"): "refine/discard_probability",
        ("Discards", "discarded"): "refine/discarded",
        ("Number of clusters", "clusters"): "cluster/num",
        ("Number of clusters", "of one image"): "cluster/singletons",
        ("Cluster sizes", "largest"): "cluster/size_max",
        ("Cluster sizes", "median"): "cluster/size_median",
        ("Health without identities", "camera purity"): "cluster/camera_purity",
        ("Health without identities", "churn"): "cluster/churn",
        ("Health without identities", "silhouette"): "cluster/silhouette",
        ("mAP and rank-1", "mAP"): "eval/mAP",
        ("mAP and rank-1", "rank-1"): "eval/rank1",
    }
    for (title, name), key in expected.items():
        chart = of[title]
        values = [(epoch["epoch"] + 1, epoch[key]) for epoch in run.metrics() if key in epoch]
        assert [x for x, _ in chart.told[name]] == [x for x, _ in values], (title, name)
        for (_, value), (_, told), (_, drawn) in zip(
            values, chart.told[name], chart.drawn[name], strict=True
        ):
            assert page.value_of(told) == pytest.approx(value, abs=6e-4), (title, name)
            assert drawn == pytest.approx(value, abs=chart.resolution), (title, name)
        assert chart.legend[name] == chart.told[name][-1][1]
    shown_names = {(title, name) for title, chart in of.items() for name in chart.told}
    others = {("Loss", "mean of an epoch"), ("CMC curve of the last epoch", "found by the last place")}
    assert shown_names == {*expected, *others}


def test_discards_as_singletons_are_dashed_and_in_the_colour_of_refined(shown):
    for figure in page.section(shown, "labels").all("figure")[:4]:
        styles = [path.classes for path in figure.one("svg", "chart").all("path", "line")]
        assert styles == [["line", "c0"], ["line", "c2"], ["line", "c1"], ["line", "c1", "dashed"]]


def test_loss_of_every_step_and_of_the_epochs(run, shown):
    chart = page.charts(shown)["Loss"]
    middles = [STEPS * epoch + (1 + STEPS) / 2 for epoch in range(3)]
    means = [epoch["train/loss"] for epoch in run.metrics()]
    assert [x for x, _ in chart.drawn["mean of an epoch"]] == middles
    assert [y for _, y in chart.drawn["mean of an epoch"]] == pytest.approx(means, abs=chart.resolution)
    assert chart.legend["of a step"] == f"{run.steps()[-1]['loss']:.2f}"
    (line,) = (
        page.section(shown, "fit").one("div", "grid").all("figure")[0].one("svg", "chart").all("path", "thin")
    )
    assert line.attributes["d"].count("L") == 3 * STEPS - 1


def test_cmc_of_the_record(inputs, shown):
    chart = page.charts(shown)["CMC curve of the last epoch"]
    cmc = record_of(inputs)["cmc"]
    drawn = chart.drawn["found by the last place"]
    assert [x for x, _ in drawn] == list(range(1, len(cmc) + 1))
    assert [y for _, y in drawn] == pytest.approx(cmc.tolist(), abs=chart.resolution)
    note = page.section(shown, "fit").all("figure")[2].all("p")[0].text
    assert f"rank-5 {100 * cmc[4]:.1f}\N{NO-BREAK SPACE}%" in note


def test_the_heading_has_the_last_epoch_as_the_result(run, shown, root):
    header = shown.one("header")
    last = run.metrics()[-1]
    assert header.one("h1").text == "ICSR: run"
    assert header.one("p", "result").text == "The result: the last epoch, 3"
    cards = {li.one("span").text: li.one("b").text for li in header.one("ul", "cards").all("li")}
    keys = {"mAP": "mAP", "rank-1": "rank1", "rank-5": "rank5", "rank-10": "rank10", "mINP": "mINP"}
    assert cards == {
        name: f"{100 * last[f'eval/{key}']:.1f}\N{NO-BREAK SPACE}%" for name, key in keys.items()
    }
    best = header.all("p")[-1].text
    assert best.startswith("Best epoch 2: mAP 52.0")
    assert best.endswith("Known by looking at the test set: not the result.")
    facts = header.one("ul", "facts").text
    spent = sum(epoch["time/cluster_s"] + epoch["time/train_s"] + 1.5 for epoch in run.metrics())
    for fact in ("seed 1", f"data {root}", "epochs 3", "preset default"):
        assert fact in facts
    assert re.search(rf"time ({round(spent)} s|{round(spent) // 60} min {round(spent) % 60} s)", facts)


def test_a_best_epoch_that_is_the_last_needs_no_warning(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0), figures(1)])
    assert "not the result" not in written(folder).one("header").text


def test_times_are_stacked_and_none_is_counted_twice(run, shown):
    """The wait for data is inside the training."""
    epochs = run.metrics()
    section = page.section(shown, "times")
    rows = [[cell.text for cell in row.children] for row in section.one("tbody").all("tr")]
    assert [row[0] for row in rows] == ["cluster", "train", "data wait", "evaluate", "all"]
    sums = [
        sum(epoch["time/cluster_s"] for epoch in epochs),
        sum(epoch["time/train_s"] - epoch["time/data_wait_s"] for epoch in epochs),
        sum(epoch["time/data_wait_s"] for epoch in epochs),
        4.5,
    ]
    for row, seconds in zip(rows, [*sums, sum(sums)], strict=True):
        share = float(row[2].split("\N{NO-BREAK SPACE}")[0])
        assert share == pytest.approx(100 * seconds / sum(sums), abs=0.06)
        assert row[1] == seconds_text(seconds)
    svg = section.one("svg", "chart")
    heights = [
        sum(float(bars.all("rect")[epoch].attributes["height"]) for bars in svg.all("g", "bar"))
        for epoch in range(3)
    ]
    whole = [epoch["time/cluster_s"] + epoch["time/train_s"] + 1.5 for epoch in epochs]
    assert [h / heights[0] for h in heights] == pytest.approx([w / whole[0] for w in whole], abs=0.01)
    # On top of each other: where one ends the next begins.
    for epoch in range(3):
        bars = [group.all("rect")[epoch].attributes for group in svg.all("g", "bar")]
        for below, above in pairwise(bars):
            assert float(above["y"]) + float(above["height"]) == pytest.approx(float(below["y"]), abs=0.2)


def test_similarity_of_the_cameras(inputs, shown):
    record = record_of(inputs)
    table = page.section(shown, "cameras").one("table")
    rows = table.one("tbody").all("tr")
    assert [node.text for node in table.one("thead").all("th")] == ["camera", *record["camera_names"]]
    assert [row.one("th").text for row in rows] == record["camera_names"].tolist()
    off, colours = {}, {}
    for i, row in enumerate(rows):
        for j, cell in enumerate(row.all("td")):
            if i == j:
                assert (cell.text, cell.classes) == ("1", ["same"])
                continue
            assert cell.text == f"{record['camera_similarity'][i, j]:.2f}"
            off[i, j], colours[i, j] = (
                record["camera_similarity"][i, j],
                int(cell.classes[0].removeprefix("h")),
            )
    assert colours[min(off, key=off.get)] == 0
    assert colours[max(off, key=off.get)] == 10
    ordered = sorted(off, key=off.get)
    assert [colours[at] for at in ordered] == sorted(colours.values())


def test_ranked_lists_are_the_records_with_their_pictures(inputs, shown):
    record, retrieval = record_of(inputs), inputs.retrieval
    strips = page.section(shown, "lists").all("ol", "strip")
    assert len(strips) == len(record["shown_rows"]) == 9
    gallery = pixels(retrieval.gallery_images, len(retrieval.gallery))
    queries = pixels(retrieval.query_images, len(retrieval.query))
    for row, strip in enumerate(strips):
        query, *found = strip.all("li")
        assert closest(query, queries) == record["shown_rows"][row]
        assert len(found) == 10
        for place, item in enumerate(found):
            right = bool(record["list_right"][row, place])
            assert item.classes == ["right" if right else "wrong"]
            sign = "✓" if right else "✗"
            assert item.one("b").text == f"{sign} {record['list_similarity'][row, place]:.2f}"
            assert item.one("small").text == str(place + 1)
            gallery_row = record["list_rows"][row, place]
            assert closest(item, gallery) == gallery_row
            words = item.one("img").attributes["alt"]
            assert words == f"place {place + 1}, {item.classes[0]}: {retrieval.gallery.paths[gallery_row]}"
    titles = [node.text for node in page.section(shown, "lists").all("h3")]
    assert titles == ["Best queries", "Median queries", "Worst queries"]
    shares = [
        float(re.search(r"precision ([\d.]+)", node.text)[1])
        for node in page.section(shown, "lists").all("p")
        if "precision" in node.text
    ]
    assert shares == pytest.approx(100 * record["average_precision"][record["shown_rows"]], abs=0.06)


def pixels(images: Any, count: int) -> np.ndarray:
    return images.gather(np.arange(count)).numpy().transpose(0, 2, 3, 1).astype(float)


def closest(item: page.Node, images: np.ndarray) -> int:
    """The row of the image that an item shows."""
    kind, data = item.one("img").attributes["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(data))), float)
    return int(np.argmin(np.abs(images - picture).mean(axis=(1, 2, 3))))


def test_all_figures_are_in_the_table(run, shown):
    table = page.section(shown, "figures").one("table")
    epochs = run.metrics()
    keys = {key for epoch in epochs for key in epoch} - {"epoch"}
    rows = {row.one("th").text: [cell.text for cell in row.all("td")] for row in table.one("tbody").all("tr")}
    assert rows.keys() == keys
    for key, cells in rows.items():
        for epoch, cell in zip(epochs, cells, strict=True):
            if key in epoch:
                assert float(cell) == pytest.approx(epoch[key], rel=6e-4)
            else:
                assert cell == "–"


def test_the_configuration_is_shown_whole(run, shown):
    assert page.section(shown, "configuration").one("pre").text == run.config.read_text()


def test_everything_has_words_for_who_cannot_see_it(shown):
    for svg in shown.all("svg"):
        assert svg.attributes.get("aria-hidden") == "true" or (
            svg.attributes["role"] == "img" and len(svg.attributes["aria-label"]) > 20
        )
    for image in shown.all("img"):
        assert len(image.attributes["alt"]) > 5
    for scroll in shown.all("div", "scroll"):
        if "tabindex" in scroll.attributes:
            assert scroll.attributes["aria-label"]
    for title, chart in page.charts(shown).items():
        assert chart.label.startswith(f"{title}. ")
        for name, last in chart.legend.items():
            assert name in chart.label
            assert last in chart.label


def test_the_same_files_make_the_same_page(run, inputs):
    before = run.report.read_bytes()
    write_report(run, inputs.retrieval)
    assert run.report.read_bytes() == before
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


# What is missing


def test_the_baseline_shows_global_clusters_alone(root, inputs, tmp_path):
    config = tiny.config(root, tmp_path / "plain", refine__enabled=False)
    folder = recorded(config, inputs, [figures(epoch, refined=False) for epoch in range(2)])
    tree = written(folder, inputs.retrieval)
    assert tree.one("header").one("h1").text == "Baseline: plain"
    of = page.charts(tree)
    assert "Discards" not in of
    for title in QUALITY:
        assert list(of[title].legend) == ["global"]
    assert "This is the baseline" in page.section(tree, "labels").text
    assert [node.attributes["id"] for node in tree.all("section")] == SECTIONS


def test_a_set_without_identities_has_no_quality(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0, identities=False)])
    tree = written(folder)
    assert "have no identities" in page.section(tree, "labels").text
    assert not set(QUALITY) & set(page.charts(tree))
    assert {"Coverage", "Discards"} <= set(page.charts(tree))


def test_a_set_without_query_and_gallery_has_no_evaluation(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0, evaluated=False)])
    tree = written(folder)
    assert "No epoch has been evaluated." in tree.one("header").text
    assert "Nothing has been evaluated" in page.section(tree, "fit").text
    assert "Not recorded" in page.section(tree, "lists").text
    assert "Not recorded" in page.section(tree, "cameras").text
    assert not {"mAP and rank-1", "CMC curve of the last epoch"} & set(page.charts(tree))


@pytest.mark.parametrize("change", [{}, {"identities": False}, {"evaluated": False}, {"refined": False}])
def test_a_run_of_one_epoch_is_drawn(root, inputs, tmp_path, change):
    tree = written(recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0, **change)]))
    for chart in page.charts(tree).values():
        assert chart.told or chart.title == "Time by stage"
        for values in chart.drawn.values():
            assert all(np.isfinite(value) for _, value in values)
    assert "nan" not in " ".join(
        value
        for node in tree.walk()
        for name, value in node.attributes.items()
        if name in ("d", "cx", "cy", "y")
    )


def test_a_run_evaluated_at_its_end_alone_has_one_point(root, inputs, tmp_path):
    epochs = [figures(0, evaluated=False), figures(1, evaluated=False), figures(2)]
    tree = written(recorded(tiny.config(root, tmp_path / "run"), inputs, epochs))
    assert page.charts(tree)["mAP and rank-1"].told["mAP"] == [(3.0, "47.0\N{NO-BREAK SPACE}%")]


def test_a_run_that_has_not_ended_says_so(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run", inter__epochs=5), inputs, [figures(0), figures(1)])
    folder.model.unlink()
    header = written(folder).one("header")
    assert header.one("p", "alarm").text.startswith("Unfinished:")
    assert "The last evaluated epoch, 2" in header.text
    assert "The result" not in header.text
    assert "epochs 2 of 5" in header.one("ul", "facts").text


def test_losses_that_are_not_finite_are_an_alarm_and_not_drawn(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    folder.record_epoch(figures(1) | {"train/loss": float("nan")}, [float("nan"), float("inf"), 1.0])
    tree = written(folder)
    assert "2 of 7 steps have a loss that is not finite" in page.section(tree, "fit").one("p", "alarm").text
    assert len(page.charts(tree)["Loss"].told["mean of an epoch"]) == 1
    assert page.section(tree, "figures").text.count("nan") == 1


def test_a_run_without_steps_and_times_is_shown(root, inputs, tmp_path):
    epoch = {key: value for key, value in figures(0).items() if not key.startswith("time/")}
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [epoch])
    (folder.path / "steps.jsonl").unlink()
    tree = written(folder)
    assert "Loss" not in page.charts(tree)
    assert "This run recorded no times." in page.section(tree, "times").text
    facts = [li.text for li in tree.one("header").one("ul", "facts").all("li")]
    assert [fact for fact in facts if fact.startswith("time")] == []


def test_alarms_are_those_of_the_health(root, inputs, tmp_path, shown):
    assert "None: no epoch" in page.section(shown, "alarms").text
    bad = figures(1) | {
        "cluster/largest": 0.4,
        "cluster/size_max": 120.0,
        "cluster/coverage": 0.1,
        "cluster/num": 5.0,
    }
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0), bad, figures(2)])
    boxes = [node.text for node in page.section(written(folder), "alarms").all("p", "alarm")]
    expected = list(alarms(bad, 300))
    assert len(expected) == 3
    assert boxes == [f"⚠ Alarm. Epoch 2: {line}." for line in expected]


def test_many_alarms_do_not_bury_the_page(root, inputs, tmp_path):
    bad = {"cluster/coverage": 0.1}
    folder = recorded(
        tiny.config(root, tmp_path / "run"), inputs, [figures(epoch) | bad for epoch in range(12)]
    )
    section = page.section(written(folder), "alarms")
    assert len(section.all("p", "alarm")) == 12
    assert len(section.one("details").all("p", "alarm")) == 7
    assert section.one("summary").text == "7 more alarms"


def test_without_the_images_their_numbers_stand_in_the_lists(run, inputs, tmp_path):
    try:
        section = page.section(written(run), "lists")
        assert section.all("img") == []
        assert "not at hand" in section.text
        record = record_of(inputs)
        items = [item.text for item in section.all("ol", "strip")[0].all("span", "gone")]
        assert items == [f"image {row + 1}" for row in (record["shown_rows"][0], *record["list_rows"][0])]
        other = replace(inputs.retrieval, gallery=inputs.retrieval.gallery.take([0, 1]))
        assert page.section(written(run, other), "lists").all("img") == []  # not the rows of this set
    finally:
        write_report(run, inputs.retrieval)


def test_a_gallery_shorter_than_a_list_ends_the_list(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    record = record_of(inputs)
    for key, nothing in (("list_rows", -1), ("list_similarity", np.nan), ("list_right", False)):
        record[key][:, 4:] = nothing
    save_record(folder.evaluation, record)
    strips = page.section(written(folder, inputs.retrieval), "lists").all("ol", "strip")
    assert [len(strip.all("li")) for strip in strips] == [5] * 9


# What users write


def test_text_of_users_is_escaped(root, inputs, tmp_path):
    bad = "<script>alert('1')</script>\"&amp;"
    config = tiny.config(root, tmp_path / bad.replace("/", "∕"))
    config = replace(config, data=replace(config.data, pattern=f"(?P<camera>{bad})"))
    folder = recorded(
        config, inputs, [figures(0) | {f"quality/{bad}": 1.0, "note": bad, f"time/{bad}_s": 2.0}]
    )
    record = record_of(inputs) | {"camera_names": np.array([bad, "<b>", "c"])}
    save_record(folder.evaluation, record)
    tree = written(folder, inputs.retrieval)
    assert "script" not in {node.tag for node in tree.walk()}
    assert tree.one("header").one("h1").text == f"ICSR: {bad.replace('/', '∕')}"
    assert page.section(tree, "configuration").one("pre").text == folder.config.read_text()
    assert "<script>" in folder.config.read_text()
    headers = [node.text for node in page.section(tree, "figures").one("table").all("th")]
    assert f"quality/{bad}" in headers
    assert bad in page.section(tree, "figures").text
    names = page.section(tree, "cameras").one("table").all("th")
    assert [node.text for node in names] == ["camera", "1", "2", "3", f"1: {bad}", "2: <b>", "3: c"]
    assert names[1].attributes["title"] == bad
    assert bad in page.section(tree, "times").one("table").text


def test_a_folder_whose_name_is_no_text_is_reported(root, inputs, tmp_path):
    name = b"run\xff".decode(errors="surrogateescape")
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    moved = RunFolder(folder.path.rename(tmp_path / name))
    assert written(moved).one("header").one("h1").text == "ICSR: run?"


def test_a_long_run_with_large_pictures_stays_small(root, inputs, tmp_path):
    class Noise:
        height, width = 256, 128

        def gather(self, rows: np.ndarray) -> Any:
            import torch

            generator = torch.Generator().manual_seed(int(rows[0]))
            return torch.randint(0, 256, (len(rows), 3, 256, 128), dtype=torch.uint8, generator=generator)

    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(epoch) for epoch in range(50)])
    lines = [{"epoch": step // 400, "step": step % 400, "loss": 2.0 + np.sin(step)} for step in range(20_000)]
    (folder.path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    retrieval = replace(inputs.retrieval, query_images=Noise(), gallery_images=Noise())
    tree = written(folder, retrieval)
    assert len(page.section(tree, "lists").all("img")) == 9 * 11
    assert folder.report.stat().st_size < 3_000_000


# The command, and what is refused


def reported(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["report", *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_the_command_writes_the_same_page_anew(run, capsys):
    before = run.report.read_bytes()
    run.report.write_text("old")
    assert reported(capsys, run.path) == (0, f"{run.report}\n", "")
    assert run.report.read_bytes() == before


def test_the_command_finds_images_that_have_moved(root, inputs, tmp_path, capsys):
    moved = tiny.write_images(tmp_path / "photos")
    config = tiny.config(tmp_path / "photos", tmp_path / "run")
    folder = recorded(config, inputs, [figures(0)])
    moved.rename(tmp_path / "elsewhere")
    status, out, err = reported(capsys, folder.path)
    assert (status, out) == (0, f"{folder.report}\n")
    assert err.startswith("the report is without pictures: ")
    assert page.section(page.read(folder.report), "lists").all("img") == []
    assert reported(capsys, folder.path, f"data.root={tmp_path / 'elsewhere'}") == (
        0,
        f"{folder.report}\n",
        "",
    )
    assert len(page.section(page.read(folder.report), "lists").all("img")) == 99
    assert not (tmp_path / "photos" / "cache").exists()  # a few images are shown, no set is decoded for it


def test_the_command_shows_no_pictures_of_another_set(root, inputs, tmp_path, capsys):
    other = tiny.write_images(tmp_path / "other", num_identities=12)
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    status, _, err = reported(capsys, folder.path, f"data.root={other}")
    assert status == 0
    assert "not the images that the run was made with" in err
    assert page.section(page.read(folder.report), "lists").all("img") == []


def test_the_command_does_not_open_images_that_nothing_shows(root, inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("raid.methods.reporting.open_inputs", lambda data: pytest.fail("opened"))
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0, evaluated=False)])
    assert reported(capsys, folder.path) == (0, f"{folder.report}\n", "")


def spoil_nothing(folder: RunFolder) -> None:
    folder._file("metrics.jsonl").unlink()


def spoil_metrics(folder: RunFolder) -> None:
    folder._file("metrics.jsonl").write_text('{"epoch" 0}\n')


def spoil_epochs(folder: RunFolder) -> None:
    folder._file("metrics.jsonl").write_text('{"train/loss": 1.0}\n')


def spoil_steps(folder: RunFolder) -> None:
    folder._file("steps.jsonl").write_text('{"epoch": 0}\n')


def spoil_record(folder: RunFolder) -> None:
    folder.evaluation.write_bytes(b"PK\x03\x04 half")


def spoil_config(folder: RunFolder) -> None:
    folder.config.write_text("a: [")


def spoil_identity(folder: RunFolder) -> None:
    folder._file("run.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing, "no epoch has been recorded yet"),
        (spoil_metrics, r"metrics\.jsonl: is damaged"),
        (spoil_epochs, r"metrics\.jsonl: line 1 lacks epoch"),
        (spoil_steps, r"steps\.jsonl: line 1 lacks epoch or loss"),
        (spoil_record, r"evaluation\.npz: not a record"),
        (spoil_config, r"config\.yaml: not YAML"),
        (spoil_identity, r"run\.json is not a file that raid wrote"),
    ],
)
def test_a_run_that_cannot_be_reported_is_one_line(root, inputs, tmp_path, capsys, spoil, message):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    spoil(folder)
    with pytest.raises(InputError, match=message):
        write_report(folder, None)
    status, out, err = reported(capsys, folder.path)
    assert (status, out) == (EXIT_INPUT_ERROR, "")
    assert err.startswith("raid: ")
    assert err.count("\n") == 1
    assert not folder.report.exists()


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    status, _, err = reported(capsys, tmp_path / "none")
    assert (status, err) == (EXIT_INPUT_ERROR, f"raid: {tmp_path / 'none'}: there is no such folder\n")
    status, _, err = reported(capsys, tmp_path)
    assert (status, err) == (
        EXIT_INPUT_ERROR,
        f"raid: {tmp_path}: not the folder of a run: it has no run.json\n",
    )


def test_what_is_done_is_not_overridden(run, capsys):
    status, _, err = reported(capsys, run.path, "inter.epochs=7")
    assert status == EXIT_INPUT_ERROR
    assert "section data alone" in err


def test_a_page_that_cannot_be_written_is_one_line(root, inputs, tmp_path, capsys):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    folder.report.mkdir()
    with pytest.raises(InputError, match=r"report\.html: cannot be written"):
        write_report(folder, None)
