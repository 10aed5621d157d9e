import itertools
import re
import shutil
import threading
import time

import tracked
from mlflow import MlflowClient

import raid
from raid import tracking
from raid.config import flatten
from raid.run_folder import RunFolder


def test_all_of_a_run(runs, client, folder, tmp_path):
    before = time.time() * 1000
    with tracked.follow(folder, method="icsr", note="mine"):
        for epoch in range(4):
            tracked.record(folder, epoch)
            tracked.until(lambda epoch=epoch: tracked.sent(folder) == list(range(epoch + 1)))
            time.sleep(0.02)  # or two have one time
        tracked.end(folder)
    run = tracked.assert_complete(client, folder, tmp_path / "downloads", "FINISHED")
    assert run.info.run_name == "run"
    fields = flatten(tracked.configured(folder.path))
    del fields["track.parent"]  # a tag
    assert run.data.params == {key: str(value) for key, value in fields.items()}
    expected = {"method": "icsr", "note": "mine", "data_fingerprint": tracked.FINGERPRINT}
    expected |= {"raid_version": raid.__version__, "run_folder": str(folder.path)}
    assert expected.items() <= run.data.tags.items()
    assert run.info.artifact_uri == f"{runs}/mlruns/{run.info.run_id}/artifacts"
    times = [metric.timestamp for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    clock = [before, run.info.start_time, *times, run.info.end_time, time.time() * 1000]
    assert all(a <= b + 20 for a, b in itertools.pairwise(clock)), clock  # a file's times are coarse
    assert len(set(times)) == 4


def test_an_epoch_is_sent_when_it_is_recorded(client, folder):
    with tracked.follow(folder):
        for epoch in range(3):
            tracked.record(folder, epoch)
            tracked.until(lambda epoch=epoch: tracked.sent(folder) == list(range(epoch + 1)))
            run = tracked.only_run(client)
            assert run.info.status == "RUNNING"
            assert run.data.metrics["train/loss"] == 3.0 - epoch


def test_tags_say_what_the_set_is(client, runs):
    config = tracked.configured(runs / "run")
    facts = {"set": "MSMT17", "version": "V2"}
    folder = RunFolder.open(runs / "run", config, "x", method="icsr", facts=facts, resume=False, fresh=False)
    tracked.record(folder, 0)
    tracking.sync(folder)
    assert {"data.set": "MSMT17", "data.version": "V2"}.items() <= tracked.only_run(client).data.tags.items()


def test_what_mlflow_does_not_take_is_cut_renamed_or_left_out(client, runs):
    folder = tracked.opened(runs / "run", data__cache_folder="x" * 7000)
    many = {f"camera {number}, c:{number}": number / 2 for number in range(1234)}
    strange = {"a text": "x", "nothing": None, "a list": [1.0], "true": True, "endless": 1e999}
    folder.record_epoch({"epoch": 0, **many, **strange}, [])
    assert "sent settings, 1 epochs, 2 files, status" in tracking.sync(folder)
    run = tracked.only_run(client)
    assert run.data.params["data.cache_folder"] == "x" * 6000
    assert run.data.metrics.pop("true") == 1.0
    assert run.data.metrics.pop("endless") > 1e300
    assert run.data.metrics == {re.sub("[,:]", "_", name): value for name, value in many.items()}
    assert "nothing new" in tracking.sync(folder)


def test_more_parameters_and_tags_than_are_taken_at_once(client, folder):
    more = "".join(f"field{number}: {number}\n" for number in range(250))
    folder.config.write_text(folder.config.read_text() + more)
    tags = {f"tag{number}": str(number) for number in range(120)} | {"long": "x" * 9000}
    with tracked.follow(folder, **tags):
        pass
    run = tracked.only_run(client)
    assert {f"field{number}": str(number) for number in range(250)}.items() <= run.data.params.items()
    assert {f"tag{number}": str(number) for number in range(120)}.items() <= run.data.tags.items()
    assert run.data.tags["long"] == "x" * 5000


def test_half_a_line_is_left_for_later(client, folder):
    tracked.record(folder, 0)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "train/lo')
    tracking.sync(folder)
    assert tracked.sent(folder) == [0]
    folder.forget_from(1)
    tracked.record(folder, 1)
    tracking.sync(folder)
    assert tracked.equal(tracked.history(client, tracked.only_run(client)), tracked.in_folder(folder))


def test_several_runs_one_after_another(client, runs):
    for name in ("baseline", "icsr"):
        folder = tracked.opened(runs / name)
        with tracked.follow(folder):
            tracked.record(folder, 0)
    made = tracked.all_runs(client)
    assert [(run.info.run_name, run.info.status) for run in made] == [
        ("baseline", "FINISHED"), ("icsr", "FINISHED")
    ]  # fmt: skip
    names = {thread.name for thread in threading.enumerate() if "raid" in thread.name}
    # Of the main thread's reads, and of batches of a training that was broken off by another test.
    assert names <= {"raid-reader", "raid-batches"}


def test_the_experiment_is_the_one_that_is_named(client, runs):
    folder = tracked.opened(runs / "run", track__experiment="mine")
    with tracking.follow(folder, "mine", {}):
        pass
    assert tracked.only_run(client, "mine").info.status == "FINISHED"
    unfollowed = tracked.opened(runs / "other", track__experiment="mine")
    tracking.sync(unfollowed)
    assert len(tracked.all_runs(client, "mine")) == 2
    assert tracked.all_runs(client) == []


def test_names_with_quotes_and_spaces(client, template, tmp_path):
    for name in ("it's", 'a "b"', 'it\'s a "b"', "50% ü #1"):
        runs = tmp_path / name / "runs"
        runs.mkdir(parents=True)
        shutil.copy(template, runs / "mlflow.db")
        folder = tracked.opened(runs / name)
        tracked.record(folder, 0)
        tracked.end(folder)
        tracking.sync(folder)
        there = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
        assert tracked.assert_complete(there, folder, tmp_path / "d", "FINISHED").info.run_name == name
