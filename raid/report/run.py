"""What a report is made of: the files of a run, read and checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raid.config import read_flat
from raid.errors import InputError
from raid.evaluate import Record, RetrievalSet, load_record
from raid.health import alarms, mining_alarms, slsr_alarms
from raid.report.charts import Point
from raid.report.mar_records import MarRecords
from raid.report.pictures import TrainingSets, blurred_retrieval, blurred_training
from raid.report.reading import Epoch, is_finite, records
from raid.report.slsr_records import SlsrRecords
from raid.run_folder import RunFolder
from raid.spans import NOT_STAGES, PART_OF

METHODS = ("icsr", "mar", "slsr")
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
        record: of the final evaluation; empty before it.
        retrieval: whose rows the record names; None where the pictures are not at hand.
        mar: what MAR alone records.
        slsr: what SLSR alone records.
        finished: whether the model has been written.
        written: when the last epoch was recorded.
        blur: whether its pictures are shown blurred.
    """

    name: str
    method: str
    config: dict[str, Any]
    config_text: str
    set: dict[str, str]
    epochs: list[Epoch]
    losses: list[tuple[int, float]]
    record: Record
    retrieval: RetrievalSet | None
    mar: MarRecords
    slsr: SlsrRecords
    finished: bool
    written: datetime
    blur: bool

    @staticmethod
    def read(
        folder: RunFolder,
        retrieval: RetrievalSet | None,
        training: TrainingSets | None,
        *,
        blur: bool = False,
    ) -> "Run":
        """Read what the folder holds; `blur`, or the run's own run.blur, blurs the pictures.

        Raises:
            InputError: it holds no run, or one of an unknown method, no epoch has been recorded, or a record
                is damaged.
        """
        recorded = folder.recorded()
        if recorded["method"] not in METHODS:
            raise InputError(
                f"{folder.path}: holds a run of {recorded['method']}, which this raid cannot show"
            )
        metrics = folder.path / "metrics.jsonl"
        epochs = records(metrics, folder.metrics, "epoch")
        if not epochs:
            raise InputError(f"{folder.path}: no epoch has been recorded yet: there is nothing to report")
        config = read_flat(folder.config)
        blur = blur or bool(config.get("run.blur", False))
        if blur:
            retrieval = None if retrieval is None else blurred_retrieval(retrieval)
            training = None if training is None else blurred_training(training)
        record = load_record(folder.evaluation) if folder.evaluation.exists() else {}
        steps = records(folder.path / "steps.jsonl", folder.steps, "epoch", "loss")
        return Run(
            name=folder.path.absolute().name,
            method=recorded["method"],
            config=config,
            config_text=folder.config.read_text(errors="replace"),
            set=recorded["set"],
            epochs=epochs,
            losses=[(step["epoch"], step["loss"]) for step in steps],
            record=record,
            retrieval=retrieval if retrieval is not None and _fits(record, retrieval) else None,
            mar=MarRecords.read(folder, training),
            slsr=SlsrRecords.read(folder),
            finished=folder.model.exists(),
            written=datetime.fromtimestamp(metrics.stat().st_mtime, UTC),
            blur=blur,
        )

    def points(self, key: str) -> list[Point]:
        """Return (epoch from 1, finite value) of what the epochs recorded under `key`."""
        found = [epoch for epoch in self.epochs if is_finite(epoch.get(key))]
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
    def baseline(self) -> list[Epoch]:
        """The epochs of SLSR's stage 1."""
        return [epoch for epoch in self.epochs if "baseline/loss" in epoch]

    @property
    def guide(self) -> str:
        """What parts MAR's similar pairs into positives and negatives, in words."""
        return "feature similarity" if self.config.get("mining.guide") == "feature" else "agreement"

    @property
    def times(self) -> dict[str, list[Point]]:
        """Seconds of every epoch by the name of the stage, none counted twice."""
        keys = list(dict.fromkeys(key for epoch in self.epochs for key in epoch if key.startswith("time/")))
        stages = {key.removeprefix("time/").removesuffix("_s"): dict(self.points(key)) for key in keys}
        stages = {name: seconds for name, seconds in stages.items() if name not in NOT_STAGES and seconds}
        for part, whole in PART_OF.items():
            for epoch, seconds in stages.get(part, {}).items():
                if epoch in stages.get(whole, {}):
                    stages[whole][epoch] = max(0.0, stages[whole][epoch] - seconds)
        return {name: list(seconds.items()) for name, seconds in stages.items()}

    def alarms(self) -> Iterator[tuple[str, str]]:
        """Yield (where, line) of every sign of collapse."""
        for epoch in self.epochs:
            yield from ((f"Epoch {epoch['epoch'] + 1}", line) for line in self._alarms(epoch))
        for gan in self.slsr.gans:
            yield from ((gan.name.capitalize(), str(line)) for line in gan.result.get("alarms", []))

    def _alarms(self, epoch: Epoch) -> Iterator[str]:
        if self.method == "mar":
            yield from mining_alarms(epoch)
        elif self.method == "slsr":
            yield from slsr_alarms(epoch)
        elif all(is_finite(epoch.get(key)) for key in _ALARMED):
            largest = epoch["cluster/largest"]
            num_images = round(epoch["cluster/size_max"] / largest) if largest > 0 else 0
            yield from alarms(epoch, num_images)


def _fits(record: Record, retrieval: RetrievalSet) -> bool:
    """Whether the rows that the record names are rows of this set."""
    return (
        "num_gallery" in record
        and int(record["num_gallery"]) == len(retrieval.gallery)
        and len(record["average_precision"]) == len(retrieval.query)
    )
