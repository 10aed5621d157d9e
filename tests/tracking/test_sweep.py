"""The run of a sweep and the trials that are nested in it, at a database; tests/cluster has a server."""

import itertools
import logging
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tracked
from mlflow import MlflowClient
from mlflow.entities import Run

from raid import tracking
from raid.cli import main
from raid.errors import InputError
from raid.methods import launch
from raid.run_folder import RunFolder
from raid.tracking import parent, place, sweep
from raid.tracking.record import SWEEP, Record
from raid.tracking.sweep import Parent, Trial, close_trials

DRIVER = """
import sys, time
from pathlib import Path
from raid.tracking import follower
from raid.tracking.sweep import Parent
follower.POLL_S = 0.05
parent = Parent.open(Path(sys.argv[1]), sys.argv[2], "raid", "a sweep", {"trials": "4"}, {})
for step in range(3):
    parent.log({"best": step}, step)
print(parent.run_id, flush=True)
time.sleep(120)
"""


@pytest.fixture
def uri(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


@pytest.fixture
def path(runs: Path) -> Path:
    return runs / "project" / "sweep"


@pytest.fixture
def dead() -> str:
    """A server that is down."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def opened(path: Path, uri: str, **params: str) -> Parent:
    return Parent.open(path, uri, "raid", "a sweep", {"trials": "4", **params}, {"method": "icsr"})


def values(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def by_name(client: MlflowClient) -> dict[str, Run]:
    return {run.info.run_name: run for run in tracked.all_runs(client)}


def test_a_sweep_and_its_trials(client, path, uri, tmp_path):
    begun = int(time.time() * 1000)
    parent = opened(path, uri)
    for number in (1, 2):
        folder = tracked.opened(path / f"trial{number}", track__parent=parent.run_id)
        config = tracked.configured(folder.path, track__parent=parent.run_id)
        with launch.tracked(config, folder, "icsr"):
            tracked.record(folder, 0, 1)
            parent.log({"best/eval/mAP": number / 10, "trials/done": number, "text": "no number"}, number)
            tracked.until(lambda number=number: "best/eval/mAP" in by_name(client)["a sweep"].data.metrics)
    (path / "plots").mkdir()
    for file in (path / "best.json", path / "plots" / "a.html", tmp_path / "elsewhere.txt"):
        file.write_text(file.name)
    files = [path / "best.json", path / "plots" / "a.html", tmp_path / "elsewhere.txt", path / "missing"]
    assert parent.end("FINISHED", files, {"best_trial": "trial2"}, 10)

    runs = by_name(client)
    assert sorted(runs) == ["a sweep", "trial1", "trial2"]
    run = runs["a sweep"]
    assert (run.info.status, run.info.run_id) == ("FINISHED", parent.run_id)
    assert begun <= run.info.start_time < run.info.end_time
    assert run.data.params == {"trials": "4"}
    expected = {"method": "icsr", "best_trial": "trial2", "raid_version": "0.1.0", "run_folder": str(path)}
    assert {name: run.data.tags[name] for name in expected} == expected
    assert values(client, run, "best/eval/mAP") == [(1, 0.1), (2, 0.2)]
    assert values(client, run, "trials/done") == [(1, 1.0), (2, 2.0)]
    assert "text" not in run.data.metrics
    found = [file.path for name in ("", "plots") for file in client.list_artifacts(run.info.run_id, name)]
    assert found == ["best.json", "elsewhere.txt", "plots", "plots/a.html"]
    for number in (1, 2):
        trial = runs[f"trial{number}"]
        assert trial.data.tags["mlflow.parentRunId"] == parent.run_id
        assert trial.data.tags["method"] == "icsr"
        assert not [name for name in trial.data.params if "parent" in name]
        assert trial.data.params["track.experiment"] == "raid"


def test_what_is_logged_at_one_step_is_in_its_order(client, path, uri):
    parent = opened(path, uri)
    for value in (3.0, 1.0, math.nan, 2.0):
        parent.log({"a": value, "b/@": 1.0}, 7)
    assert parent.end("FAILED", [], {}, 10)
    run = tracked.only_run(client)
    history = sorted(client.get_metric_history(parent.run_id, "a"), key=lambda metric: metric.timestamp)
    assert repr([metric.value for metric in history]) == "[3.0, 1.0, nan, 2.0]"
    assert len({metric.timestamp for metric in history}) == 4
    assert run.data.metrics == {"a": 2.0, "b/_": 1.0}
    assert run.info.status == "FAILED"


def test_log_waits_for_nobody_and_nothing_is_lost(client, path, uri, monkeypatch, caplog):
    parent, real, asked = opened(path, uri), MlflowClient.log_batch, []
    with monkeypatch.context() as away, caplog.at_level(logging.INFO):

        def hangs(*arguments: object, **keywords: object) -> None:
            asked.append(time.sleep(0.2))
            raise ConnectionRefusedError(111, "Connection refused")

        away.setattr(MlflowClient, "log_batch", hangs)
        begun = time.monotonic()
        for step in range(250):  # three parts of the journal
            parent.log({"best": step, "n": 250 - step}, step)
        assert time.monotonic() - begun < 10
        tracked.until(lambda: tracked.warnings(caplog))
        away.setattr(MlflowClient, "log_batch", real)
        tracked.until(lambda: "answers again" in caplog.text)
    parent.log({"best": 250}, 250)
    assert parent.end("FINISHED", [], {}, 10)
    run = tracked.only_run(client)
    assert values(client, run, "best") == [(step, step) for step in range(251)]
    assert values(client, run, "n") == [(step, 250 - step) for step in range(250)]
    assert tracked.warnings(caplog) == [
        f"tracking: {uri}: Connection refused; the run goes on, and what is missing is sent when it "
        f"answers again, or by `raid track sync {path}`"
    ]


def test_an_answer_that_is_lost_makes_nothing_twice(client, path, uri, monkeypatch):
    real, calls = MlflowClient.log_batch, itertools.count()

    def lost(*arguments, **keywords):
        real(*arguments, **keywords)
        if next(calls) % 2 == 0 and "metrics" in keywords:
            raise TimeoutError

    parent = opened(path, uri)
    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    for step in range(150):
        parent.log({"best": step}, step)
    assert parent.end("FINISHED", [], {}, 20)
    assert values(client, tracked.only_run(client), "best") == [(step, step) for step in range(150)]


def test_what_does_not_come_through_in_time_is_sent_by_the_command(
    client, path, uri, monkeypatch, caplog, capsys
):
    parent = opened(path, uri)
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "set_terminated", lambda *_: 1 / 0)
        away.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
        parent.log({"best": 1.0}, 1)
        (path / "best.json").write_text("{}")
        begun = time.monotonic()
        assert not parent.end("FINISHED", [path / "best.json"], {"a": "b"}, 1.0)
        assert 0.9 < time.monotonic() - begun < 20
        for thread in threading.enumerate():
            if thread.name == "raid-tracking":
                thread.join(10)
    assert tracked.warnings(caplog)[-1] == (
        f"tracking: {uri} has not all of this run; `raid track sync {path}` sends the rest"
    )
    assert tracked.only_run(client).info.status == "RUNNING"
    assert main(["track", "sync", str(path)]) == 0
    told = f"sent settings, 1 figures, 1 files, status; FINISHED as run {parent.run_id} at {uri}"
    assert capsys.readouterr().out == f"{path}: {told}\n"
    run = tracked.only_run(client)
    assert (run.info.status, run.data.tags["a"], run.data.metrics) == ("FINISHED", "b", {"best": 1.0})
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["best.json"]
    assert main(["track", "sync", str(path)]) == 0
    assert "nothing new" in capsys.readouterr().out


def test_the_end_is_tried_again(client, path, uri, monkeypatch):
    parent, real, calls = opened(path, uri), MlflowClient.set_terminated, []

    def third_time(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise ConnectionRefusedError
        real(*arguments)

    monkeypatch.setattr(MlflowClient, "set_terminated", third_time)
    assert parent.end("KILLED", [], {}, 20)
    assert tracked.only_run(client).info.status == "KILLED"


def test_a_driver_that_is_killed_is_gone_on_with(client, path, uri, caplog):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, path, uri], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    run_id = driver.stdout.readline().strip()
    with pytest.raises(InputError, match="another process is running this sweep"):
        opened(path, uri)
    assert parent.sync_sweep(path) == f"{path}: is running, and sends by itself"
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    with (path / "tracking_parent.jsonl").open("a") as journal:
        journal.write('{"step": 3, "rec')
    again = opened(path, uri, workers="2")
    assert again.run_id == run_id
    assert tracked.only_run(client).info.status == "RUNNING"
    again.log({"best": 3}, 3)
    assert again.end("FINISHED", [], {}, 10)
    run = tracked.only_run(client)
    assert values(client, run, "best") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert (run.info.status, run.data.params) == ("FINISHED", {"trials": "4", "workers": "2"})
    assert tracked.warnings(caplog) == []


def test_of_a_driver_that_is_killed_the_command_closes_the_run(client, path, uri):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, path, uri], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    driver.stdout.readline()
    driver.kill()
    driver.communicate()
    assert "KILLED as run" in parent.sync_sweep(path)
    run = tracked.only_run(client)
    assert (run.info.status, values(client, run, "best")) == ("KILLED", [(0, 0), (1, 1), (2, 2)])


def test_a_run_that_was_deleted_in_mlflow_is_made_anew(client, path, uri):
    parent = opened(path, uri)
    parent.log({"best": 1}, 1)
    assert parent.end("FINISHED", [], {}, 10)
    client.delete_run(parent.run_id)
    again = opened(path, uri)
    assert again.run_id != parent.run_id
    assert again.end("FINISHED", [], {}, 10)
    assert values(client, tracked.only_run(client), "best") == [(1, 1)]


def test_where_there_is_no_mlflow_the_sweep_does_not_begin(path, uri, dead):
    with pytest.raises(InputError, match=f"{dead}: Connection refused; the sweep has not begun"):
        Parent.open(path, dead, "raid", "a sweep", {}, {})
    assert opened(path, uri).end("FINISHED", [], {}, 10)  # nobody holds it
    (path.parent / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be written: "):
        opened(path.parent / "file", uri)
    (path / SWEEP).write_text("{")
    with pytest.raises(InputError, match=r"tracking_parent\.json: not a file that raid wrote"):
        opened(path, uri)


def test_a_journal_that_cannot_be_written_is_told_once(path, tmp_path, caplog):
    path.mkdir(parents=True)
    (path / "tracking_parent.jsonl").mkdir()
    journal = parent.Journal(path)
    journal.note({"a": 1}, 0)
    journal.note({"a": 2}, 1)
    (told,) = tracked.warnings(caplog)
    assert told == f"tracking: {path}/tracking_parent.jsonl cannot be written: Is a directory"
    (path / "tracking_parent.jsonl").rmdir()
    journal.note({"a": 3}, 2)
    ((lines, offset),) = journal.after(0)
    assert [(line["step"], line["figures"]) for line in lines] == [
        (0, {"a": 1}),
        (1, {"a": 2}),
        (2, {"a": 3}),
    ]
    assert list(journal.after(offset)) == []
    ((again, _),) = journal.after(offset + 1)  # of a journal that was removed and begun anew
    assert again == lines


def test_trials_without_a_folder_called_runs_are_where_their_sweep_is(tmp_path):
    assert place.tracking_uri(tmp_path / "a" / "sweep") == f"sqlite:///{tmp_path}/a/mlflow.db"
    assert (
        place.tracking_uri(tmp_path / "a" / "sweep" / "b" / "t")
        == f"sqlite:///{tmp_path}/a/sweep/b/mlflow.db"
    )
    (tmp_path / "a" / "sweep").mkdir(parents=True)
    (tmp_path / "a" / "sweep" / SWEEP).write_text("{}")
    assert place.tracking_uri(tmp_path / "a" / "sweep" / "b" / "t") == f"sqlite:///{tmp_path}/a/mlflow.db"


def test_a_trial_that_goes_on_in_another_sweep_is_nested_in_that(client, folder):
    for number in ("first", "second"):
        again = tracked.opened(folder.path, resume=True, track__parent=number)
        with launch.tracked(tracked.configured(folder.path, track__parent=number), again, "icsr"):
            tracked.record(again, 0 if number == "first" else 1)
    run = tracked.only_run(client)
    assert run.data.tags["mlflow.parentRunId"] == "second"
    assert "resumed_with" not in run.data.tags


def test_a_trial_that_was_never_followed_is_nested_too(client, runs):
    tracking.sync(tracked.opened(runs / "trial", track__parent="abc"))
    assert tracked.only_run(client).data.tags["mlflow.parentRunId"] == "abc"


# The end of the trials.


@pytest.fixture
def stopped(client: MlflowClient, folder: RunFolder) -> RunFolder:
    """A run whose process was killed."""
    running = tracked.process(folder.path, "resume", 0, 1)
    tracked.until(lambda: tracked.sent(folder) == [0, 1])
    running.kill()
    running.communicate(timeout=60)
    return folder


def test_of_a_trial_that_was_stopped_the_driver_says_so(client, stopped, uri, tmp_path):
    tags = {"stopped_by": "asha"}
    assert close_trials([Trial(stopped.path, "FINISHED", tags)], uri, 0) == []
    run = tracked.assert_complete(client, stopped, tmp_path / "d", "FINISHED")
    assert run.data.tags["stopped_by"] == "asha"
    assert "nothing new; FINISHED" in tracking.sync(stopped)


def test_what_a_trial_has_said_itself_stays(client, folder):
    with pytest.raises(ValueError, match="a fault"), tracked.follow(folder):
        raise ValueError("a fault")
    assert "FAILED" in tracking.sync(folder, outcome="FINISHED", tags={"a": "b"})
    run = tracked.only_run(client)
    assert (run.info.status, run.data.tags["a"]) == ("FAILED", "b")


def test_who_was_stopped_and_took_that_for_a_failure_has_not_failed(client, folder, uri):
    with pytest.raises(ValueError, match="a fault"), tracked.follow(folder):
        raise ValueError("a fault")
    assert tracked.only_run(client).info.status == "FAILED"
    stopped = Trial(folder.path, "FINISHED", {"stopped_by": "asha"}, overrules=True)
    assert close_trials([stopped], uri, 0) == []
    run = tracked.only_run(client)
    assert (run.info.status, run.data.tags["stopped_by"]) == ("FINISHED", "asha")
    assert "nothing new; FINISHED" in tracking.sync(folder)


def test_what_the_driver_said_while_mlflow_was_away_is_kept(client, stopped, uri, dead, caplog):
    failed = close_trials([Trial(stopped.path, "FINISHED", {"stopped_by": "asha"})], dead, 0)
    assert failed == [stopped.path]
    (told,) = tracked.warnings(caplog)
    assert told == (
        f"tracking: {dead} has not all of 1 of the 1 trials (Connection refused); "
        f"`raid track sync {stopped.path}` sends the rest"
    )
    assert main(["track", "sync", str(stopped.path)]) == 0
    run = tracked.only_run(client)
    assert (run.info.status, run.data.tags["stopped_by"]) == ("FINISHED", "asha")


def test_trials_are_tried_again_until_they_come_through(client, runs, uri, monkeypatch, caplog):
    monkeypatch.setattr(sweep, "FIRST_PAUSE_S", 0.05)
    folders = [tracked.opened(runs / "sweep" / f"{number} of 3") for number in (1, 2, 3)]
    real, asked = MlflowClient.create_run, []

    def second_time(*arguments, **keywords):
        asked.append(keywords["run_name"])
        if asked.count(keywords["run_name"]) == 1:
            raise ConnectionRefusedError(111, "Connection refused")
        return real(*arguments, **keywords)

    monkeypatch.setattr(MlflowClient, "create_run", second_time)
    held = Record.open(folders[1].path)
    timer = threading.Timer(1.0, held.close)
    timer.start()
    assert close_trials([Trial(folder.path) for folder in folders], uri, 60) == []
    assert sorted(by_name(client)) == ["1 of 3", "2 of 3", "3 of 3"]
    assert max(asked.count(name) for name in asked) == 2
    assert tracked.warnings(caplog) == []


def test_those_that_never_come_through_are_told_with_the_command(client, runs, uri, monkeypatch, caplog):
    monkeypatch.setattr(sweep, "FIRST_PAUSE_S", 0.05)
    first, second, held = (tracked.opened(runs / "sweep" / name) for name in ("a b", "second", "held"))
    (second.path / "metrics.jsonl").write_text('{"loss": 1}\n')
    asked, real = [], RunFolder.recorded
    monkeypatch.setattr(RunFolder, "recorded", lambda folder: asked.append(folder.path.name) or real(folder))
    with Record.open(held.path).changing():
        paths = [held.path, runs / "none", second.path, first.path]
        assert close_trials([Trial(path) for path in paths], uri, 0.5) == paths[:3]
    assert asked.count("none") == 1  # it will not be there the next time either
    assert asked.count("held") > 2
    (told,) = tracked.warnings(caplog)
    assert told == (
        f"tracking: {uri} has not all of 3 of the 4 trials ({held.path} is running); "
        f"`raid track sync {held.path} {runs}/none {second.path}` sends the rest"
    )
    assert list(by_name(client)) == ["a b"]


def test_a_server_that_hangs_is_not_waited_for_once_a_trial(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    folders = [tracked.opened(runs / "sweep" / str(number)) for number in range(8)]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begun = time.monotonic()
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert len(close_trials([Trial(folder.path) for folder in folders], uri, 0.5)) == 8
    assert time.monotonic() - begun < 8
