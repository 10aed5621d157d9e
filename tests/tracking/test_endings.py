import os
import signal
import threading
import time

import pytest
import tracked

from raid import tracking
from raid.errors import InputError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("a fault"), "FAILED"),
        (InputError("seed: wrong"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(0), "KILLED"),
    ],
)
def test_statuses(client, folder, error, status):
    def run() -> None:
        with tracked.follow(folder):
            tracked.record(folder, 0)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)) as raised:
            run()
        assert raised.value is error
    made = tracked.only_run(client)
    assert made.info.status == status
    assert tracked.equal(tracked.history(client, made), tracked.in_folder(folder))
    assert made.info.end_time is not None
    assert "nothing new" in tracking.sync(folder)
    assert tracked.only_run(client).info.status == status


def test_sigterm_ends_the_block(client, folder):
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with tracked.follow(folder):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as raised:
        run()
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert tracked.only_run(client).info.status == "KILLED"


def test_sigterm_that_is_ignored_stays_so(client, folder):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with tracked.follow(folder):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tracked.only_run(client).info.status == "FINISHED"


def test_followed_from_a_thread(client, folder):
    def run() -> None:
        with tracked.follow(folder):
            tracked.record(folder, 0)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert tracked.only_run(client).info.status == "FINISHED"


def test_a_process_that_is_terminated(client, folder):
    running = tracked.process(folder.path, "resume", 0, 1)
    tracked.until(lambda: tracked.sent(folder) == [0, 1])
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143, err
    assert tracked.only_run(client).info.status == "KILLED"


def test_a_process_that_dies_without_a_word(client, runs, folder, tmp_path):
    running = tracked.process(folder.path, "resume", 0, 1)
    tracked.until(lambda: tracked.sent(folder) == [0, 1])
    before = tracked.rows(runs)
    assert tracking.sync(folder) == f"{folder.path}: is running, and sends by itself"
    assert tracked.rows(runs) == before
    running.kill()
    running.communicate(timeout=60)
    assert tracked.only_run(client).info.status == "RUNNING"
    assert "KILLED" in tracking.sync(folder)
    run = tracked.assert_complete(client, folder, tmp_path / "d", "KILLED")
    last = client.get_metric_history(run.info.run_id, "train/loss")[-1]
    assert run.info.end_time == last.timestamp
    again = tracked.opened(folder.path, resume=True)
    with tracked.follow(again):
        tracked.until(lambda: tracked.only_run(client).info.status == "RUNNING")
        tracked.record(again, 2)
        tracked.end(again)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


@pytest.mark.parametrize("mended_by", ["resume", "fresh"])
def test_of_a_process_that_died_the_next_run_closes_the_run(client, folder, mended_by):
    running = tracked.process(folder.path, "resume", 0)
    tracked.until(lambda: tracked.sent(folder) == [0])
    running.kill()
    running.communicate(timeout=60)
    with tracked.follow(tracked.opened(folder.path, **{mended_by: True})):
        pass
    statuses = [run.info.status for run in tracked.all_runs(client)]
    assert statuses == (["FINISHED"] if mended_by == "resume" else ["KILLED", "FINISHED"])


def test_runs_in_other_folders_are_not_closed(client, runs, folder):
    with tracked.follow(folder):
        tracked.until(lambda: tracked.all_runs(client))
        with tracked.follow(tracked.opened(runs / "other")):
            tracked.until(lambda: len(tracked.all_runs(client)) == 2)
            assert {run.info.status for run in tracked.all_runs(client)} == {"RUNNING"}


@pytest.mark.parametrize(("model", "status"), [(True, "FINISHED"), (False, "KILLED")])
def test_a_run_that_was_never_followed(client, folder, tmp_path, model, status):
    tracked.record(folder, 0, 1, 2)
    if model:
        tracked.end(folder)
    assert tracking.sync(folder).startswith(f"{folder.path}: sent settings, 3 epochs, ")
    run = tracked.assert_complete(client, folder, tmp_path / "d", status)
    assert run.data.tags["data_fingerprint"] == tracked.FINGERPRINT
    assert "git_commit" not in run.data.tags  # of whoever syncs, who may be anywhere
    assert run.info.start_time <= run.info.end_time
