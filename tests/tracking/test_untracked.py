import re

import pytest
import tracked

from raid import tracking
from raid.run_folder import RunFolder
from raid.tracking.follower import Follower
from raid.tracking.record import Record
from raid.tracking.sender import Sender


def assert_goes_on(folder: RunFolder, caplog: pytest.LogCaptureFixture, message: str) -> None:
    def run() -> None:
        with tracked.follow(folder):
            tracked.record(folder, 7)
            raise KeyError("of the run")

    with pytest.raises(KeyError, match="of the run"):
        run()
    assert folder.metrics()[-1]["epoch"] == 7
    assert re.search(message, caplog.text), caplog.text


def test_another_process_has_it(folder, caplog):
    with Record.open(folder.path).changing():
        assert_goes_on(folder, caplog, "not tracked: another process tracks")


def test_a_record_that_is_not_ours(folder, caplog):
    (folder.path / "tracking.json").write_text('{"sent": 1}')
    assert_goes_on(folder, caplog, r"not tracked: .*tracking\.json: not a file that raid wrote")


def test_a_folder_that_cannot_be_written(folder, caplog):
    (folder.path / "tracking.lock").mkdir()
    assert_goes_on(folder, caplog, "not tracked: .*Is a directory")


@pytest.mark.parametrize("uri", ["nonsense://x", "http://[", "sqlite:////dev/null/x.db", "databricks"])
def test_a_uri_that_is_none(folder, caplog, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert_goes_on(folder, caplog, re.escape(uri))


@pytest.mark.parametrize("name", ["__init__", "send", "finish"])
def test_a_fault_of_the_tracking(folder, caplog, monkeypatch, name):
    def fails(*arguments, **keywords):
        raise ZeroDivisionError

    monkeypatch.setattr(Sender, name, fails)
    assert_goes_on(folder, caplog, "fault of its own")


def test_a_fault_at_its_start(folder, caplog, monkeypatch):
    monkeypatch.setattr(Follower, "_work", None)
    assert_goes_on(folder, caplog, "")
    monkeypatch.setattr(tracking, "Follower", None)
    assert_goes_on(folder, caplog, "not tracked, by a fault of the tracking")
    Record.open(folder.path).close()  # nobody holds it
