"""Packs in a real S3-compatible server, started here: written, read and trained on, cut off and refused."""

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import packs
import pytest
import quick_start
import ray
import tiny
from s3_server import KEYS, Line, Server

from raid.cli import main
from raid.config import load
from raid.data import storage
from raid.data.packed import INDEX
from raid.data.samples import Samples
from raid.data.storage import names, place_of
from raid.errors import InputError
from raid.methods.icsr import recipe as icsr
from raid.methods.inputs import load_samples
from raid.methods.known import config_of
from raid.methods.on_ray import ray_backend
from raid.run_folder import RunFolder

pytestmark = pytest.mark.timeout(60)

ROOT = "s3://people/sets/tiny"
SHARD = "/people/sets/tiny/shard-0000{}.parquet"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "log").start()
    yield server
    server.kill()


@pytest.fixture
def line(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The way to the server, which has a bucket `people`."""
    server.kill()  # and what it held
    server.start().buckets().create_bucket(Bucket="people")
    line = Line(server)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        **KEYS,
        "AWS_ENDPOINT_URL": line.uri,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    storage._filesystem.cache_clear()
    yield line
    storage._filesystem.cache_clear()
    line.close()


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return packs.draw(tmp_path / "set")


def losses(folder: Path) -> np.ndarray:
    return np.array([step["loss"] for step in RunFolder(folder).steps()])


Said = tuple[int, list[str], str]  # exit status, lines of errors, all that was said


@pytest.fixture
def raid(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command, in this process: starts of others take seconds."""

    def run(*arguments: str) -> Said:
        storage._filesystem.cache_clear()  # and with it the credentials
        status = main(list(arguments))
        told = capsys.readouterr()
        return status, [text for text in told.err.splitlines() if text.startswith("raid: ")], told.out

    return run


def test_commands_pack_and_check_what_the_folder_holds(raid, line, tmp_path):
    root = tiny.write_images(tmp_path / "people")
    status, _, said = raid("data", "pack", str(root), ROOT, "--shard-mib", "1", f"pattern={tiny.PATTERN}")
    assert (status, said.splitlines()[-1]) == (0, f"{ROOT}: 90 images, splits train, query, gallery")
    assert names(place_of(ROOT)) == [INDEX, "shard-00000.parquet"]
    puts = [path for method, path in line.asked if method in ("PUT", "POST")]
    assert puts[-1].endswith(INDEX)
    of_pack = raid("data", "check", ROOT, f"cache_folder={tmp_path}/cache")
    of_folder = raid("data", "check", str(root), f"pattern={tiny.PATTERN}")
    assert of_pack[0] == of_folder[0]
    assert of_pack[2].split("fingerprint")[1] == of_folder[2].split("fingerprint")[1]
    status, errors, _ = raid("data", "pack", str(root), ROOT, f"pattern={tiny.PATTERN}")
    assert status == 2
    assert errors == [
        f"raid: {ROOT}: holds pack.parquet and 1 more; choose another, or go on with a pack of the same set "
        "by --resume"
    ]


def test_the_readme_s_commands_run(raid, line, samples, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = re.findall(
        r"<!-- run by tests/cluster/test_object_storage.py -->\n```sh\n(.*?)```", text, re.S
    )
    commands = [shlex.split(command, comments=True)[1:] for command in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    samples.write(tmp_path / "mine.parquet")
    assert [raid(*command)[1] for command in commands[:2]] == [[], []]
    method, file, *overrides = commands[2]
    config = load(config_of(method), Path(__file__).parents[2] / file, overrides)
    assert load_samples(config.data).fingerprint() == samples.fingerprint()


def test_bytes_are_those_of_a_pack_in_a_folder_and_are_gone_on_with(line, samples, tmp_path):
    packs.pack(samples, tmp_path / "out")
    packs.pack(samples, ROOT)
    place = place_of(ROOT)
    for file in (tmp_path / "out").iterdir():
        assert storage.read_file(place, file.name) == file.read_bytes()
    assert packs.images_of(packs.opened(ROOT, tmp_path / "cache")) == packs.files_of(samples)
    storage.remove(place, INDEX)
    storage.remove(place, "shard-00002.parquet")
    line.asked.clear()
    assert packs.pack(samples, ROOT, resume=True)
    written = {path for method, path in line.asked if method in ("PUT", "POST")}
    assert written == {SHARD.format(2), f"/people/sets/tiny/{INDEX}"}
    assert packs.pack(samples, ROOT, resume=True) is False
    assert storage.read_file(place, INDEX) == (tmp_path / "out" / INDEX).read_bytes()


@pytest.mark.timeout(240)
def test_two_processes_train_on_the_bucket_as_on_the_folder_with_ray_and_without(raid, line, tmp_path):
    root = tiny.write_images(tmp_path / "people")
    raid("data", "pack", str(root), ROOT, "--shard-mib", "1", f"pattern={tiny.PATTERN}")
    # Without stage 1: its pool would be another two processes to start.
    settings = {
        "run__workers": 2, "inter__epochs": 1, "refine__enabled": False, "data__cache_limit_gib": 0,
    }  # fmt: skip
    of_pack = {"data__layout": "pack", "data__root": ROOT, "data__pattern": None}
    line.asked.clear()
    with quick_start.in_use():
        icsr.run(tiny.config(root, tmp_path / "folder", **settings))
        cache = {"data__cache_folder": str(tmp_path / "cache")}
        icsr.run(tiny.config(root, tmp_path / "pack", **settings, **of_pack, **cache))
    # Whole, once; a piece of 8 MiB a request.
    assert line.asked.count(("GET", SHARD.format(0))) == 1
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        cache = {"data__cache_folder": str(tmp_path / "ray_cache")}
        config = tiny.config(root, tmp_path / "ray", **settings, **of_pack, **cache, pool__size=1)
        backend = ray_backend(config)
        icsr.run(config, backend)
        backend.close()
    finally:
        ray.shutdown()
    assert line.asked.count(("GET", SHARD.format(0))) == 2
    reference = losses(tmp_path / "folder")
    assert len(reference) == 3
    for name in ("pack", "ray"):
        np.testing.assert_array_equal(losses(tmp_path / name), reference)
        recorded, expected = (RunFolder(tmp_path / of).recorded() for of in (name, "folder"))
        assert recorded["config_hash"] == expected["config_hash"]


def test_a_server_that_is_killed_while_it_is_read_is_asked_again(line, server, samples, tmp_path, caplog):
    packs.pack(samples, ROOT)
    packs.pack(samples, tmp_path / "out")
    packed = packs.opened(ROOT, tmp_path / "cache")
    away, restarted = threading.Event(), []

    def restart() -> None:
        time.sleep(1.0)
        server.start().buckets().create_bucket(Bucket="people")
        for file in (tmp_path / "out").iterdir():
            server.buckets().put_object(Bucket="people", Key=f"sets/tiny/{file.name}", Body=file.read_bytes())
        away.clear()

    def fault(method: str, path: str) -> str | None:
        if path == SHARD.format(1) and not restarted:
            server.kill()
            away.set()
            restarted.append(threading.Thread(target=restart))
            restarted[0].start()
        return "drop" if away.is_set() else None

    line.fault = fault
    assert packs.images_of(packed) == packs.files_of(samples)
    assert restarted
    restarted[0].join()
    assert f"{ROOT}/shard-00001.parquet: no connection to the storage" in caplog.text
    assert "asked again in 1 s" in caplog.text


def test_a_server_that_stays_away_is_named_by_bucket_and_key(line, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.1, 0.1))
    packs.pack(samples, ROOT)
    packed = packs.opened(ROOT, tmp_path / "cache")
    line.fault = lambda method, path: "drop" if path == SHARD.format(1) else None
    with pytest.raises(InputError, match=rf"^{ROOT}/shard-00001\.parquet: no connection to the sto") as error:
        packs.images_of(packed)
    assert "\n" not in str(error.value)


def test_answers_that_are_cut_are_asked_for_again(line, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_PAUSES_S", (0.1, 0.1, 0.1))
    packs.pack(samples, ROOT)
    cut: list[str] = []

    def fault(method: str, path: str) -> str | None:
        if method == "GET" and path == SHARD.format(1) and len(cut) < 2:
            cut.append(path)
            return "cut"
        return None

    line.fault = fault
    assert packs.images_of(packs.opened(ROOT, tmp_path / "cache")) == packs.files_of(samples)
    assert len(cut) == 2


def test_a_truncated_object_is_refused(line, server, samples, tmp_path):
    packs.pack(samples, ROOT)
    server.buckets().put_object(Bucket="people", Key=SHARD.format(1)[8:], Body=b"PAR1" * 100)
    with pytest.raises(InputError, match=rf"{ROOT}/shard-00001\.parquet: is truncated: 400 of \d+ bytes"):
        packs.images_of(packs.opened(ROOT, tmp_path / "cache"))


def test_storage_that_hangs_is_named_and_the_command_ends(line, samples, tmp_path):
    packs.pack(samples, ROOT)
    line.fault = lambda method, path: "hang" if path == SHARD.format(1) else None
    command = ["data", "check", ROOT, "read_timeout_s=2", f"cache_folder={tmp_path}/cache"]
    done = subprocess.run(
        [sys.executable, "-m", "raid", *command], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"raid: {ROOT}/shard-00001.parquet: could not be read within 2 s (data.read_timeout_s): the "
        "storage hangs"
    ]


def test_absent_buckets_and_packs_are_said(raid, line, samples, tmp_path):
    status, errors, _ = raid("data", "check", "s3://nobody/set")
    assert (status, errors) == (2, ["raid: s3://nobody/set: there is no bucket nobody"])
    status, errors, _ = raid("data", "check", "s3://people/nothing")
    assert status == 2
    assert errors[0].startswith("raid: s3://people/nothing: there is no pack.parquet, which `raid data pack`")
    with pytest.raises(InputError, match=r"s3://nobody/set/shard-00000\.parquet: there is no such bucket"):
        packs.pack(samples, "s3://nobody/set")


@pytest.mark.parametrize("keys", ["wrong", "none"])
def test_refused_credentials_are_said_in_a_line(raid, line, server, samples, tmp_path, monkeypatch, keys):
    packs.pack(samples, ROOT)
    server.refuse()
    line.refuses_nobody = True
    if keys == "none":
        for name in KEYS:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    for command in (
        ("check", ROOT),
        ("pack", str(samples.root), "s3://people/x", "layout=folder", "pattern=."),
    ):
        status, errors, _ = raid("data", *command)
        assert status == 2
        (error,) = errors
        assert error.startswith(f"raid: {command[1] if command[0] == 'check' else command[2]}")
        assert "the storage refuses the credentials of this process's environment" in error
