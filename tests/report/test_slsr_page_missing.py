"""The report of runs of SLSR that lack something, or that something is wrong with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import page
import pytest
from made_up import written
from made_up_slsr import BASELINE, SECTIONS, config, draw_gan, epochs, image_clusters, opened, recorded

from raid.errors import InputError
from raid.evaluate import load_record, save_record
from raid.health import slsr_alarms
from raid.report import write_report
from raid.run_folder import RunFolder


@pytest.fixture
def begun(root, tmp_path) -> Callable[..., RunFolder]:
    """Makes the folder of a run of epochs without clusters and GANs."""
    return lambda lines, **overrides: opened(config(root, tmp_path / "run", **overrides), lines)


@pytest.fixture
def made(root, tmp_path) -> Callable[..., RunFolder]:
    """Makes the folder of a whole run."""
    return lambda **overrides: recorded(config(root, tmp_path / "run", **overrides), epochs())


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ({"generated__label": "uniform"}, "LSRO"),
        ({"generated__label": "all_in_one"}, "All in one"),
        ({"generated__label": "none"}, "Matched baseline"),
        ({"generated__label": "none", "finetuning__label_smoothing": 0.1}, "LSR"),
        ({"generated__control": "permuted"}, "SLSR, clusters permuted (control)"),
        ({"finetuning__epochs": 0}, "Baseline"),
    ],
)
def test_the_title_is_the_row_of_the_table(begun, overrides, title):
    tree = written(begun(epochs(), **overrides))
    assert tree.one("header").one("h1").text == f"{title}: run"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, "by the identities of its cluster, each as likely as the others (eq. 9)."),
        ({"generated__label": "uniform"}, "by all identities alike (LSRO)."),
        ({"generated__label": "all_in_one"}, "as a class of its own"),
        ({"generated__control": "permuted"}, "of another cluster: a control"),
    ],
)
def test_how_generated_images_are_labelled_is_said(begun, overrides, said):
    assert said in page.section(written(begun(epochs(), **overrides)), "finetuning").text


def test_a_run_that_generates_nothing_says_so(begun):
    folder = begun(epochs(gans=False, generated=False), generated__label="none")
    folder.model.write_text("a model")
    tree = written(folder)
    for anchor in ("clusters", "generators", "generated", "finetuning"):
        assert "generated.label is none" in page.section(tree, anchor).text
    of = page.charts(tree)
    assert list(of["Accuracy"].legend) == list(of["Loss by kind of image"].legend) == ["real"]
    assert not [title for title in of if title.startswith("Losses of")]
    assert "generated" not in tree.one("header").one("ul", "facts").text
    assert [node.attributes["id"] for node in tree.all("section")] == SECTIONS


def test_a_run_that_ends_with_the_baseline_says_so(begun):
    folder = begun(epochs(gans=False, finetuning=0), finetuning__epochs=0)
    folder.model.write_text("a model")
    tree = written(folder)
    for anchor in ("clusters", "generators", "generated", "finetuning"):
        assert "finetuning.epochs is 0" in page.section(tree, anchor).text
    assert "mAP and rank-1" in page.charts(page.section(tree, "finetuning"))
    header = tree.one("header")
    assert "This is stage 1, the baseline: no generated image has been trained on." in header.text
    assert "epochs 3, 3 of them baseline" in header.one("ul", "facts").text


def test_a_run_in_stage_1_says_what_is_not_there_yet(begun):
    tree = written(begun(epochs(evaluated=False)[:2]))
    assert "epochs 2 of 13, 2 of them baseline" in tree.one("header").one("ul", "facts").text
    assert "not been clustered yet" in page.section(tree, "clusters").text
    assert "No GAN has begun yet." in page.section(tree, "generators").text
    assert "No picture has been drawn yet." in page.section(tree, "generated").text
    finetuning = page.section(tree, "finetuning").text
    assert "No epoch of fine-tuning has been recorded yet." in finetuning
    assert "Nothing has been evaluated" in finetuning


@pytest.mark.parametrize(
    ("overrides", "planned"),
    [
        ({}, 13),
        ({"baseline__checkpoint": "other.pt"}, 10),
        ({"gan__parent": "all_images"}, 19),
        ({"generated__folder": "other"}, 7),
        ({"generated__label": "none"}, 7),
        ({"finetuning__epochs": 0}, 3),
    ],
)
def test_the_epochs_of_an_unfinished_run_are_counted(begun, overrides, planned):
    tree = written(begun(epochs()[:1], **overrides))
    assert f"epochs 1 of {planned}, 1 of them baseline" in tree.one("header").one("ul", "facts").text


def test_a_baseline_that_was_taken_is_named(begun):
    tree = written(begun(epochs()[BASELINE:], baseline__checkpoint="other.pt"))
    assert "is in this run: the run took other.pt." in page.section(tree, "baseline").text


def test_gans_that_have_not_ended_are_shown_as_far_as_they_are(begun):
    folder = begun(epochs()[:5], gan__min_images=16)
    save_record(folder.clusters, image_clusters((45, 30, 15)))
    draw_gan(folder, -1)
    draw_gan(folder, 0, done=3)
    with (folder.gans / "cluster_00" / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 3, "re')  # the process is writing it
    tree = written(folder)
    section = page.section(tree, "generators")
    remarks = [node.text for node in section.all("p", "muted")]
    assert "Cluster 0: 3 of 6 epochs are done." in remarks
    assert "Cluster 1: its GAN has not begun yet." in remarks
    assert "Cluster 2: no GAN, for it has 15 images and gan.min_images is 16." in remarks
    assert "is measured when they have generated" in section.text
    of = page.charts(section)
    assert set(of) == {"Variance of the samples", "Losses of the parent", "Losses of cluster 0"}
    assert len(of["Losses of cluster 0"].told["G"]) == 3
    pictures = page.section(tree, "generated")
    assert [figure.one("figcaption").text for figure in pictures.all("figure")] == ["Parent", "Cluster 0"]
    assert pictures.all("figure")[1].all("img")[0].attributes["alt"] == "cluster 0: samples after epoch 2"


def test_a_gan_before_its_first_epoch_is_shown(begun):
    folder = begun(epochs()[:3])
    save_record(folder.clusters, image_clusters())
    (folder.gans / "cluster_01").mkdir(parents=True)
    tree = written(folder)
    assert "Cluster 1: 0 of 6 epochs are done." in page.section(tree, "generators").text
    assert "No picture has been drawn yet." in page.section(tree, "generated").text


def test_of_many_grids_some_are_kept(begun):
    folder = begun(epochs())
    save_record(folder.clusters, image_clusters())
    draw_gan(folder, 0, done=20, of=20, every=1, height=16, width=16)
    figure = page.section(written(folder), "generated").one("figure")
    assert figure.one("summary").text == "6 of 19 earlier grids"
    shown = [
        image.attributes["alt"].removeprefix("cluster 0: ") for image in figure.one("details").all("img")
    ]
    assert shown == [f"samples after epoch {epoch}" for epoch in (1, 4, 7, 10, 13, 16)]
    assert figure.all("img")[0].attributes["alt"] == "cluster 0: samples after epoch 20"


def test_a_page_with_large_grids_stays_small(begun):
    folder = begun(epochs())
    save_record(folder.clusters, image_clusters())
    draw_gan(folder, 0, done=8, of=8, every=1, height=128, width=128, count=8)
    write_report(folder, None)
    on_disk = sum(path.stat().st_size for path in folder.gans.rglob("*.png"))
    assert folder.report.stat().st_size < 800_000 < on_disk


def test_alarms_are_the_results_and_the_healths(made):
    folder = made()
    path = folder.gans / "cluster_01" / "result.json"
    result = json.loads(path.read_text()) | {"alarms": ["samples are all alike.", "another"]}
    path.write_text(json.dumps(result))
    bad = {"epoch": 13, "train/loss": float("nan"), "gan/cluster_2/fake": float("inf"), "baseline/loss": None}
    bad |= {"gan/cluster_2/variance_ratio": float("nan")}
    folder.record_epoch(bad, [float("nan")])
    tree = written(folder)
    found = list(slsr_alarms(bad))
    assert found == [
        "the mean loss (train/loss) is nan: the training diverged",
        "the mean loss (gan/cluster_2/fake) is inf: the training diverged",
    ]
    assert [node.text for node in page.section(tree, "alarms").all("p", "alarm")] == [
        *(f"⚠ Alarm. Epoch 14: {line}." for line in found),
        "⚠ Alarm. Cluster 1: samples are all alike.",
        "⚠ Alarm. Cluster 1: another.",
    ]


def test_bad_quality_is_marked_and_what_is_not_known_is_a_dash(made):
    folder = made()
    facts = json.loads(folder.generated_facts.read_text())
    facts["quality"][1] |= {"variance_ratio": 0.1, "copies": 2, "frechet": None}
    folder.generated_facts.write_text(json.dumps(facts | {"own_cluster": None}))
    section = page.section(written(folder), "generators")
    rows = [[cell.text for cell in row.children] for row in section.one("table").all("tr")]
    assert rows[2] == ["1", "40", "40", "⚠ 0.1", "–", "22.25", "10.5", "⚠ 2"]
    assert "⚠" not in "".join(rows[1])
    assert "into their own cluster" not in section.text


def test_identities_count_from_min_images_on(made):
    of = image_clusters()
    tree = written(made(generated__min_images=9))
    cells = [row.all("td")[2].text for row in page.section(tree, "clusters").all("tbody")[0].all("tr")]
    counts = [np.bincount(of["labels"][of["clusters"] == cluster]) for cluster in range(3)]
    assert cells == [str((count >= 9).sum()) for count in counts]
    assert "identities with at least 9 images" in page.section(tree, "clusters").text
    assert "in none." in page.section(tree, "clusters").text


def test_a_run_with_one_cluster_is_shown(begun):
    folder = begun(epochs(), clusters__num_clusters=1)
    one = image_clusters((40,)) | {name: np.zeros(0) for name in ("silhouette_features", "silhouette_plane")}
    save_record(folder.clusters, one | {"numbers": np.zeros(0, int), "silhouette": np.array(0.0)})
    section = page.section(written(folder), "clusters")
    assert "1 clusters" in section.text
    assert [node.text for node in section.all("caption")] == ["Clusters"]


def spoil_clusters(folder: RunFolder) -> None:
    folder.clusters.write_bytes(b"PK\x03\x04 half")


def lack_of_clusters(folder: RunFolder) -> None:
    folder.clusters.unlink()


def another_plane(folder: RunFolder) -> None:
    save_record(folder.clusters, load_record(folder.clusters) | {"plane": np.zeros((3, 2))})


def no_labels(folder: RunFolder) -> None:
    kept = load_record(folder.clusters)
    save_record(folder.clusters, {key: kept[key] for key in kept if key not in ("labels", "numbers")})


def infinite_plane(folder: RunFolder) -> None:
    found = load_record(folder.clusters)
    found["plane"][3] = np.nan
    save_record(folder.clusters, found)


def of_gan(name: str, content: str | None) -> Callable[[RunFolder], None]:
    def spoil(folder: RunFolder) -> None:
        path: Path = folder.gans / "cluster_01" / name
        path.unlink() if content is None else path.write_text(content)

    return spoil


def no_grid(folder: RunFolder) -> None:
    for path in (folder.gans / "cluster_01").glob("grid_*.png"):
        path.unlink()


def half_a_grid(folder: RunFolder) -> None:
    path = folder.gans / "cluster_01" / "grid_00006.png"
    path.write_bytes(path.read_bytes()[:1000])


def facts(**changes: Any) -> Callable[[RunFolder], None]:
    def spoil(folder: RunFolder) -> None:
        found = json.loads(folder.generated_facts.read_text()) | changes
        kept = {key: value for key, value in found.items() if value is not None}
        folder.generated_facts.write_text(json.dumps(kept))

    return spoil


def no_facts(folder: RunFolder) -> None:
    folder.generated_facts.write_text('{"counts" ')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_clusters, r"clusters\.npz: is damaged"),
        (lack_of_clusters, r"clusters\.npz: is missing, though later stages have begun"),
        (another_plane, r"clusters\.npz: its arrays do not fit together"),
        (infinite_plane, r"clusters\.npz: its arrays do not fit together"),
        (no_labels, r"clusters\.npz: lacks labels, numbers"),
        (of_gan("epochs.jsonl", '{"epoch" 0}\n'), r"cluster_01/epochs\.jsonl: is damaged"),
        (of_gan("epochs.jsonl", '{"real": 1.0}\n'), r"cluster_01/epochs\.jsonl: line 1 lacks epoch"),
        (of_gan("epochs.jsonl", None), r"cluster_01/epochs\.jsonl: is missing, though the GAN is done"),
        (of_gan("result.json", None), r"cluster_01/result\.json: is missing, though the GAN is done"),
        (of_gan("result.json", "{"), r"cluster_01/result\.json: is damaged"),
        (of_gan("result.json", "[]"), r"cluster_01/result\.json: is damaged: it holds no record"),
        (of_gan("result.json", '{"epochs": 3}'), r"cluster_01/result\.json: lacks alarms or epochs"),
        (of_gan("real.png", None), r"cluster_01/real\.png: is missing, though the GAN is done"),
        (of_gan("real.png", "no picture"), r"cluster_01/real\.png: no picture that can be read"),
        (no_grid, r"cluster_01/grid_\*\.png: is missing, though the GAN is done"),
        (half_a_grid, r"cluster_01/grid_00006\.png: no picture that can be read"),
        (no_facts, r"generated\.json: is damaged"),
        (facts(counts=None), r"generated\.json: lacks counts"),
        (facts(counts=["many"]), r"generated\.json: its counts are no numbers"),
        (facts(quality=[{"cluster": 0}]), r"generated\.json: a cluster's quality lacks samples, variance"),
        (facts(quality=[3]), r"generated\.json: a cluster's quality lacks cluster, samples"),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(made, spoil, message):
    folder = made()
    spoil(folder)
    with pytest.raises(InputError, match=message) as raised:
        write_report(folder, None)
    assert "\n" not in str(raised.value)
    assert str(folder.path) in str(raised.value)
    assert not folder.report.exists()
