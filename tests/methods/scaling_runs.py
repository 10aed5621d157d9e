"""Made-up runs on 1, 2, 4, ... workers whose epochs take what a formula says."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raid.config import Schema
from raid.run_folder import RunFolder

Seconds = Mapping[str, float]
IMAGES = 8 * 2 * 3  # of a batch of tiny.config times its steps


def run_of(
    path: Path,
    config: Schema,
    epochs: Sequence[Seconds],
    *,
    method: str = "icsr",
    data: str | Mapping[str, str] = "images",
    loss: str = "train/loss",
    steps: int = 3,
    cameras: Sequence[tuple[int, float]] = (),
) -> Path:
    """Write a run of `config`: of each epoch its seconds by span; of each camera (images, seconds)."""
    folder = RunFolder.open(path, config, data, method=method, resume=False, fresh=False)
    for number, (images, seconds) in enumerate(cameras):
        folder.record_camera({"camera": number, "name": f"c{number}", "images": images, "seconds": seconds})
    add_epochs(path, epochs, loss=loss, steps=steps)
    return path


def add_epochs(path: Path, epochs: Sequence[Seconds], *, loss: str = "train/loss", steps: int = 3) -> None:
    """Append epochs to a run, after those that it has."""
    folder = RunFolder(path)
    first = len(folder.metrics())
    for number, spans in enumerate(epochs):
        line: dict[str, Any] = {f"time/{name}_s": seconds for name, seconds in spans.items()}
        folder.record_epoch({"epoch": first + number, loss: 1.0, **line}, [1.0] * steps)


def spans(workers: int, images: int = IMAGES) -> dict[str, float]:
    """What an epoch takes by T(W) = a + b/W, on so many workers."""
    of_image = {"compute": 0.5 / workers, "collective": 0.02 * (1 - 1 / workers), "data_wait": 0.05 / workers}
    own = {name: seconds * images for name, seconds in of_image.items()}
    return {
        "train": sum(own.values()),
        "collective": own["collective"],
        "data_wait": own["data_wait"],
        "step": sum(own.values()) / 3,
        "extract": 6.0 / workers,
        "cluster": 2.0 + 1.0 / workers,
        "checkpoint": 0.25,
    }


def epochs_of(workers: int, images: int = IMAGES, number: int = 4) -> list[dict[str, float]]:
    """A first epoch with a start in it, and others; the last is evaluated, and every second one before it."""
    found = [{**spans(workers, images), "startup": 9.0, "prepare": 3.0, "intra_camera": 40.0, "train": 99.0}]
    for epoch in range(1, number):
        evaluated = {"evaluate": 4.0 / workers + 0.5} if epoch % 2 else {}
        found.append({**spans(workers, images), **evaluated})
    return found


def strong(
    folder: Path, config: Callable[..., Schema], workers: Sequence[int] = (1, 2, 4), **how: Any
) -> list[Path]:
    """Runs of one batch: `config(folder, workers)` makes their configurations."""
    return [
        run_of(
            folder / f"strong_{number}", config(folder / f"strong_{number}", number), epochs_of(number), **how
        )
        for number in workers
    ]
