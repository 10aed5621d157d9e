"""The report of runs of MAR that lack something, or that something is wrong with."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import page
import pytest
from made_up import written
from made_up_mar import LOSSES, SECTIONS, config, figures, mining, multilabels, recorded

from raid.errors import InputError
from raid.evaluate import save_record
from raid.health import mining_alarms, mining_remarks
from raid.report import write_report
from raid.run_folder import RunFolder


@pytest.fixture
def made(source, root, sets, tmp_path):
    """Makes the folder of a run of epochs."""

    def make(epochs: list[dict[str, Any]], *, identities: bool = True, **overrides: Any) -> RunFolder:
        of = config(source, root, tmp_path / "run", **overrides)
        return recorded(of, sets, epochs, identities=identities)

    return make


def all_epochs(**how: Any) -> list[dict[str, Any]]:
    return [figures(epoch, **how) for epoch in range(6)]


@pytest.mark.parametrize(
    ("overrides", "title"),
    [
        ({}, "MAR"),
        ({"losses__cml": False}, "MAR without CML"),
        ({"losses__al": False, "losses__rj": False}, "MAR without RAL"),
        ({"losses__cml": False, "losses__al": False, "losses__rj": False}, "MAR without CML and RAL"),
        ({"losses__mdl": False, "losses__rj": False}, "MAR without MDL and RJ"),
        ({"mining__guide": "feature"}, "Feature-guided (our reading)"),
        ({"multilabel__control": "permuted"}, "MAR, agents permuted (control)"),
        ({"training__epochs": 0}, "Source only"),
    ],
)
def test_the_title_is_the_row_of_the_ablation(made, overrides, title):
    tree = written(made([figures(0), figures(1)], **overrides))
    assert tree.one("header").one("h1").text == f"{title}: run"


def test_the_test_identities_of_an_auxiliary_set_are_named(made):
    facts = written(made([figures(0)], auxiliary="all")).one("header").one("ul", "facts").text
    assert "auxiliary all (with its test identities)" in facts


@pytest.mark.parametrize("off", LOSSES)
def test_a_loss_that_is_off_has_no_chart(made, off):
    losses = tuple(name for name in LOSSES if name != off)
    epochs = all_epochs(losses=losses, mined=off != "mdl")
    tree = written(made(epochs, **{f"losses__{off}": False}))
    titles = " ".join(page.charts(tree))
    assert [name for name in LOSSES if f"({name.upper()}," in titles] == list(losses)
    assert ("Nothing is mined: losses.mdl is off." in page.section(tree, "mining").text) == (off == "mdl")
    assert ("No pair has been recorded." in page.section(tree, "pairs").text) == (off == "mdl")


def test_pairs_of_nobody_known_are_neither_right_nor_wrong(made, sets):
    tree = written(made(all_epochs(identities=False), identities=False), None, sets)
    section = page.section(tree, "mining")
    assert "have no identities, so the pairs cannot be scored" in section.text
    of = page.charts(section)
    assert set(of) == {
        "Pairs mined", "Threshold", "Similar pairs of epoch 4",
        "Similar pairs of epoch 6",
    }  # fmt: skip
    assert of["Similar pairs of epoch 6"].legend == {"not known": "700"}
    items = [item for shown in page.section(tree, "pairs").all("ul", "pairs") for item in shown.all("li")]
    assert len(items) == 12
    for item in items:
        assert item.classes == []
        assert item.one("b").text == "people not known"


def test_the_feature_guided_run_speaks_of_similarity(made):
    tree = written(made(all_epochs(), mining__guide="feature"))
    section = page.section(tree, "mining")
    assert "parted by their feature similarity" in section.text
    assert "Similar pairs of epoch 6" in page.charts(section)
    told = page.section(tree, "pairs").all("li")[0].all("small")
    assert [node.text.split()[0] for node in told] == ["similarity"]


def test_a_run_that_ends_with_the_pretraining(made):
    tree = written(made([figures(0), figures(1)], training__epochs=0))
    assert "This is the source alone" in tree.one("header").text
    assert "training.epochs is 0" in page.section(tree, "losses").text
    assert "No pair has been mined." in page.section(tree, "mining").text
    for anchor in ("agents", "pairs"):
        assert page.section(tree, anchor).all("figure") == []
    assert [node.attributes["id"] for node in tree.all("section")] == SECTIONS


def test_a_run_that_starts_from_a_checkpoint(made, tmp_path):
    epochs = [figures(epoch, pretraining=0) for epoch in range(2)]
    folder = made(epochs, pretraining__checkpoint=str(tmp_path / "pretrained.pt"), training__epochs=3)
    folder.model.unlink()
    tree = written(folder)
    assert "epochs 2 of 3" in [li.text for li in tree.one("header").one("ul", "facts").all("li")]
    assert f"started from {tmp_path / 'pretrained.pt'}" in page.section(tree, "pretraining").text
    assert "Source only" not in tree.one("header").text
    assert page.charts(tree)["Total loss"].drawn["mean of an epoch"][0][0] == 3.0
    assert "source alone" not in page.section(tree, "losses").text


@pytest.mark.parametrize("done", [1, 2, 3, 4])
def test_a_run_that_has_not_ended(made, done):
    folder = made(all_epochs()[:done])
    folder.model.unlink()
    folder.multilabels.unlink(missing_ok=True)
    tree = written(folder)
    facts = [li.text for li in tree.one("header").one("ul", "facts").all("li")]
    assert f"epochs {done} of 6, {min(done, 2)} of them pretraining" in facts
    assert "Not recorded" in page.section(tree, "agents").text
    assert ("No epoch of MAR has been recorded yet." in page.section(tree, "losses").text) == (done <= 2)
    mined = page.section(tree, "mining").text
    assert ("No pair has been mined. The first epoch of MAR mines none." in mined) == (done <= 3)
    assert [node.attributes["id"] for node in tree.all("section")] == SECTIONS


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (0, ""),
        (1, " The first epoch of MAR mines none."),
        (2, " The first 2 epochs of MAR mine none."),
    ],
)
def test_when_mining_begins(made, begin, said):
    section = page.section(written(made([figures(0)], mining__begin=begin)), "mining")
    assert section.one("p").text == f"No pair has been mined.{said}"


def test_one_epoch_that_mined_has_one_histogram(made):
    of = page.charts(page.section(written(made(all_epochs()[:4])), "mining"))
    assert [title for title in of if "Similar pairs of" in title] == ["Similar pairs of epoch 4"]


def test_without_the_images_their_numbers_stand_for_them(mar_run, both, sets):
    try:
        other = replace(sets, target=sets.target.take([0, 1]))
        fewer = replace(sets, source=sets.source.take([0]))
        for training in (None, other, fewer):
            tree = written(mar_run, both.target.retrieval, training)
            for anchor in ("agents", "pairs"):
                section = page.section(tree, anchor)
                assert section.all("img") == []
                assert "not at hand" in section.text
            first = multilabels(sets)["target_rows"][0]
            strip = page.section(tree, "agents").all("ol", "strip")[0]
            assert strip.all("span", "gone")[0].text == f"image {first + 1}"
            pair = mining(5, sets)["positives"][0]["rows"]
            shown = page.section(tree, "pairs").all("li")[0].all("span", "gone")
            assert [node.text for node in shown] == [f"image {row + 1}" for row in pair]
            assert page.section(tree, "lists").all("img")
    finally:
        write_report(mar_run, both.target.retrieval, sets)


def test_alarms_and_remarks_are_those_of_the_health(made, mar_shown):
    assert "None: no epoch" in page.section(mar_shown, "alarms").text
    assert "the guide finds" not in page.section(mar_shown, "mining").text
    epochs = all_epochs()
    epochs[4] |= {"mining/positives": 0.0, "mining/threshold": 1e-4}
    epochs[5] |= {"mining/positive_precision": 0.2}
    tree = written(made(epochs))
    boxes = [node.text for node in page.section(tree, "alarms").all("p", "alarm")]
    expected = list(mining_alarms(epochs[4]))
    assert len(expected) == 2
    assert boxes == [f"⚠ Alarm. Epoch 5: {line}." for line in expected]
    (remark,) = mining_remarks(epochs[5])
    assert f"Epoch 6: {remark}." in [node.text for node in page.section(tree, "mining").all("p")]


def test_many_remarks_do_not_bury_the_charts(made):
    epochs = [figures(epoch) for epoch in range(11)]
    for epoch in epochs[3:]:
        epoch["mining/positive_precision"] = 0.1
    section = page.section(written(made(epochs)), "mining")
    assert section.text.count("the guide finds no positives") == 8
    assert section.one("details").one("summary").text == "3 more remarks"


def test_a_diverged_run_is_drawn(made):
    epochs = all_epochs()[:4]
    nothing = {"train/mdl": np.nan, "mining/threshold": np.nan, "mining/reached": np.inf}
    tree = written(made([*epochs, figures(4) | nothing | {"train/loss": np.nan}]))
    assert "5 of 25 steps have a loss that is not finite" in page.section(tree, "losses").text
    assert "the mean loss (train/loss) is nan" in page.section(tree, "alarms").text
    title = "Similar pairs of epoch 5"
    assert page.charts(tree)[title].legend == {"one person": "300", "two persons": "400"}
    drawn = [
        value for node in tree.walk() for name, value in node.attributes.items() if name in ("d", "x", "y")
    ]
    assert not [value for value in drawn if "nan" in value or "inf" in value]


def spoil_mining(folder: RunFolder) -> None:
    folder._file("mining.jsonl").write_text('{"epoch" 0}\n')


def spoil_histogram(folder: RunFolder) -> None:
    line = folder.mining()[0]
    del line["edges"]
    folder._file("mining.jsonl").write_text(json.dumps(line) + "\n")


def spoil_multilabels(folder: RunFolder) -> None:
    folder.multilabels.write_bytes(b"PK\x03\x04 half")


def spoil_agents(folder: RunFolder) -> None:
    save_record(folder.multilabels, {"target_rows": np.arange(3), "values": np.ones((3, 2))})


def spoil_method(folder: RunFolder) -> None:
    recorded = json.loads(folder._file("run.json").read_text())
    folder._file("run.json").write_text(json.dumps(recorded | {"method": "later"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_mining, r"mining\.jsonl: is damaged"),
        (spoil_histogram, r"mining\.jsonl: line 1 lacks edges"),
        (spoil_multilabels, r"multilabels\.npz: not a record"),
        (spoil_agents, r"multilabels\.npz: lacks agents, source_rows"),
        (spoil_method, "holds a run of later, which this raid cannot show"),
    ],
)
def test_a_run_that_cannot_be_reported_is_one_line(made, spoil, message):
    folder = made(all_epochs())
    spoil(folder)
    with pytest.raises(InputError, match=message) as raised:
        write_report(folder, None)
    assert "\n" not in str(raised.value)
