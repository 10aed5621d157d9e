import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from raid.config import Schema, load
from raid.errors import InputError
from raid.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Recipe(Schema):
    """A configuration of more fields than a refusal shows."""

    flour: Annotated[int, "grams"] = 500
    water: Annotated[int, "grams"] = 350
    salt: Annotated[int, "grams"] = 10
    yeast: Annotated[int, "grams"] = 5
    oil: Annotated[int, "grams"] = 0
    sugar: Annotated[int, "grams"] = 0
    oven: Annotated[str, "which one"] = "left"

    NOT_IN_HASH = ("oven",)


CONFIG = Recipe()


def opened(
    path: Path, config: Recipe = CONFIG, data: str | dict[str, str] = "images", **how: Any
) -> RunFolder:
    return RunFolder.open(path, config, data, **{"method": "icsr", "resume": False, "fresh": False, **how})


def fill(folder: RunFolder) -> None:
    """Put everything there that a run leaves."""
    folder.record_epoch({"epoch": 0, "train/loss": 1.5}, [1.0, 2.0], {"same": [3, 4]})
    folder.record_camera({"camera": 2, "seconds": 3.5})
    for place in (folder.local, folder.checkpoints):
        place.mkdir()
        (place / "file").write_text("x")
    for file in (folder.local_labels, folder.model, folder.evaluation, folder.multilabels, folder.report):
        file.write_text("x")
    (folder.path / "pretrained.pt").write_text("x")


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = opened(tmp_path / "run")
    fill(folder)
    return folder


def test_a_new_folder_holds_the_configuration_and_its_identity(tmp_path):
    folder = opened(tmp_path / "deep" / "run", replace(CONFIG, salt=12))
    assert load(Recipe, folder.path / "config.yaml") == replace(CONFIG, salt=12)
    assert sorted(contents(folder.path)) == ["attempt", "config.yaml", "run.json"]
    assert (folder.metrics(), folder.steps(), folder.mining()) == ([], [], [])


def test_the_latest_record_of_a_camera_counts(run):
    run.record_camera({"camera": 0, "seconds": 1.0})
    run.record_camera({"camera": 2, "seconds": 4.5})
    assert run.cameras() == [{"camera": 2, "seconds": 4.5}, {"camera": 0, "seconds": 1.0}]
    with (run.path / "cameras.jsonl").open("a") as file:
        file.write('{"camera": 1, "sec')  # a killed run
    assert len(run.cameras()) == 2


@pytest.mark.parametrize("how", ["resume", "fresh"])
def test_where_nothing_is_yet_both_ways_begin_a_run(tmp_path, how):
    (tmp_path / "run").mkdir()
    assert opened(tmp_path / "run", **{how: True}).path == tmp_path / "run"
    assert sorted(contents(tmp_path / "run")) == ["attempt", "config.yaml", "run.json"]


def refused(attempt: Callable[[], object], run: RunFolder, message: str) -> str:
    before = contents(run.path)
    with pytest.raises(InputError, match=message) as raised:
        attempt()
    assert contents(run.path) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_run_is_neither_gone_on_with_nor_written_over_unasked(run):
    message = refused(lambda: opened(run.path), run, "holds a run")
    assert "--resume" in message
    assert "--fresh" in message


def test_resume_keeps_everything_and_notes_what_may_change(run):
    before = contents(run.path)
    again = opened(run.path, replace(CONFIG, oven="right"), resume=True)
    after = contents(again.path)
    differing = {name for name in after if after[name] != before.get(name)}
    assert differing == {"config.yaml", "attempt"}
    assert load(Recipe, run.path / "config.yaml").oven == "right"
    assert again.metrics() == [{"epoch": 0, "train/loss": 1.5}]


@pytest.mark.parametrize("how", ["resume", "fresh"])
def test_whoever_opened_it_before_records_nothing_any_more(run, how):
    again = opened(run.path, **{how: True})
    assert again.is_ours()
    assert not run.is_ours()
    before = contents(run.path)
    with pytest.raises(InputError, match=r"another process has opened .* since, and goes on with it"):
        run.record_epoch({"epoch": 1}, [1.0])
    assert contents(run.path) == before
    again.record_epoch({"epoch": 1}, [1.0])
    assert RunFolder(run.path).is_ours()  # as of all who only read


def test_a_run_that_is_cleared_is_nobody_s(run):
    (run.path / "attempt").unlink()
    assert not run.is_ours()


def test_another_configuration_is_refused_with_the_old_and_the_new_values(run):
    other = replace(CONFIG, salt=12, flour=400, oven="right")
    message = refused(lambda: opened(run.path, other, resume=True), run, "another configuration")
    assert "(flour was 500, is 400, salt was 10, is 12)" in message
    assert "oven" not in message  # it may change
    assert "--fresh" in message


def test_of_many_changes_five_are_shown_and_the_rest_counted(run):
    other = Recipe(flour=1, water=1, salt=1, yeast=1, oil=1, sugar=1, oven="right")
    message = refused(lambda: opened(run.path, other, resume=True), run, "another configuration")
    assert message.count(" was ") == 5 + 1  # and "was made with"
    assert "and 1 more" in message


def test_a_field_that_is_new_or_gone_is_a_change(run):
    @dataclass(frozen=True, kw_only=True)
    class Later(Schema):
        flour: int = 500
        crust: str | None = "thin"

    path, identity = run.path, {"method": "icsr", "resume": True, "fresh": False}
    message = refused(
        lambda: RunFolder.open(path, Later(), "images", **identity), run, "another configuration"
    )
    assert "crust was None, is 'thin'" in message
    assert "salt was 10, is None" in message


def test_other_images_are_refused(run):
    message = refused(lambda: opened(run.path, data="others", resume=True), run, r"^data\.root: .*differ")
    assert "--fresh" in message


def test_of_several_things_that_a_run_is_made_of_the_one_that_differs_is_named(tmp_path):
    made_of = {"data.root": "these", "source.root": "those"}
    run = opened(tmp_path / "run", data=made_of)
    assert run.recorded()["data"] == made_of
    assert opened(run.path, data=made_of, resume=True).path == run.path
    for other, message in (
        ({"data.root": "others"}, r"^data\.root: the images differ"),
        ({"source.root": "others"}, r"^source\.root: the images differ"),
        ({"start.checkpoint": "a"}, r"^start\.checkpoint: is not the file that"),
    ):
        refused(lambda other=other: opened(run.path, data=made_of | other, resume=True), run, message)


@pytest.mark.parametrize("recorded", ["icsr", "mar"])
def test_the_run_of_another_method_is_refused(tmp_path, recorded):
    run = opened(tmp_path / "run", method=recorded)
    assert run.recorded()["method"] == recorded
    assert opened(run.path, method=recorded, resume=True).recorded()["method"] == recorded
    other = {"icsr": "mar", "mar": "icsr"}[recorded]
    for config in (CONFIG, replace(CONFIG, salt=12)):  # before the configuration, which differs all through
        message = refused(
            lambda config=config: opened(run.path, config, method=other, resume=True),
            run,
            f"^run.folder: .* holds a run of {recorded}, not of {other}",
        )
        assert "--fresh" in message
    refused(lambda: opened(run.path, method=other), run, "holds a run")
    assert opened(run.path, method=other, fresh=True).recorded()["method"] == other


def test_a_run_of_a_raid_that_knew_one_method_is_of_that_one(run):
    old = json.loads((run.path / "run.json").read_text())
    del old["method"]
    (run.path / "run.json").write_text(json.dumps(old))
    assert run.recorded()["method"] == "icsr"
    refused(lambda: opened(run.path, method="mar", resume=True), run, "holds a run of icsr, not of mar")
    assert opened(run.path, resume=True).path == run.path


def test_fresh_clears_what_a_run_wrote_and_leaves_what_is_not_its_own(run):
    (run.path / "notes.txt").write_text("mine")
    (run.path / "evaluation_market1501.json").write_text("of the model that goes")
    (run.path / "figures").mkdir()
    (run.path / "figures" / "loss.png").write_text("mine")
    opened(run.path, replace(CONFIG, salt=12), "others", fresh=True)
    assert sorted(contents(run.path)) == [
        "attempt", "config.yaml", "figures/loss.png", "notes.txt", "run.json",
    ]  # fmt: skip
    assert not run.local.exists()
    assert not run.checkpoints.exists()
    assert load(Recipe, run.path / "config.yaml").salt == 12


def test_clearing_that_is_cut_off_leaves_a_folder_known_as_a_run(run, monkeypatch):
    # Without run.json the checkpoints that are left would be taken for those of the next run.
    unlink, deleted = Path.unlink, []

    def dying(path: Path, missing_ok: bool = False) -> None:
        deleted.append(path.name)
        unlink(path, missing_ok=missing_ok)
        if path.name == "metrics.jsonl":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(KeyboardInterrupt):
        opened(run.path, replace(CONFIG, salt=12), fresh=True)
    monkeypatch.undo()
    assert "metrics.jsonl" in deleted
    with pytest.raises(InputError, match="holds a run"):
        opened(run.path, replace(CONFIG, salt=12))
    assert not run.checkpoints.exists()  # before the records: a resumed run makes those from its checkpoint
    opened(run.path, replace(CONFIG, salt=12), fresh=True)
    assert sorted(contents(run.path)) == ["attempt", "config.yaml", "run.json"]


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"fresh": True}])
@pytest.mark.parametrize("name", ["config.yaml", "checkpoints", "model.pt"])
def test_files_of_nobody_knows_which_run_are_neither_used_nor_cleared(tmp_path, name, how):
    file = tmp_path / name if "." in name else tmp_path / name / "epoch_00003_step_0000000.pt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    refused(lambda: opened(tmp_path, **how), RunFolder(tmp_path), f"holds {name} and no run.json")


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"fresh": True}])
@pytest.mark.parametrize("text", ['{"run": 1}', "[]", "{", ""])
def test_a_run_json_of_another_program_is_refused(tmp_path, text, how):
    (tmp_path / "run.json").write_text(text)
    refused(lambda: opened(tmp_path, **how), RunFolder(tmp_path), r"run\.json is not a file that raid wrote")


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    refused(
        lambda: opened(tmp_path / "file" / below),
        RunFolder(tmp_path),
        r"^run\.folder: .*cannot be written: .*; choose another",
    )


def test_what_determines_the_result_is_read_back(run):
    recorded = run.recorded()
    assert recorded["data"] == "images"
    assert recorded["config"]["flour"] == 500
    assert "oven" not in recorded["config"]


def test_what_the_set_is_is_recorded_and_changes_nothing(tmp_path):
    facts = {"set": "MSMT17", "version": "V1"}
    folder = opened(tmp_path / "run", facts=facts)
    assert folder.recorded()["set"] == facts
    assert opened(tmp_path / "run", resume=True).recorded()["set"] == {}
    old = json.loads((folder.path / "run.json").read_text())
    del old["set"]  # as raid wrote it before
    (folder.path / "run.json").write_text(json.dumps(old))
    assert folder.recorded()["set"] == {}
    assert opened(tmp_path / "run", resume=True, facts=facts).recorded()["set"] == facts


def test_a_folder_without_a_run_has_nothing_to_read_back(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        RunFolder(tmp_path / "none").recorded()
    with pytest.raises(InputError, match=r"no run\.json"):
        RunFolder(tmp_path).recorded()


def test_records_are_read_back_in_order(run):
    run.record_epoch({"epoch": 1, "eval/mAP": 0.25}, [0.5])
    assert run.metrics() == [{"epoch": 0, "train/loss": 1.5}, {"epoch": 1, "eval/mAP": 0.25}]
    assert run.steps() == [
        {"epoch": 0, "step": 0, "loss": 1.0},
        {"epoch": 0, "step": 1, "loss": 2.0},
        {"epoch": 1, "step": 0, "loss": 0.5},
    ]
    assert run.mining() == [{"epoch": 0, "same": [3, 4]}]  # epoch 1 mined nothing
    run.record_epoch({"epoch": 2}, [0.5], {"epoch": 2, "same": [5, 6]})
    assert run.mining()[1:] == [{"epoch": 2, "same": [5, 6]}]


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_forgetting_drops_an_epoch_and_what_comes_after(run, epoch):
    for number in (1, 2):
        run.record_epoch({"epoch": number}, [0.5], {"same": [number]})
    metrics, steps, mining = run.metrics(), run.steps(), run.mining()
    run.forget_from(epoch)
    assert run.metrics() == metrics[:epoch]
    assert run.steps() == steps[: 0 if epoch == 0 else epoch + 1]
    assert run.mining() == mining[:epoch]
    assert [path.name for path in run.path.iterdir() if path.name.startswith(".")] == []


def test_forgetting_where_nothing_is_recorded(tmp_path):
    folder = opened(tmp_path / "run")
    folder.forget_from(0)
    assert (folder.metrics(), folder.steps(), folder.mining()) == ([], [], [])


def test_half_a_last_line_is_passed_over_and_not_written_on_to(run):
    line = json.dumps({"epoch": 1, "step": 0, "loss": 0.5})
    for cut in range(1, len(line)):
        file = run.path / "steps.jsonl"
        file.write_text(file.read_text() + line[:cut])
        assert len(run.steps()) == 2, line[:cut]
        run.forget_from(1)
        run.record_epoch({"epoch": 1}, [0.25])
        assert [step["loss"] for step in run.steps()] == [1.0, 2.0, 0.25]
        run.forget_from(1)
