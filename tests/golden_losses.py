"""The losses of every step of small float64 runs, as text; a refactoring must not change them.

Regenerate, after a change that is meant to change them:
    .venv/bin/python tests/golden_losses.py [icsr|mar|slsr ...]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny

from raid.methods.icsr import recipe as icsr
from raid.methods.mar import recipe as mar
from raid.methods.slsr import recipe as slsr
from raid.run_folder import RunFolder

RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "icsr": {
        "icsr": {},
        "baseline": {"refine__enabled": False},
        "paper": {"preset": "paper"},
        "sync": {"model__batch_norm": "sync", "refine__enabled": False},
    },
    "mar": {
        "mar": {"mining__begin": 1},
        "paper": {"preset": "paper", "multilabel__scale": "auto"},
        "feature": {"mining__guide": "feature", "losses__cml": False},
        "sync": {"model__batch_norm": "sync"},
    },
    "slsr": {
        "slsr": {},
        "released": {"preset": "as_released", "finetuning__start": "baseline"},
        "sync": {"model__batch_norm": "sync", "model__noise_layer": "transition"},
    },
}
STEPS = {"icsr": 3 * 4, "mar": 2 + 2 * 2, "slsr": 2 + 2 * 2}  # of a run
# Of SLSR's fine-tuning, whose generated images are float32's: a pixel may be rounded the other way elsewhere.
TOLERANCE = {"icsr": 1e-6, "mar": 1e-6, "slsr": 1e-4}


def file(method: str) -> Path:
    """Return where the losses of a method are committed."""
    return Path(__file__).parent / "golden" / f"{method}_losses.txt"


def losses(method: str, folder: Path) -> Iterator[tuple[str, float]]:
    """Yield (run, epoch and step; loss) of every step of every run of a method."""
    tiny.write_images(folder / "images")
    tiny.write_source(folder / "source")
    run = {"icsr": _icsr, "mar": _mar, "slsr": _slsr}[method]
    for name, overrides in RUNS[method].items():
        for step in run(folder, name, overrides).steps():
            yield f"{name} epoch {step['epoch']} step {step['step']}", step["loss"]


def _icsr(folder: Path, name: str, overrides: dict[str, Any]) -> RunFolder:
    sizes = {"inter__epochs": 3, "inter__steps": 4, "data__pattern": tiny.WITHOUT_TEST_IMAGES}
    return icsr.run(tiny.config(folder / "images", folder / name, **sizes, **overrides))


def _mar(folder: Path, name: str, overrides: dict[str, Any]) -> RunFolder:
    sizes = {"pretraining__steps": 2, "training__steps": 2, "data__pattern": tiny.WITHOUT_TEST_IMAGES}
    config = tiny.mar_config(folder / "source", folder / "images", folder / name, **sizes, **overrides)
    return mar.run(config)


def _slsr(folder: Path, name: str, overrides: dict[str, Any]) -> RunFolder:
    sizes = {"baseline__steps": 2, "finetuning__steps": 2, "data__pattern": tiny.WITHOUT_TEST_IMAGES}
    return slsr.run(tiny.slsr_config(folder / "images", folder / name, **sizes, **overrides))


def main(methods: list[str]) -> None:
    """Write the files."""
    for method in methods or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            lines = [f"{step}: {loss:.12f}\n" for step, loss in losses(method, Path(folder))]
        file(method).write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
