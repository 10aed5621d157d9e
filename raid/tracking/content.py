"""What MLflow gets of a run: parameters, metrics, files."""

import hashlib
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from raid.config import read_flat
from raid.run_folder import RunFolder
from raid.tracking.record import Version, is_time

if TYPE_CHECKING:
    from mlflow.entities import Metric

# In the run folder, sent when the run ends.
FILES = (
    "config.yaml",
    "metrics.jsonl",
    "mining.jsonl",
    "local_labels.parquet",
    "generated.json",
    "gans/*/epochs.jsonl",
    "profile/summary.txt",
    "profile/trace.json.gz",
    "report.html",
)
# Pictures, sent when they appear: hours of GANs are watched by them.
PICTURES = ("gans/*/real.png", "gans/*/grid_*.png")
# What MLflow takes at once, and as one value; it would cut a longer one and then not know it again.
_METRICS_PER_BATCH, _SETTINGS_PER_BATCH = 1000, 100
_LONGEST_PARAMETER, _LONGEST_TAG = 6000, 5000
T = TypeVar("T")


def parameters(folder: RunFolder) -> dict[str, str]:
    """Return the resolved configuration, without what is a tag."""
    flat = read_flat(folder.config)
    return as_parameters({name: value for name, value in flat.items() if name != "track.parent"})


def as_parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values as MLflow takes them."""
    return {_name(name): str(value)[:_LONGEST_PARAMETER] for name, value in values.items()}


def new_tags(wanted: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that are not there, or not so."""
    cut = {_name(name): value[:_LONGEST_TAG] for name, value in wanted.items()}
    return {name: value for name, value in cut.items() if there.get(name) != value}


def metrics(
    line: Mapping[str, Any], version: Version, sent: Version | None, *, step: int
) -> "Iterator[list[Metric]]":
    """Yield batches of the figures of an epoch that have not been sent, or have changed since."""
    from mlflow.entities import Metric

    new = {
        False: sent is None or sent.figures != version.figures,
        True: sent is None or sent.times != version.times,
    }
    found = [
        Metric(_name(name), float(value), version.recorded_ms, step)
        for name, value in line.items()
        if name != "epoch" and isinstance(value, numbers.Real) and new[is_time(name)]
    ]
    return _batches(found, _METRICS_PER_BATCH)


def journal_metrics(lines: Iterable[Mapping[str, Any]]) -> "Iterator[list[Metric]]":
    """Yield batches of the figures in lines of a sweep's journal."""
    from mlflow.entities import Metric

    found = [
        Metric(_name(name), value, line["recorded_ms"], line["step"])
        for line in lines
        for name, value in line["figures"].items()
    ]
    return _batches(found, _METRICS_PER_BATCH)


def _name(name: str) -> str:
    """Return `name` with what MLflow does not allow in a name replaced."""
    return re.sub(r"[^\w/. -]", "_", name)


def settings_batches(items: Sequence[T]) -> Iterator[list[T]]:
    """Yield parameters or tags as many as MLflow takes at once."""
    return _batches(items, _SETTINGS_PER_BATCH)


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    return (list(items[first : first + size]) for first in range(0, len(items), size))


def files(folder: RunFolder, patterns: Sequence[str]) -> list[str]:
    """Return the files of the run folder that the patterns name, by their path in there."""
    return [
        str(path.relative_to(folder.path))
        for pattern in patterns
        for path in sorted(folder.path.glob(pattern))
        if path.is_file()
    ]


def file_digest(path: Path) -> str:
    """Return what tells a file's content from another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
