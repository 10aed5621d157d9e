"""The runs that `raid scaling` is told of: what an epoch of each took, by what it was spent on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raid.config import read_flat
from raid.errors import InputError
from raid.methods.sections import BELONGS_TO
from raid.report.reading import Epoch, is_finite, records
from raid.run_folder import RunFolder
from raid.spans import NOT_STAGES, PART_OF

Fields = dict[str, Any]
# In seconds an image that is trained on; the others, in seconds each time, go through a set of their own.
OF_TRAINING = ("compute", "collective", "data_wait")
GROUPS = (*OF_TRAINING, "extract", "cluster", "evaluate", "other")
# Spans that an epoch is recorded with, but which are not of it.
_BEFORE = ("prepare", "statistics", "intra_camera", "startup", "gan", "generate")
_STAGES = {"pretraining": "pretraining/loss", "baseline": "baseline/loss", "training": "train/loss"}
_SAME_DEVICE = "run.device"
# Fields in which runs may differ whose epochs are compared; all of a section where it ends in a dot.
_BATCHES = (
    *("scale", "sampler.identities", "training.source", "training.target"),
    *("pretraining.batch_size", "baseline.batch_size", "finetuning.batch_size"),
    *("optimizer.weak_rule", "optimizer.learning_rate", "pretraining.learning_rate"),
    *("baseline.learning_rate", "baseline.head_learning_rate"),
    *("finetuning.learning_rate", "finetuning.head_learning_rate"),
)
_MAY_DIFFER = (
    *("preset", "seed", "run.", "track.", "data.root", "data.cache_folder", "source.root", "evaluate.every"),
    *("inter.epochs", "pretraining.epochs", "training.epochs", "baseline.epochs", "finetuning.epochs"),
    *("intra.labels", "pretraining.checkpoint", "baseline.checkpoint", "generated.folder"),
    # How sets are read, out of packs or folders: their images are compared themselves.
    *(f"{section}.{name}" for section in ("data", "source") for name in ("layout", *BELONGS_TO)),
    *("data.splits.", "source.splits.", "data.fetch_limit_gib"),
    *_BATCHES,
)
STEPS = ("inter.steps", "pretraining.steps", "training.steps", "baseline.steps", "finetuning.steps")


@dataclass(frozen=True)
class StageTimes:
    """The epochs of a stage of a run, but for the first after a start, which has more in it.

    Attributes:
        batch: images of a step, of all workers together.
        steps: of an epoch.
        epochs: that were measured.
        seconds: by group, each time: the median over the epochs that have it.
        times: by group, how often an epoch has it, 1 or less.
    """

    batch: int
    steps: int
    epochs: int
    seconds: dict[str, float]
    times: dict[str, float]

    @property
    def images(self) -> int:
        """Images that an epoch trains on."""
        return self.batch * self.steps

    @property
    def of_epoch(self) -> dict[str, float]:
        """Seconds of an epoch by group; what not every epoch has counts by how often it is done."""
        return {group: seconds * self.times[group] for group, seconds in self.seconds.items()}

    @property
    def total(self) -> float:
        """Seconds of an epoch: the sum of its groups, so that their shares add up to 1."""
        return sum(self.of_epoch.values())


@dataclass(frozen=True)
class ScaledRun:
    """A run, and where its time went.

    Attributes:
        path: of its folder.
        method: icsr, mar, slsr.
        workers: that shared its batches.
        fields: "a.b": value, of the whole configuration.
        data: fingerprints of its images by the field that says where they are.
        stages: by name, in their order.
        cameras: what stage 1 took for each camera, as they are handed out (ICSR).
    """

    path: Path
    method: str
    workers: int
    fields: Fields
    data: dict[str, str]
    stages: dict[str, StageTimes]
    cameras: tuple[Epoch, ...]

    @staticmethod
    def read(path: Path) -> "ScaledRun":
        """Read the run in `path`, ended or not.

        Raises:
            InputError: the folder holds no run, or too few epochs of each of its stages.
        """
        folder = RunFolder(path)
        recorded = folder.recorded()
        fields, data = read_flat(folder.config), recorded["data"]
        data = data if isinstance(data, dict) else {"data.root": data}
        cameras = records(path / "cameras.jsonl", folder.cameras, "images", "seconds")
        run = ScaledRun(
            path,
            recorded["method"],
            fields["run.workers"],
            fields,
            {key: value for key, value in data.items() if key.endswith(".root")},
            _stages(folder, batches(recorded["method"], fields)),
            tuple(sorted(cameras, key=lambda line: (-line["images"], line["camera"]))),
        )
        if not run.stages:
            raise InputError(
                f"{path}: no stage has two epochs with times (metrics.jsonl): the first has the start in it; "
                "train for three epochs or more"
            )
        return run


def read_runs(paths: Sequence[Path]) -> list[ScaledRun]:
    """Read runs of one method on one set, by rising numbers of workers.

    Raises:
        InputError: a folder cannot be read, or its run differs in what the time of an epoch depends on.
    """
    runs = [ScaledRun.read(path) for path in paths]
    for run in runs[1:]:
        check_alike(run, f"{runs[0].path}", runs[0].method, runs[0].fields, runs[0].data)
    return sorted(runs, key=lambda run: run.workers)


def check_alike(
    run: ScaledRun,
    other: str,
    method: str,
    fields: Fields,
    data: dict[str, str],
    *,
    may_differ: tuple[str, ...] = (),
) -> None:
    """Refuse a run whose epochs are not to be compared with others, whatever the workers and the batch.

    Args:
        run: read.
        other: what the others are of, for the error.
        method: of the others.
        fields: of their configuration.
        data: fingerprints of their images.
        may_differ: fields beside the usual ones.

    Raises:
        InputError: names what differs.
    """
    if run.method != method:
        raise InputError(f"{run.path}: a run of {run.method}, and {other} of {method}")
    if any(run.data.get(field) != fingerprint for field, fingerprint in data.items()):
        raise InputError(f"{run.path}: on other images than {other}: times of one set alone can be compared")
    differing = [key for key in {**fields, **run.fields} if run.fields.get(key) != fields.get(key)]
    for key in differing:
        if key == _SAME_DEVICE or not _matches(key, (*_MAY_DIFFER, *may_differ)):
            raise InputError(
                f"{run.path}: {key} is {run.fields.get(key)}, in {other} {fields.get(key)}: only runs that "
                "differ in their workers, and in the batch with them, can be compared"
            )


def batches(method: str, fields: Fields) -> dict[str, int]:
    """Return the images of a step of all workers together, by stage."""
    match method:
        case "icsr":
            grown = fields["run.workers"] if fields["scale"] == "weak" else 1
            return {"training": fields["sampler.identities"] * fields["sampler.instances"] * grown}
        case "mar":
            own = fields["training.source"] + fields["training.target"]
            return {"pretraining": fields["pretraining.batch_size"], "training": own}
    return {"baseline": fields["baseline.batch_size"], "training": fields["finetuning.batch_size"]}


def _matches(key: str, allowed: Iterable[str]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in allowed)


def _stages(folder: RunFolder, batch_of: dict[str, int]) -> dict[str, StageTimes]:
    path = folder.path / "metrics.jsonl"
    lines = records(path, folder.metrics, "epoch")
    numbers = [step["epoch"] for step in records(folder.path / "steps.jsonl", folder.steps, "epoch")]
    found = {}
    for name, batch in batch_of.items():
        of_stage = [line for line in lines if _STAGES[name] in line and is_finite(line.get("time/train_s"))]
        whole = [line for line in of_stage[1:] if "time/startup_s" not in line]
        if whole:
            found[name] = _times(whole, batch, numbers.count(whole[-1]["epoch"]))
    return found


def _times(lines: list[Epoch], batch: int, steps: int) -> StageTimes:
    epochs = [dict(_groups(line)) for line in lines]
    values = {group: [epoch[group] for epoch in epochs if group in epoch] for group in GROUPS}
    seconds = {group: float(np.median(found)) for group, found in values.items() if found}
    times = {group: len(values[group]) / len(lines) for group in seconds}
    return StageTimes(batch, steps, len(lines), seconds, times)


def _groups(line: Epoch) -> Iterator[tuple[str, float]]:
    """Yield the seconds of an epoch by group; every second of it once."""
    spans = {key.removeprefix("time/").removesuffix("_s"): line[key] for key in line if key[:5] == "time/"}
    spans = {name: seconds for name, seconds in spans.items() if name not in (*NOT_STAGES, *_BEFORE)}
    parts = {name: spans.pop(name) for name in PART_OF if name in spans}
    yield "compute", max(0.0, spans.pop("train") - sum(parts.values()))
    yield from parts.items()
    for name in ("extract", "cluster", "evaluate"):
        if name in spans:
            yield name, spans.pop(name)
    if spans:
        yield "other", sum(spans.values())
