"""Runs of `raid` in processes of their own, each with a Ray of its own, that can be found and killed."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from raid.config import to_yaml
from raid.methods.known import MethodConfig
from raid.run_folder import RunFolder

WITHIN = 1e-10  # of losses, on another number of workers (float64)
MARK = "RAID_TEST"  # in the environment of a run's processes, by which they are found


class Run:
    """A run of `raid` in a process of its own, with a Ray of its own."""

    def __init__(
        self, config: MethodConfig, method: str, *, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = RunFolder(config.run.folder)
        self.mark = uuid.uuid4().hex
        self._file = config.run.folder.parent / f"{config.run.folder.name}.yaml"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(to_yaml(config))
        self._log = self._file.with_suffix(".log")
        self._method, self._environment = method, environment or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> "Run":
        command = [sys.executable, "-m", "raid", self._method, str(self._file), *arguments]
        environment = {**os.environ, **self._environment, MARK: self.mark}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self

    @property
    def said(self) -> str:
        return self._log.read_text()

    def until(self, happened: Callable[[], Any], seconds: float = 240.0) -> Any:
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while not (found := happened()):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        return found

    def recovers(self, fault: str) -> AbstractContextManager[None]:
        """See `recovers`."""
        return recovers(fault, self.folder, self.until)

    def steps_done(self, steps_of_epoch: int) -> int:
        """Steps that a resumed run would not make again."""
        found = checkpoints(self.folder)
        if not found:
            return 0
        epoch, step = (int(number) for number in re.findall(r"\d+", found[-1].stem))
        return epoch * steps_of_epoch + step

    def checkpoints(self) -> Sequence[Path]:
        """Those that the run has, in their order."""
        return checkpoints(self.folder)

    def ends(self, status: int = 0, seconds: float = 280.0) -> None:
        assert self.process is not None
        try:
            assert self.process.wait(seconds) == status, self.said
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def workers(self) -> list[int]:
        """Processes of the training that are alive."""
        return self.alive("ray::RayTrainWorker")

    def alive(self, beginning: str) -> list[int]:
        """Processes whose titles begin so."""
        return [pid for pid in processes(self.mark) if title(pid).startswith(beginning)]

    def kill(self) -> None:
        """Kill the driver, and what it has started."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.clean()

    def clean(self) -> None:
        """See to it that nothing of it is left."""
        for pid in processes(self.mark):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def checkpoints(folder: RunFolder) -> Sequence[Path]:
    return sorted(folder.checkpoints.glob("epoch_*.pt"))


def reached(folder: RunFolder) -> str:
    """The epoch and step that a resumed run would begin with; of stage 1, the cameras that are done."""
    found = checkpoints(folder)
    return found[-1].stem if found else f"camera {len(list(folder.local.glob('camera_*.parquet')))}"


@contextmanager
def recovers(fault: str, folder: RunFolder, until: Callable[[Callable[[], bool]], object]) -> Iterator[None]:
    """Wait until a run is past where the block's fault has met it, and print how long that took."""
    place, begun = reached(folder), time.monotonic()
    yield
    until(lambda: reached(folder) > place)
    print(f"{fault} | at {place} | {time.monotonic() - begun:.1f} s", flush=True)


def processes(mark: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def assert_equal(ours: RunFolder, whole: RunFolder) -> None:
    """The same steps with the same losses, the same epochs."""
    losses = [[step["loss"] for step in folder.steps()] for folder in (ours, whole)]
    assert len(losses[0]) == len(losses[1])
    difference = np.max(np.abs(np.subtract(*losses)))
    print(f"{len(losses[0])} steps, whose losses differ by {difference:.1e} at most", flush=True)
    assert difference < WITHIN
    assert [line["epoch"] for line in ours.metrics()] == [line["epoch"] for line in whole.metrics()]
    assert ours.model.exists()
