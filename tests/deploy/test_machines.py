"""Clusters without Kubernetes: Slurm's script, with stand-ins for Slurm and Ray, and the file of `ray up`."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploying import DEPLOY, VALUES, written
from jsonschema import Draft7Validator

SCRIPT = DEPLOY / "slurm" / "raid.sbatch"
# Each writes down who was called with what, one JSON object a line.
NOTE = f"""#!{sys.executable} -E
import json, os, sys, time
def note(**more):
    token = os.environ["RAY_AUTH_TOKEN_PATH"]
    token = open(token).read() if os.path.exists(token) else None
    line = {{"who": os.path.basename(sys.argv[0]), "arguments": sys.argv[1:], "pid": os.getpid(),
            "token": token, "environment": dict(os.environ), **more}}
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(line) + "\\n")
"""
SRUN = f"""{NOTE}
note()
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
os.execvp(command[0], command)
"""
RAY = f"""{NOTE}
if "start" in sys.argv and "--head" not in sys.argv:
    time.sleep(0.5)  # the others are later
note()
if sys.argv[1] == "start":
    if os.environ.get("HEAD_FAILS"):
        sys.exit(1)
    time.sleep(60)
started = [json.loads(line) for line in open(os.environ["NOTES"])]
is_up = any(line["who"] == "ray" and "--head" in line["arguments"] for line in started)
sys.exit(bool(os.environ.get("HEAD_FAILS")) or not is_up)
"""
DRIVER = f"""{NOTE}
import signal
def end(*_):
    note(who="driver told")
    time.sleep(0.3)
    note(who="driver ended")
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
mode = os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode
note(who="driver", mode=mode)
if "--long" in sys.argv:
    time.sleep(60)
sys.exit(3 if "--fail" in sys.argv else 0)
"""
# The head is a node, and what was started for the others is all of them.
RAY_MODULE = """
import json, os, types
util = types.SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
def init(**_): pass
def nodes():
    called = [json.loads(line)["arguments"] for line in open(os.environ["NOTES"])]
    others = any(arguments[:1] == ["start"] and "--head" not in arguments for arguments in called)
    return [{"Alive": True}, {"Alive": others}, {"Alive": others}]
"""


class Slurm:
    """A folder with an environment as `make install` leaves it, and a stand-in for Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        for name, text in {
            ".venv/bin/ray": RAY,
            "bin/srun": SRUN,
            "modules/ray.py": RAY_MODULE,
            "modules/raid/__main__.py": DRIVER,
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / ".venv/bin/python").symlink_to(sys.executable)
        self.notes.touch()
        self.environment = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "modules"),
            "NOTES": str(self.notes),
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURMD_NODENAME": "node1",
        }

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments], env={**self.environment, **more}, text=True, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, **more: str) -> int:
        with self.start(*arguments, **more) as process:
            return process.wait(60)

    def noted(self, who: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.notes.read_text().splitlines()) if line["who"] == who]

    def nodes(self) -> list[dict[str, Any]]:
        return [line for line in self.noted("ray") if line["arguments"][0] == "start"]

    def assert_nothing_left(self) -> None:
        for line in [*self.nodes(), *self.noted("driver")]:
            with pytest.raises(ProcessLookupError):
                os.kill(line["pid"], 0)
        assert list((self.folder / "runs").iterdir()) == []  # the token


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    slurm = Slurm(tmp_path)
    yield slurm
    for line in [*slurm.nodes(), *slurm.noted("driver")]:
        try:
            os.kill(line["pid"], signal.SIGKILL)
        except ProcessLookupError:
            continue


def options(line: dict[str, Any]) -> dict[str, str]:
    return dict(each.removeprefix("--").partition("=")[::2] for each in line["arguments"] if "=" in each)


@pytest.mark.parametrize(("flags", "status"), [([], 0), (["--fail"], 3)])
def test_slurm_runs_the_driver_in_a_cluster_of_all_nodes_and_ends_as_it_did(slurm, flags, status):
    assert slurm.run("icsr", "jobs/x.yaml", "run.workers=3", *flags) == status
    (driver,) = slurm.noted("driver")
    assert driver["arguments"] == ["icsr", "jobs/x.yaml", "run.workers=3", *flags]
    head, workers = slurm.nodes()
    noted = [json.loads(line) for line in slurm.notes.read_text().splitlines()]
    assert noted.index(driver) > max(noted.index(head), noted.index(workers))
    assert "--head" in head["arguments"]
    assert "--head" not in workers["arguments"]
    assert options(workers)["address"] == driver["environment"]["RAY_ADDRESS"]
    assert driver["environment"]["RAY_ADDRESS"] == f"127.0.0.1:{options(head)['port']}"
    for node in (head, workers):
        assert (options(node)["num-cpus"], options(node)["num-gpus"]) == ("8", "2")
        assert "--block" in node["arguments"]
    first, others, *_ = (options(line) for line in slurm.noted("srun"))
    assert (first["nodes"], first["nodelist"]) == ("1", "node1")
    assert (others["nodes"], others["ntasks"], others["exclude"]) == ("2", "2", "node1")
    assert driver["environment"]["RAID_GRACE_SECONDS"] == str(VALUES["grace_seconds"])
    slurm.assert_nothing_left()


def test_slurm_s_token_is_one_secret_that_all_have_and_nobody_else_can_read(slurm):
    assert slurm.run("icsr") == 0
    (driver,) = slurm.noted("driver")
    seen = {line["token"] for line in (*slurm.nodes(), driver)}
    assert len(seen) == 1
    assert len(seen.pop()) == 64
    assert stat.S_IMODE(driver["mode"]) == 0o600
    assert {line["environment"]["RAY_AUTH_MODE"] for line in (*slurm.nodes(), driver)} == {"token"}
    assert slurm.run("icsr") == 0
    assert len({line["token"] for line in slurm.noted("driver")}) == 2


def test_slurm_s_ports_are_free_ones(slurm):
    assert slurm.run("icsr") == 0
    head, workers = (options(node) for node in slurm.nodes())
    ports = [int(head[name]) for name in ("port", "dashboard-port", "ray-client-server-port")]
    assert len(set(ports)) == 3
    assert all(port > 19999 for port in ports)
    for node in (head, workers):
        assert {node["min-worker-port"], node["max-worker-port"], node["dashboard-agent-listen-port"]} == {
            "0"
        }


def test_slurm_s_notice_reaches_the_driver_whose_cluster_stays_until_it_has_ended(slurm):
    process = slurm.start("icsr", "--long")
    deadline = time.monotonic() + 30
    while not slurm.noted("driver") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    while not slurm.noted("driver told") and time.monotonic() < deadline:
        time.sleep(0.02)
    for node in slurm.nodes():
        os.kill(node["pid"], 0)  # there
    assert process.wait(30) == 5
    assert slurm.noted("driver ended")
    slurm.assert_nothing_left()


def test_slurm_s_job_ends_when_the_head_does_not_start(slurm):
    started = time.monotonic()
    assert slurm.run("icsr", HEAD_FAILS="1", SLURM_JOB_NUM_NODES="1") != 0
    assert time.monotonic() - started < 30
    assert slurm.noted("driver") == []
    slurm.assert_nothing_left()


@pytest.mark.parametrize("flags", [[], ["--fail"]])
def test_ray_s_logs_are_kept_where_the_run_failed(slurm, flags):
    logs = Path(f"/tmp/raid_{slurm.environment['SLURM_JOB_ID']}")
    logs.mkdir()
    try:
        slurm.run("icsr", *flags)
        assert logs.exists() == bool(flags)
    finally:
        shutil.rmtree(logs, ignore_errors=True)


def test_slurm_is_asked_for_what_the_values_say(tmp_path):
    wanted = {"nodes": 7, "cpus": 5, "memory": "9G", "gpus": 3, "time": "01:02:03"}
    script = (written(tmp_path, slurm=wanted) / "slurm" / "raid.sbatch").read_text()
    asked = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in script.splitlines()
        if line.startswith("#SBATCH --")
    )
    assert asked["nodes"] == "7"
    assert asked["cpus-per-task"] == "5"
    assert (asked["mem"], asked["time"]) == ("9G", "01:02:03")
    assert asked["gpus-per-node"] == "3"
    assert asked["ntasks-per-node"] == "1"
    assert "gpus" not in SCRIPT.read_text().split("set -euo")[0]


@pytest.mark.parametrize("tool", [["bash", "-n"], ["shellcheck"]], ids=["bash", "shellcheck"])
def test_the_script_is_one_that_shells_take(tool):
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    done = subprocess.run([*tool, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "launcher" / "cluster.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def launcher_schema() -> dict[str, Any]:
    ray = pytest.importorskip("ray")
    found: dict[str, Any] = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    return found


def test_ray_up_takes_the_file(launcher, launcher_schema):
    assert list(Draft7Validator(launcher_schema).iter_errors(launcher)) == []
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher)
    validate_config(prepared)
    node = prepared["available_node_types"]["local.cluster.node"]
    assert node["min_workers"] == len(VALUES["launcher"]["workers"])


@pytest.mark.filterwarnings("ignore")  # of what Ray's command imports
def test_ray_knows_the_options_that_nodes_are_started_with(launcher, slurm):
    known = {option for each in import_module("ray.scripts.scripts").start.params for option in each.opts}
    slurm.run("icsr")
    words = [word for node in slurm.nodes() for word in node["arguments"]]
    for command in (*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]):
        words += command.split()
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert {"--dashboard-agent-listen-port", "--autoscaling-config"} <= used <= known


@pytest.mark.parametrize("section", ["", "docker", "auth"])
def test_ray_up_s_schema_knows_a_typing_mistake(launcher, launcher_schema, section):
    mistaken = json.loads(json.dumps(launcher))
    (mistaken[section] if section else mistaken)["run_option"] = []
    assert len(list(Draft7Validator(launcher_schema).iter_errors(mistaken))) == 1


def test_ray_up_s_cluster_is_the_values_and_wants_the_token(launcher):
    assert launcher["provider"]["head_ip"] == VALUES["launcher"]["head"]
    assert launcher["docker"]["image"] == VALUES["image"]
    given = launcher["docker"]["run_options"]
    assert "--env=RAY_AUTH_MODE=token" in given
    assert f"--shm-size={VALUES['launcher']['shm']}" in given
    assert launcher["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert not {"ssh_private_key", "ssh_proxy_command"} & set(launcher["auth"])
    (start,) = (each for each in launcher["head_start_ray_commands"] if "--head" in each)
    assert f"--port={VALUES['ports']['gcs']}" in start
    assert "--dashboard-host=127.0.0.1" in start
    assert f"$RAY_HEAD_IP:{VALUES['ports']['gcs']}" in launcher["worker_start_ray_commands"][-1]
