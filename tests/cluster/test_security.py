"""What a run lets others see: where it listens, who it answers, and what it writes down."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import listening
import pytest
import tiny
from ray_runs import Run, processes

SECRET = "sekret-5e1f0c"
VARIABLES = ("MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "RAID_FAKE_PASSWORD")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("security")


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Run]:
    """A run with two workers, a pool, MLflow and secrets in its environment, in mid-training."""
    config = tiny.config(
        tiny.write_images(folder / "images"), folder / "runs" / "run", run__workers=2, track__enabled=True,
        inter__epochs=3, inter__steps=40, run__checkpoint_steps=1, run__keep_checkpoints=3,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE"):
            patch.delenv(name, raising=False)
        made = Run(config, "icsr", environment=dict.fromkeys(VARIABLES, SECRET)).start()
    try:
        made.until(lambda: len(made.checkpoints()) > 2)
        yield made
    finally:
        made.clean()


def test_nothing_listens_beyond_this_machine(run):
    found = listening.addresses(processes(run.mark))
    assert len(found) > 5  # Ray's store, its scheduler, its dashboard, workers
    assert {address: who for address, who in found.items() if not listening.is_loopback(address)} == {}


def test_the_dashboard_wants_the_token(run):
    (dashboard,) = [
        address
        for address, who in listening.addresses(processes(run.mark)).items()
        if re.search(r":826\d$", address)
    ]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{dashboard}/api/jobs/", timeout=30)
    assert refused.value.code == 401


def test_secrets_are_written_nowhere(run, folder):
    """Neither in the log, the run's folder, its report, nor in MLflow's database and artifacts."""
    run.ends()
    runs = folder / "runs"
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert {"report.html", "mlflow.db", "run.log", "config.yaml", "metrics.jsonl"} <= {
        path.name for path in files
    }
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
