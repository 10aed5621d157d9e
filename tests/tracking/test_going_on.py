import logging
import shutil

import pytest
import tracked
from mlflow import MlflowClient

from raid import tracking
from raid.errors import InputError


def test_a_second_sync_sends_nothing(runs, folder):
    tracked.record(folder, 0, 1, 2)
    tracked.end(folder)
    tracking.sync(folder)
    before, files = tracked.rows(runs), sorted(str(path) for path in (runs / "mlruns").rglob("*"))
    assert "nothing new; FINISHED" in tracking.sync(folder)
    assert tracked.rows(runs) == before
    assert sorted(str(path) for path in (runs / "mlruns").rglob("*")) == files


def test_what_changes_later_is_sent(client, folder, tmp_path):
    with tracked.follow(folder):
        tracked.record(folder, 0)
        tracked.end(folder)
    folder.report.write_text("<title>better</title>")
    assert f"{folder.path}: sent 1 files; FINISHED" in tracking.sync(folder)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


def test_a_resumed_run_goes_on_in_the_same_run(client, folder, tmp_path):
    with tracked.follow(folder):
        tracked.record(folder, 0, 1)
    first = tracked.only_run(client)
    again = tracked.opened(folder.path, resume=True)
    with tracked.follow(again):
        tracked.record(again, 2, 3)
        tracked.end(again)
    run = tracked.assert_complete(client, again, tmp_path / "d", "FINISHED")
    assert run.info.run_id == first.info.run_id
    assert run.info.start_time == first.info.start_time
    assert run.info.end_time > first.info.end_time
    assert "epochs_made_again" not in run.data.tags


def test_an_epoch_made_again_alike_adds_its_times_alone(client, folder, caplog):
    with tracked.follow(folder):
        tracked.record(folder, 0, 1)
    folder.forget_from(1)
    with caplog.at_level(logging.INFO), tracked.follow(folder):
        tracked.record(folder, 1, seconds=5.0)
        tracked.record(folder, 2)
    run = tracked.only_run(client)
    found, expected = tracked.history(client, run), tracked.in_folder(folder)
    assert found.pop("time/train_s") == [(0, 2.0), (1, 2.001), (1, 5.001), (2, 2.002)]
    assert found.pop("time/data_wait_s") == [(0, 0.2), (1, 0.2), (1, 0.5), (2, 0.2)]
    assert tracked.equal(found, {key: expected[key] for key in found})
    assert run.data.metrics["time/train_s"] == 2.002
    assert "was made again" not in caplog.text
    assert "epochs_made_again" not in run.data.tags


def test_an_epoch_made_again_otherwise_is_added_and_told(client, folder, caplog):
    with tracked.follow(folder):
        tracked.record(folder, 0, 1, 2)
    folder.forget_from(2)
    with caplog.at_level(logging.INFO), tracked.follow(folder):
        tracked.record(folder, 2, loss=0.5)
        tracked.until(lambda: tracked.only_run(client).data.metrics["train/loss"] == 0.5)  # the later one
    run = tracked.only_run(client)
    assert tracked.history(client, run)["train/loss"] == [(0, 3.0), (1, 2.0), (2, 1.0), (2, 0.5)]
    assert tracked.history(client, run)["time/train_s"] == [(0, 2.0), (1, 2.001), (2, 2.002)]
    assert run.data.tags["epochs_made_again"] == "2"
    assert caplog.text.count("epoch 3 was made again and came to other figures") == 1
    assert "nothing new" in tracking.sync(folder)


def test_the_parameters_of_a_resumed_run_stay_and_the_new_ones_are_a_tag(client, folder):
    with tracked.follow(folder):
        tracked.record(folder, 0)
    again = tracked.opened(folder.path, resume=True, run__workers=4)
    with tracked.follow(again):
        tracked.record(again, 1)
    run = tracked.only_run(client)
    assert run.data.params["run.workers"] == "1"
    assert run.data.tags["resumed_with"] == "run.workers=4"
    assert tracked.sent(again) == [0, 1]


def test_tags_of_both_lives_are_kept(client, folder, monkeypatch):
    for job in ("first", "second", "second"):
        monkeypatch.setenv("RAY_JOB_ID", job)
        with tracked.follow(folder, method="icsr"):
            pass
    tags = tracked.only_run(client).data.tags
    assert (tags["ray_job"], tags["method"]) == ("first, second", "icsr")


def test_a_fresh_run_is_another_run(client, folder):
    for number in (1, 2):
        again = tracked.opened(folder.path, fresh=True)
        with tracked.follow(again):
            tracked.record(again, *range(number))
    assert [len(tracked.history(client, run)["train/loss"]) for run in tracked.all_runs(client)] == [1, 2]


def test_a_run_that_was_deleted_in_mlflow_is_sent_anew(client, folder, tmp_path):
    with tracked.follow(folder):
        tracked.record(folder, 0, 1)
        tracked.until(lambda: tracked.sent(folder) == [0, 1])
        client.delete_run(tracked.only_run(client).info.run_id)
        tracked.record(folder, 2)
        tracked.end(folder)
        tracked.until(
            lambda: tracked.all_runs(client) and "eval/mAP" in tracked.only_run(client).data.metrics
        )
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")
    client.delete_run(tracked.only_run(client).info.run_id)
    tracking.sync(folder)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


def test_another_mlflow_gets_everything_and_the_first_is_remembered(client, folder, template, tmp_path):
    with tracked.follow(folder):
        tracked.record(folder, 0)
        tracked.end(folder)
    shutil.copy(template, tmp_path / "other.db")
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    assert "sent settings, 1 epochs, 4 files, status" in tracking.sync(folder, uri)
    tracked.assert_complete(MlflowClient(tracking_uri=uri), folder, tmp_path / "d", "FINISHED")
    assert "nothing new" in tracking.sync(folder, uri)
    assert "nothing new" in tracking.sync(folder)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")


@pytest.mark.parametrize("method", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_an_answer_that_is_lost_makes_nothing_twice(client, runs, folder, tmp_path, monkeypatch, method):
    real, calls = getattr(MlflowClient, method), []
    told = []

    def lost(*arguments, **keywords):
        result = real(*arguments, **keywords)
        calls.append(arguments)
        if len(calls) % 2:
            raise TimeoutError
        return result

    tracked.record(folder, 0, 1)
    tracked.end(folder)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, lost)
        for _ in range(12):
            try:
                tracking.sync(folder)
                break
            except InputError as error:
                told.append(str(error))
    assert len(told) == (len(calls) + 1) // 2
    assert all("no answer in time" in line for line in told)
    tracked.assert_complete(client, folder, tmp_path / "d", "FINISHED")
    assert tracked.rows(runs)["runs"] == 1
