"""The report of a whole run of SLSR, read back as a browser would."""

import base64
import re
from io import BytesIO

import numpy as np
import page
import pytest
from made_up import record_of
from made_up_slsr import (
    BASELINE,
    CLUSTERS,
    GAN,
    HEIGHT,
    IDENTITIES,
    SECTIONS,
    SIZES,
    STEPS,
    WIDTH,
    gan_epoch,
    grid,
    image_clusters,
    quality,
)
from PIL import Image

from raid.report import write_report
from raid.report.charts import Axes
from raid.report.pictures import stored_picture
from raid.report.scatter import Cloud, scatter
from raid.report.style import NUM_LOOKS

SCATTER = "Clusters in the plane"


def table(node: page.Node, caption: str) -> list[list[str]]:
    """The cells of a table, its head first."""
    (found,) = [node for node in node.all("table") if caption in [c.text for c in node.all("caption")]]
    return [[cell.text for cell in row.children] for row in found.all("tr")]


def note_of(node: page.Node, title: str) -> str:
    """What stands under a chart or a table."""
    (found,) = [
        figure for figure in node.all("figure")
        if title in [c.text for c in figure.all("figcaption") + figure.all("caption")]
    ]  # fmt: skip
    return found.all("p")[-1].text


def test_all_sections_are_there_and_the_contents_lead_to_them(slsr_shown):
    assert [node.attributes["id"] for node in slsr_shown.all("section")] == SECTIONS
    assert [node.attributes["href"] for node in slsr_shown.one("nav").all("a")] == [
        f"#{name}" for name in SECTIONS
    ]
    of_gans = {f"Losses of cluster {cluster}" for cluster in range(CLUSTERS)}
    assert set(page.charts(slsr_shown)) == {
        "Baseline loss", "Baseline accuracy", SCATTER, "Variance of the samples", *of_gans, "Total loss",
        "Loss by kind of image", "Accuracy", "mAP and rank-1", "CMC curve of the last epoch",
        "Time by stage",
    }  # fmt: skip


def test_charts_show_what_was_recorded(slsr_run, slsr_shown):
    expected = {
        ("Baseline accuracy", "classified right"): "baseline/accuracy",
        ("Loss by kind of image", "real"): "train/loss_real",
        ("Loss by kind of image", "generated"): "train/loss_generated",
        ("Accuracy", "real"): "train/accuracy",
        ("Accuracy", "generated"): "train/accuracy_generated",
        ("mAP and rank-1", "mAP"): "eval/mAP",
        ("mAP and rank-1", "rank-1"): "eval/rank1",
    }
    values = {
        where: [(epoch["epoch"] + 1, epoch[key]) for epoch in slsr_run.metrics() if key in epoch]
        for where, key in expected.items()
    }
    for cluster in range(CLUSTERS):
        for name, key in (("D, real", "real"), ("D, generated", "fake"), ("G", "generator")):
            lines = [gan_epoch(cluster, epoch) for epoch in range(GAN)]
            values[f"Losses of cluster {cluster}", name] = [(line["epoch"] + 1, line[key]) for line in lines]
            shares = [(line["epoch"] + 1, line["variance_ratio"]) for line in lines]
            values["Variance of the samples", f"cluster {cluster}"] = shares
    values["Variance of the samples", "alarm below"] = [(1, 0.3), (GAN, 0.3)]
    of = page.charts(slsr_shown)
    for (title, name), points in values.items():
        chart = of[title]
        assert len(points) >= 2
        assert [x for x, _ in chart.told[name]] == [x for x, _ in points], (title, name)
        for (_, value), (_, told), (_, drawn) in zip(
            points, chart.told[name], chart.drawn[name], strict=True
        ):
            assert page.value_of(told) == pytest.approx(value, rel=1e-3, abs=6e-4), (title, name)
            assert drawn == pytest.approx(value, abs=chart.resolution), (title, name)


def test_the_losses_of_the_steps_are_of_their_stage(slsr_run, slsr_shown):
    of, steps = page.charts(slsr_shown), slsr_run.steps()
    for title, key, epochs, first in (
        ("Baseline loss", "baseline/loss", range(BASELINE), 0),
        ("Total loss", "train/loss", range(BASELINE + GAN, BASELINE + GAN + 4), BASELINE),
    ):
        means = [slsr_run.metrics()[epoch][key] for epoch in epochs]
        drawn = of[title].drawn["mean of an epoch"]
        assert [y for _, y in drawn] == pytest.approx(means, abs=of[title].resolution)
        assert [x for x, _ in drawn] == [STEPS * (first + i) + (1 + STEPS) / 2 for i in range(len(means))]
        last = [step["loss"] for step in steps if step["epoch"] in epochs][-1]
        assert of[title].legend["of a step"] == f"{last:.2f}"


def test_the_heading_has_the_baseline_beside_the_result(slsr_run, slsr_shown, root):
    header = slsr_shown.one("header")
    assert header.one("h1").text == "SLSR: slsr"
    assert header.one("p", "result").text == "The result: the last epoch, 13"
    before, last = slsr_run.metrics()[BASELINE - 1], slsr_run.metrics()[-1]
    (told,) = [node.text for node in header.all("p") if node.text.startswith("Baseline, epoch 3 ")]
    for name, key in (("mAP", "eval/mAP"), ("rank-1", "eval/rank1"), ("mINP", "eval/mINP")):
        gained = 100 * (last[key] - before[key])
        assert f"{name} {100 * before[key]:.1f}\N{NO-BREAK SPACE}% ({gained:+.1f})" in told
    facts = [li.text for li in header.one("ul", "facts").all("li")]
    for fact in (
        f"data {root}", "set Made-up, version V2", "network resnet10", "generated 120 images of 3 clusters",
        "epochs 13, 3 of them baseline, 6 of them GANs",
    ):  # fmt: skip
        assert fact in facts
    note = note_of(page.section(slsr_shown, "finetuning"), "mAP and rank-1")
    assert note == "Epoch 3 is stage 1's baseline."


def test_the_silhouettes_are_the_papers_table(slsr_shown):
    section = page.section(slsr_shown, "clusters")
    found, percents = image_clusters(), lambda value: f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
    assert table(section, "Silhouette") == [
        ["clusters", "features", "plane"],
        *(
            [f"{k} (used)" if k == CLUSTERS else str(k), percents(features), percents(plane)]
            for k, features, plane in zip(
                found["numbers"], found["silhouette_features"], found["silhouette_plane"], strict=True
            )
        ),
    ]
    assert "3 clusters, of a mean silhouette of 40.1" in section.all("p")[0].text


def test_the_clusters_have_their_images_and_identities(slsr_shown):
    """Counted with sets, identity by identity."""
    found = image_clusters()
    members = [set(found["labels"][found["clusters"] == cluster].tolist()) for cluster in range(CLUSTERS)]
    several = {i for i in range(IDENTITIES) if sum(i in held for held in members) > 1}
    assert 0 < len(several) < IDENTITIES
    section = page.section(slsr_shown, "clusters")
    _, *rows = table(section, "Clusters")
    assert rows == [
        [
            str(cluster), str(size), f"{100 * size / sum(SIZES):.1f}\N{NO-BREAK SPACE}%", str(len(held)),
            str(len(held - several)),
        ]
        for cluster, (size, held) in enumerate(zip(SIZES, members, strict=True))
    ]  # fmt: skip
    said = note_of(section, "Clusters")
    assert f"{len(several)} of {IDENTITIES} identities are in several clusters." in said
    assert "identities with an image in the cluster" in said


def dots(tree: page.Node) -> dict[int, np.ndarray]:
    """The pixels of the dots by their look."""
    found = {}
    for path in tree.all("path", "dots"):
        (look,) = [int(style[1:]) for style in path.classes if re.fullmatch(r"c\d+", style)]
        starts = re.findall(r"M(-?[\d.]+) (-?[\d.]+)", path.attributes["d"])
        found[look] = np.array(starts, float)
    return found


def test_every_image_is_at_its_place_in_the_plane(slsr_shown):
    (figure,) = [
        node for node in slsr_shown.all("figure") if SCATTER in [c.text for c in node.all("figcaption")]
    ]
    svg = figure.one("svg", "chart")
    ticks = {
        style: [
            (float(node.attributes[axis]) - shift, float(node.text))
            for node in svg.all("text", "tick")
            if style in node.classes
        ]
        for style, axis, shift in (("middle", "x", 0.0), ("end", "y", 3.5))
    }
    found, drawn = image_clusters(), dots(svg)
    assert list(drawn) == list(range(CLUSTERS))
    for cluster, pixels in drawn.items():
        points = found["plane"][found["clusters"] == cluster]
        for axis, style in enumerate(("middle", "end")):
            (start, low), *_, (end, high) = ticks[style]
            measured = low + (pixels[:, axis] - start) / (end - start) * (high - low)
            assert measured == pytest.approx(points[:, axis], abs=0.1)
    labels = svg.all("text", "place")
    assert [node.text for node in labels] == ["0", "1", "2"]
    for cluster, node in enumerate(labels):
        middle = np.median(drawn[cluster], axis=0)
        assert float(node.attributes["x"]) == pytest.approx(middle[0], abs=0.2)
        assert float(node.attributes["y"]) - 4.5 == pytest.approx(middle[1], abs=0.2)
    legend = page.charts(slsr_shown)[SCATTER].legend
    assert legend == {f"cluster {cluster}": f"{size} images" for cluster, size in enumerate(SIZES)}
    assert "points are drawn" not in figure.text


def test_of_many_points_a_regular_choice_of_each_group_is_drawn():
    sizes = (20_000, 9_000, 4)
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(size, 2)) for size in sizes]
    clouds = [Cloud(f"group {i}", str(i), points, "many", i % NUM_LOOKS) for i, points in enumerate(groups)]
    text = scatter("Many", clouds, Axes("x", "y"), most=2000, note="Said.")
    tree = page.parse(text)
    counts = [len(pixels) for pixels in dots(tree).values()]
    assert counts == [int(np.ceil(size * 2000 / sum(sizes))) for size in sizes]
    assert counts[2] == 1
    assert f"Said. {sum(counts)} of 29004 points are drawn" in tree.text
    assert len(text) < 60_000
    # Every fifteenth point or so: pixels are linear in these points alone.
    chosen = groups[0][np.arange(counts[0]) * sizes[0] // counts[0]]
    for axis in (0, 1):
        pixels = dots(tree)[0][:, axis]
        line = np.polynomial.Polynomial.fit(chosen[:, axis], pixels, 1)
        assert pixels == pytest.approx(line(chosen[:, axis]), abs=0.1)


def test_the_quality_is_the_records(slsr_shown):
    section = page.section(slsr_shown, "generators")
    _, *rows = table(section, "Quality of the generated images")
    for cluster, row in enumerate(rows):
        found = quality(cluster)
        assert row[:3] == [str(cluster), "40", "40"]
        assert [float(cell) for cell in row[3:]] == pytest.approx(
            [found[key] for key in ("variance_ratio", "frechet", "nearest_real", "real_nearest", "copies")],
            rel=1e-3,
        )
    said = note_of(section, "Quality of the generated images")
    assert "puts 72.5\N{NO-BREAK SPACE}% of the generated ones into their own cluster" in said


def shown_pixels(image: page.Node) -> np.ndarray:
    data = image.attributes["src"].split("base64,")[1]
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"), float)


def test_the_newest_grid_is_above_the_real_images_and_the_earlier_ones_are_folded(slsr_shown):
    figures = page.section(slsr_shown, "generated").all("figure")
    assert [figure.one("figcaption").text for figure in figures] == [
        f"Cluster {cluster}, 40 generated" for cluster in range(CLUSTERS)
    ]
    for cluster, figure in enumerate(figures):
        folded = figure.one("details")
        images, earlier = figure.all("img"), folded.all("img")
        assert [image.attributes["alt"] for image in images] == [
            f"cluster {cluster}: {what}"
            for what in (
                f"samples after epoch {GAN}", "real images", "samples after epoch 2", "samples after epoch 4"
            )
        ]  # fmt: skip
        assert images[2:] == earlier
        assert folded.one("summary").text == "Earlier grids"
        drawn = [grid(10 * cluster + 500, 0.8), grid(100 + cluster, 1.0)]
        drawn += [grid(10 * cluster + 500, 0.8 * epoch / GAN) for epoch in (2, 4)]
        for image, picture in zip(images, drawn, strict=True):
            assert image.attributes["src"].startswith("data:image/png;base64,")
            assert (shown_pixels(image) == np.asarray(picture)).all()
            assert image.attributes["style"] == f"aspect-ratio:{4 * WIDTH}/{4 * HEIGHT}"


def test_a_large_grid_is_reduced_and_re_encoded(tmp_path):
    large = grid(1, 0.9, height=128, width=64, count=12)
    large.save(tmp_path / "large.png")
    text = stored_picture(tmp_path / "large.png", "a grid", most_pixels=200_000)
    assert len(text) < 200_000 < (tmp_path / "large.png").stat().st_size
    image = page.parse(text).one("img")
    assert image.attributes["src"].startswith("data:image/jpeg;base64,")
    pixels = shown_pixels(image)
    height, width, _ = pixels.shape
    assert height * width == pytest.approx(200_000, rel=0.01)
    assert height / width == pytest.approx(2, rel=0.01)
    reduced = np.asarray(large.resize((width, height), Image.Resampling.LANCZOS), float)
    assert np.abs(pixels - reduced).mean() < 10  # another picture: about 60


def test_what_all_methods_show_is_there(slsr_shown, inputs):
    """The paper's figures 5 and 6."""
    record = record_of(inputs.retrieval)
    assert len(page.section(slsr_shown, "lists").all("img")) == 11 * len(record["shown_rows"])
    drawn = page.charts(slsr_shown)["CMC curve of the last epoch"].drawn["found by the last place"]
    assert [y for _, y in drawn] == pytest.approx(record["cmc"].tolist(), abs=0.01)
    assert "None: no epoch shows a sign of collapse." in page.section(slsr_shown, "alarms").text
    assert "gan/cluster_2/variance_ratio" in page.section(slsr_shown, "figures").text


def test_the_same_files_make_the_same_page(slsr_run, inputs):
    before = slsr_run.report.read_bytes()
    write_report(slsr_run, inputs.retrieval)
    assert slsr_run.report.read_bytes() == before
