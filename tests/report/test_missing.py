"""The report of runs that lack something, and of what users write."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import page
import pytest
import tiny
from made_up import QUALITY, SECTIONS, figures, record_of, recorded, written

from raid.errors import InputError
from raid.evaluate import save_record
from raid.health import alarms
from raid.report import write_report
from raid.run_folder import RunFolder


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
        record = record_of(inputs.retrieval)
        items = [item.text for item in section.all("ol", "strip")[0].all("span", "gone")]
        assert items == [f"image {row + 1}" for row in (record["shown_rows"][0], *record["list_rows"][0])]
        other = replace(inputs.retrieval, gallery=inputs.retrieval.gallery.take([0, 1]))
        assert page.section(written(run, other), "lists").all("img") == []  # not the rows of this set
    finally:
        write_report(run, inputs.retrieval)


def test_an_image_that_has_gone_since_the_training_does_not_cost_the_report(run, inputs):
    class Gone:
        height, width = 32, 16

        def gather(self, rows: np.ndarray) -> Any:
            raise InputError("a.png: there is no such file")

    try:
        section = page.section(written(run, replace(inputs.retrieval, gallery_images=Gone())), "lists")
        assert len(section.all("img")) == 9  # the queries
        assert len(section.all("span", "gone")) == 90
    finally:
        write_report(run, inputs.retrieval)


def test_a_gallery_shorter_than_a_list_ends_the_list(root, inputs, tmp_path):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    record = record_of(inputs.retrieval)
    for key, nothing in (("list_rows", -1), ("list_similarity", np.nan), ("list_right", False)):
        record[key][:, 4:] = nothing
    save_record(folder.evaluation, record)
    strips = page.section(written(folder, inputs.retrieval), "lists").all("ol", "strip")
    assert [len(strip.all("li")) for strip in strips] == [5] * 9


def test_text_of_users_is_escaped(root, inputs, tmp_path):
    bad = "<script>alert('1')</script>\"&amp;"
    config = tiny.config(root, tmp_path / bad.replace("/", "∕"))
    config = replace(config, data=replace(config.data, pattern=f"(?P<camera>{bad})"))
    folder = recorded(
        config, inputs, [figures(0) | {f"quality/{bad}": 1.0, "note": bad, f"time/{bad}_s": 2.0}]
    )
    record = record_of(inputs.retrieval) | {"camera_names": np.array([bad, "<b>", "c"])}
    save_record(folder.evaluation, record)
    tree = written(folder, inputs.retrieval)
    page.check_policy(tree)
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
