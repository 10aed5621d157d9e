"""How a run stands, for whoever looks at its folder: a person, a scheduler, the next attempt.

status.json   running, stopped, failed or done, since when, and why
stop          is there: the workers are to save their state at the next step, and to stop
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from raid.errors import InputError
from raid.files import write_json

State = Literal["running", "stopped", "failed", "done"]
NAMES = ("status.json", "stop")


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Attributes:
        state: stopped: by a signal; failed: by an error; `--resume` goes on with either. A run whose driver
            was killed still says that it is running.
        since_s: seconds since 1970.
        reason: of a run that was stopped or has failed.
    """

    state: State
    since_s: float
    reason: str = ""

    @property
    def resumable(self) -> bool:
        """Whether there is anything to go on with."""
        return self.state != "done"


def write_status(folder: Path, state: State, reason: str = "") -> None:
    """Write how the run in `folder` stands.

    Raises:
        InputError: it cannot be written.
    """
    status = RunStatus(state, time.time(), reason)
    write_json(folder / NAMES[0], {**asdict(status), "resumable": status.resumable})


def read_status(folder: Path) -> RunStatus | None:
    """Return how the run in `folder` stands; None: nobody has written it.

    Raises:
        InputError: the file is another program's.
    """
    file = folder / NAMES[0]
    try:
        record = json.loads(file.read_text())
        return RunStatus(record["state"], float(record["since_s"]), str(record["reason"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is not a file that raid wrote") from error


def ask_to_stop(folder: Path) -> None:
    """Ask the workers of the run in `folder` to save their state and to stop."""
    (folder / NAMES[1]).touch()


def asked_to_stop(folder: Path) -> bool:
    """Whether they are asked to."""
    return (folder / NAMES[1]).exists()


def go_on(folder: Path) -> None:
    """Take back what was asked."""
    (folder / NAMES[1]).unlink(missing_ok=True)
