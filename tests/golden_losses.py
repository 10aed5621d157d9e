"""The losses of every step of small float64 runs, as text; a refactoring must not change them.

Regenerate, after a change that is meant to change them:
    .venv/bin/python tests/golden_losses.py
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import tiny

from raid.methods import icsr

FILE = Path(__file__).parent / "golden" / "icsr_losses.txt"
RUNS = {
    "icsr": {},
    "baseline": {"refine.enabled": False},
    "paper": {"preset": "paper"},
    "sync": {"model.batch_norm": "sync", "refine.enabled": False},
}


def losses(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield (run, epoch and step; loss) of every step of every run."""
    root = tiny.write_images(folder / "images")
    for name, values in RUNS.items():
        overrides = {key.replace(".", "__"): value for key, value in values.items()}
        config = tiny.config(
            root,
            folder / name,
            model__backbone="resnet18",
            inter__epochs=3,
            inter__steps=4,
            **overrides,
        )
        for step in icsr.run(config).steps():
            yield f"{name} epoch {step['epoch']} step {step['step']}", step["loss"]


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{step}: {loss:.12f}\n" for step, loss in losses(Path(folder))]
    FILE.write_text("".join(lines))


if __name__ == "__main__":
    main()
