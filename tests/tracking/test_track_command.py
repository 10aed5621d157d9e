import re
import shutil
import subprocess
import sys

import pytest
import tracked

from raid.cli import main
from raid.tracking.record import Record


def sync(*arguments: object) -> int:
    return main(["track", "sync", *map(str, arguments)])


def test_it_sends_and_says_so(client, runs, folder, capsys):
    other = tracked.opened(runs / "other")
    for each in (folder, other):
        tracked.record(each, 0, 1)
    assert sync(folder.path, other.path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" as run ")[0] for line in lines] == [
        f"{each.path}: sent settings, 2 epochs, 3 files, status; KILLED" for each in (folder, other)
    ]
    assert sync(folder.path) == 0
    assert "nothing new" in capsys.readouterr().out


def test_another_uri(runs, folder, template, tmp_path, capsys):
    shutil.copy(template, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    assert sync(folder.path, "--tracking-uri", uri) == 0
    assert capsys.readouterr().out.endswith(f" at {uri}\n")
    assert tracked.rows(runs)["runs"] == 0


def test_what_is_no_run_is_told_before_anything_is_sent(runs, folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "not the folder")):
        assert sync(folder.path, path) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert re.match(f"raid: {re.escape(str(path))}: .*{message}", captured.err)
    assert tracked.rows(runs)["runs"] == 0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://me:secret@127.0.0.1:9", "Connection refused"),
        ("nonsense://x", ".*nonsense.*"),
        ("sqlite:////dev/null/x.db", "File exists"),
        ("sqlite:////dev", "OperationalError: unable to open database file"),
        ("sqlite:////bin/sh", "DatabaseError: file is not a database"),
    ],
)
def test_an_mlflow_that_cannot_be_reached_is_one_line(folder, capsys, uri, reason):
    tracked.record(folder, 0)
    assert sync(folder.path, "--tracking-uri", uri) == 2
    captured = capsys.readouterr()
    shown = re.escape(uri.replace("secret", "***"))
    told = f"raid: {shown}: {reason}; nothing is lost: everything is in {re.escape(str(folder.path))}\n"
    assert re.fullmatch(told, captured.err), captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tracking.json", "{", "tracking.json: not a file that raid wrote; remove it"),
        ("metrics.jsonl", '{"epoch": x}\n', "metrics.jsonl: holds a line that raid did not write"),
        ("metrics.jsonl", '{"loss": 1}\n', "metrics.jsonl: holds a line that raid did not write"),
        ("config.yaml", "a: [", "config.yaml: not YAML"),
    ],
)
def test_damaged_files_are_one_line(folder, capsys, name, text, message):
    (folder.path / name).write_text(text)
    assert sync(folder.path) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    Record.open(folder.path).close() if name != "tracking.json" else None  # nobody holds it


def test_mlflow_is_imported_by_the_thread_alone():
    program = "import sys\nimport raid.tracking, raid.tracking.sender\nassert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
