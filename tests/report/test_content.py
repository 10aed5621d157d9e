"""The report of a whole run, read back as a browser would."""

import re
from itertools import pairwise

import page
import pytest
import tiny
from made_up import LINES, QUALITY, SECTIONS, STEPS, figures, record_of, recorded, written

from raid.report import write_report
from raid.report.panels import seconds_text


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


@pytest.mark.parametrize("fixture", ["shown", "mar_shown", "slsr_shown"])
def test_nothing_is_loaded_from_elsewhere(fixture, request):
    shown = request.getfixturevalue(fixture)
    found = references(shown)
    assert len(found) > 50
    assert [place for place in found if not place.startswith(("data:", "#"))] == []
    assert not {"iframe", "object", "embed", "base", "form"} & {node.tag for node in shown.walk()}
    assert not [name for node in shown.walk() for name in node.attributes if name.startswith("on")]
    page.check_policy(shown)


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
    cmc = record_of(inputs.retrieval)["cmc"]
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
    spent = 340 + sum(epoch["time/cluster_s"] + epoch["time/train_s"] + 1.5 for epoch in run.metrics())
    for fact in ("seed 1", f"data {root}", "epochs 3", "preset default", "set Made-up, version V2"):
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
    stages = ["cluster", "train", "data wait", "prepare", "intra camera", "evaluate"]
    assert [row[0] for row in rows] == [*stages, "all"]
    sums = [
        sum(epoch["time/cluster_s"] for epoch in epochs),
        sum(epoch["time/train_s"] - epoch["time/data_wait_s"] for epoch in epochs),
        sum(epoch["time/data_wait_s"] for epoch in epochs),
        40,
        300,
        4.5,
    ]
    for row, seconds in zip(rows, [*sums, sum(sums)], strict=True):
        share = float(row[2].split("\N{NO-BREAK SPACE}")[0])
        assert share == pytest.approx(100 * seconds / sum(sums), abs=0.06)
        assert row[1] == seconds_text(seconds)
    # The bars are of the epochs alone.
    legend = [li.one("span").text for li in section.one("ul", "legend").all("li")]
    assert legend == ["cluster", "train", "data wait", "evaluate"]
    assert "Without prepare, intra camera, which" in section.all("figure")[0].text
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
    record = record_of(inputs.retrieval)
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
    record, retrieval = record_of(inputs.retrieval), inputs.retrieval
    strips = page.section(shown, "lists").all("ol", "strip")
    assert len(strips) == len(record["shown_rows"]) == 9
    gallery = page.pixels(retrieval.gallery_images, len(retrieval.gallery))
    queries = page.pixels(retrieval.query_images, len(retrieval.query))
    for row, strip in enumerate(strips):
        query, *found = strip.all("li")
        assert page.closest(query, queries) == record["shown_rows"][row]
        assert len(found) == 10
        for place, item in enumerate(found):
            right = bool(record["list_right"][row, place])
            assert item.classes == ["right" if right else "wrong"]
            sign = "✓" if right else "✗"
            assert item.one("b").text == f"{sign} {record['list_similarity'][row, place]:.2f}"
            assert item.one("small").text == str(place + 1)
            gallery_row = record["list_rows"][row, place]
            assert page.closest(item, gallery) == gallery_row
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


@pytest.mark.parametrize("fixture", ["shown", "mar_shown", "slsr_shown"])
def test_everything_has_words_for_who_cannot_see_it(fixture, request):
    shown = request.getfixturevalue(fixture)
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
