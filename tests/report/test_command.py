"""`raid report`, and what cannot be reported."""

import made_up_mar
import page
import pytest
import tiny
from made_up import figures, recorded

from raid.cli import main
from raid.commands.command_line import EXIT_INPUT_ERROR
from raid.errors import InputError
from raid.report import write_report
from raid.run_folder import RunFolder


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


def test_the_command_writes_the_page_of_mar_anew(mar_run, capsys):
    before = mar_run.report.read_bytes()
    mar_run.report.write_text("old")
    assert reported(capsys, mar_run.path) == (0, f"{mar_run.report}\n", "")
    assert mar_run.report.read_bytes() == before


def num_pictures(folder: RunFolder) -> dict[str, int]:
    tree = page.read(folder.report)
    return {name: len(page.section(tree, name).all("img")) for name in ("agents", "pairs", "lists")}


def test_the_command_finds_a_source_that_has_moved(root, both, sets, tmp_path, capsys):
    moved = tiny.write_source(tmp_path / "source")
    config = made_up_mar.config(moved, root, tmp_path / "run")
    epochs = [made_up_mar.figures(epoch) for epoch in range(6)]
    folder = made_up_mar.recorded(
        config, sets, epochs, fingerprint=both.fingerprint(config), retrieval=both.target.retrieval
    )
    moved.rename(tmp_path / "elsewhere")
    status, _, err = reported(capsys, folder.path)
    assert status == 0
    assert err.startswith("the report is without pictures: ")
    assert "set source.root" in err
    assert num_pictures(folder) == {"agents": 0, "pairs": 0, "lists": 0}
    assert reported(capsys, folder.path, f"source.root={tmp_path / 'elsewhere'}")[2] == ""
    assert num_pictures(folder) == {"agents": 28, "pairs": 24, "lists": 99}


def test_the_command_shows_no_pictures_of_another_source(root, both, sets, tmp_path, capsys):
    other = tiny.write_source(tmp_path / "other", num_identities=7)
    config = made_up_mar.config(other, root, tmp_path / "run")
    folder = made_up_mar.recorded(
        config, sets, [made_up_mar.figures(3)], fingerprint=both.fingerprint(config)
    )
    status, _, err = reported(capsys, folder.path)
    assert status == 0
    assert "not the images" in err
    assert num_pictures(folder) == {"agents": 0, "pairs": 0, "lists": 0}


def test_the_checkpoint_that_a_run_started_from_may_be_gone(source, root, both, sets, tmp_path, capsys):
    checkpoint = tmp_path / "pretrained.pt"
    checkpoint.write_bytes(b"weights")
    config = made_up_mar.config(source, root, tmp_path / "run", pretraining__checkpoint=str(checkpoint))
    epochs = [made_up_mar.figures(epoch, pretraining=0) for epoch in range(2)]
    folder = made_up_mar.recorded(config, sets, epochs, fingerprint=both.fingerprint(config))
    assert reported(capsys, folder.path)[2] == ""
    assert num_pictures(folder)["pairs"] == 24
    checkpoint.unlink()
    status, _, err = reported(capsys, folder.path)
    assert status == 0
    assert str(checkpoint) in err
    assert num_pictures(folder)["pairs"] == 0


def test_images_that_nothing_of_mar_shows_are_not_opened(source, root, sets, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("raid.methods.reporting.open_mar_inputs", lambda config: pytest.fail("opened"))
    config = made_up_mar.config(source, root, tmp_path / "run")
    folder = made_up_mar.recorded(config, sets, [made_up_mar.figures(0)])
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


def test_what_is_done_is_not_overridden(run, mar_run, capsys):
    for path, text, sections in (
        (run.path, "inter.epochs=7", "data"),
        (run.path, "source.root=/a", "data"),
        (mar_run.path, "training.epochs=7", "data and source"),
    ):
        status, _, err = reported(capsys, path, text)
        assert status == EXIT_INPUT_ERROR
        assert f"section {sections} alone" in err


def test_a_page_that_cannot_be_written_is_one_line(root, inputs, tmp_path, capsys):
    folder = recorded(tiny.config(root, tmp_path / "run"), inputs, [figures(0)])
    folder.report.mkdir()
    with pytest.raises(InputError, match=r"report\.html: cannot be written"):
        write_report(folder, None)
