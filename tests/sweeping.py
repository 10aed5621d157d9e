"""Sweeps of tiny runs, shared by the tests here."""

from pathlib import Path
from typing import Any

import tiny

from raid.config import to_yaml
from raid.methods.sweeps.definition import CHURN, MAP, SILHOUETTE, Sweep
from raid.methods.sweeps.planning import Options
from raid.sweep_folder import Axis

AXES = (
    Axis("refine.decay", ("off", "none", "cosine"), instead={"off": {"refine.enabled": False}}),
    Axis("refine.horizon", (1.0, 3.0), low=1.0, high=5.0),
)
SWEEP = Sweep("made_up", "icsr", "what is made up", AXES, (SILHOUETTE, CHURN, MAP))


def run_file(folder: Path, root: Path, **overrides: Any) -> Path:
    """Write the run file of a run of seconds, whose sweep goes to `folder`/sweep."""
    file = folder / "tiny.yaml"
    file.write_text(to_yaml(tiny.config(root, folder / "sweep", **overrides)))
    return file


def options(file: Path, *overrides: str, **changes: Any) -> Options:
    values: dict[str, Any] = {
        "file": file,
        "overrides": overrides,
        "objective": "silhouette",
        "search": "grid",
        "scheduler": "none",
        "num_samples": 4,
        "max_concurrent": None,
        "num_seeds": 1,
        "axes": None,
        "values": {},
        "grace": None,
        "demo": False,
        "how": "begin",
    }
    return Options(**{**values, **changes})
