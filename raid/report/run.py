"""What a report is made of: the files of a run, read and checked."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raid.config import read_flat
from raid.errors import InputError
from raid.evaluate import Record, RetrievalSet, load_record
from raid.health import alarms, mining_alarms
from raid.report.charts import Point
from raid.report.pictures import Side, TrainingSets
from raid.run_folder import RunFolder

Epoch = dict[str, Any]
METHODS = ("icsr", "mar")
_ALARMED = ("cluster/num", "cluster/largest", "cluster/size_max", "cluster/coverage")


@dataclass(frozen=True)
class Run:
    """A run as its folder records it.

    Attributes:
        name: of the folder.
        method: one of METHODS.
        config: "a.b" to value, as resolved.
        config_text: the same as it was written.
        set: what is known of the set (`Samples.facts`), such as its version.
        epochs: figures of the recorded epochs, at least one; `epoch` counts from 0.
        losses: (epoch from 0, loss) of every recorded step.
        mining: what the epochs of MAR that mined pairs recorded of them (`RunFolder.mining`).
        record: of the final evaluation; empty before it.
        multilabels: of sample images (`RunFolder.multilabels`); empty before the end, and of ICSR.
        retrieval: whose rows the record names; None where the pictures are not at hand.
        training: whose rows the pairs and the multilabels name; None as well.
        finished: whether the model has been written.
        written: when the last epoch was recorded.
    """

    name: str
    method: str
    config: dict[str, Any]
    config_text: str
    set: dict[str, str]
    epochs: list[Epoch]
    losses: list[tuple[int, float]]
    mining: list[Epoch]
    record: Record
    multilabels: Record
    retrieval: RetrievalSet | None
    training: TrainingSets | None
    finished: bool
    written: datetime

    @staticmethod
    def read(folder: RunFolder, retrieval: RetrievalSet | None, training: TrainingSets | None) -> "Run":
        """Read what the folder holds.

        Raises:
            InputError: it holds no run, or one of an unknown method, no epoch has been recorded, or a record
                is damaged.
        """
        recorded = folder.recorded()
        if recorded["method"] not in METHODS:
            raise InputError(
                f"{folder.path}: holds a run of {recorded['method']}, which this raid cannot show"
            )
        epochs = _records(folder, "metrics.jsonl", "epoch")
        if not epochs:
            raise InputError(f"{folder.path}: no epoch has been recorded yet: there is nothing to report")
        record = load_record(folder.evaluation) if folder.evaluation.exists() else {}
        mining, multilabels = _mining(folder), _multilabels(folder)
        return Run(
            name=folder.path.absolute().name,
            method=recorded["method"],
            config=read_flat(folder.config),
            config_text=folder.config.read_text(errors="replace"),
            set=recorded["set"],
            epochs=epochs,
            losses=[
                (step["epoch"], step["loss"]) for step in _records(folder, "steps.jsonl", "epoch", "loss")
            ],
            mining=mining,
            record=record,
            multilabels=multilabels,
            retrieval=retrieval if retrieval is not None and _fits(record, retrieval) else None,
            training=training if training is not None and _has_rows(training, mining, multilabels) else None,
            finished=folder.model.exists(),
            written=datetime.fromtimestamp((folder.path / "metrics.jsonl").stat().st_mtime, UTC),
        )

    def points(self, key: str) -> list[Point]:
        """Return (epoch from 1, finite value) of what the epochs recorded under `key`."""
        found = [epoch for epoch in self.epochs if _is_finite(epoch.get(key))]
        return [(epoch["epoch"] + 1, epoch[key]) for epoch in found]

    @property
    def refined(self) -> bool:
        """Whether this run refines its clusters; the baseline does not."""
        return bool(self.config.get("refine.enabled", True))

    @property
    def pretrained(self) -> list[Epoch]:
        """The epochs of MAR's pretraining."""
        return [epoch for epoch in self.epochs if "pretraining/loss" in epoch]

    @property
    def target(self) -> Side | None:
        """The target's training images, where they are at hand."""
        return None if self.training is None else (self.training.target, self.training.target_images)

    @property
    def source(self) -> Side | None:
        """The source's training images, where they are at hand."""
        return None if self.training is None else (self.training.source, self.training.source_images)

    @property
    def guide(self) -> str:
        """What parts MAR's similar pairs into positives and negatives, in words."""
        return "feature similarity" if self.config.get("mining.guide") == "feature" else "agreement"

    @property
    def times(self) -> dict[str, list[Point]]:
        """Seconds of every epoch by the name of the stage, none counted twice."""
        keys = list(dict.fromkeys(key for epoch in self.epochs for key in epoch if key.startswith("time/")))
        stages = {key.removeprefix("time/").removesuffix("_s"): dict(self.points(key)) for key in keys}
        stages = {name: seconds for name, seconds in stages.items() if name not in _NOT_STAGES and seconds}
        for part, whole in _PART_OF.items():
            for epoch, seconds in stages.get(part, {}).items():
                if epoch in stages.get(whole, {}):
                    stages[whole][epoch] = max(0.0, stages[whole][epoch] - seconds)
        return {name: list(seconds.items()) for name, seconds in stages.items()}

    def alarms(self) -> Iterator[tuple[int, str]]:
        """Yield (epoch from 1, line) of every sign of collapse."""
        for epoch in self.epochs:
            if self.method == "mar":
                yield from ((epoch["epoch"] + 1, line) for line in mining_alarms(epoch))
            elif all(_is_finite(epoch.get(key)) for key in _ALARMED):
                largest = epoch["cluster/largest"]
                num_images = round(epoch["cluster/size_max"] / largest) if largest > 0 else 0
                yield from ((epoch["epoch"] + 1, line) for line in alarms(epoch, num_images))


# Measured inside another stage, or not a stage at all.
_PART_OF = {"data_wait": "train"}
_NOT_STAGES = ("step", "epoch", "total")
_READERS = {
    "metrics.jsonl": RunFolder.metrics,
    "steps.jsonl": RunFolder.steps,
    "mining.jsonl": RunFolder.mining,
}
_MINED = ("edges", "same", "different", "unknown", "positives", "negatives")
_ARRAYS = ("target_rows", "agents", "values", "source_rows")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _records(folder: RunFolder, name: str, *needed: str) -> list[Epoch]:
    try:
        lines = _READERS[name](folder)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{folder.path / name}: is damaged: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not all(isinstance(line.get(key), (int, float)) for key in needed):
            raise InputError(f"{folder.path / name}: line {number} lacks {' or '.join(needed)}")
    return lines


def _mining(folder: RunFolder) -> list[Epoch]:
    lines = _records(folder, "mining.jsonl", "epoch")
    for number, line in enumerate(lines, start=1):
        lacking = [key for key in _MINED if not isinstance(line.get(key), list)]
        if lacking:
            raise InputError(f"{folder.path / 'mining.jsonl'}: line {number} lacks {', '.join(lacking)}")
    return lines


def _multilabels(folder: RunFolder) -> Record:
    if not folder.multilabels.exists():
        return {}
    found = load_record(folder.multilabels)
    lacking = [key for key in _ARRAYS if key not in found]
    if lacking:
        raise InputError(f"{folder.multilabels}: lacks {', '.join(lacking)}")
    return found


def _has_rows(training: TrainingSets, mining: list[Epoch], multilabels: Record) -> bool:
    """Whether the rows that the pairs and the multilabels name are rows of these sets."""
    pairs = [pair for line in mining for pair in (*line["positives"], *line["negatives"])]
    target = [row for pair in pairs for row in pair["rows"]]
    source: list[int] = []
    if multilabels:
        target += multilabels["target_rows"].tolist()
        source += multilabels["source_rows"].ravel().tolist()
    return max(target, default=-1) < len(training.target) and max(source, default=-1) < len(training.source)


def _fits(record: Record, retrieval: RetrievalSet) -> bool:
    """Whether the rows that the record names are rows of this set."""
    return (
        "num_gallery" in record
        and int(record["num_gallery"]) == len(retrieval.gallery)
        and len(record["average_precision"]) == len(retrieval.query)
    )
