"""What MAR alone records: the pairs that it mined, the soft multilabels of sample images."""

from dataclasses import dataclass

from raid.errors import InputError
from raid.evaluate import Record, load_record
from raid.report.pictures import Side, TrainingSets
from raid.report.reading import Epoch, records
from raid.run_folder import RunFolder

_MINED = ("edges", "same", "different", "unknown", "positives", "negatives")
_ARRAYS = ("target_rows", "agents", "values", "source_rows")


@dataclass(frozen=True)
class MarRecords:
    """Records of MAR, and the images that they name; all empty of another method.

    Attributes:
        mining: what the epochs that mined pairs recorded of them (`RunFolder.mining`).
        multilabels: of sample images (`RunFolder.multilabels`); empty before the end.
        training: whose rows the pairs and the multilabels name; None where the pictures are not at hand.
    """

    mining: list[Epoch]
    multilabels: Record
    training: TrainingSets | None

    @staticmethod
    def read(folder: RunFolder, training: TrainingSets | None) -> "MarRecords":
        """Read what the folder holds.

        Raises:
            InputError: a record is damaged.
        """
        mining, multilabels = _mining(folder), _multilabels(folder)
        fits = training is not None and _has_rows(training, mining, multilabels)
        return MarRecords(mining, multilabels, training if fits else None)

    @property
    def target(self) -> Side | None:
        """The target's training images, where they are at hand."""
        return None if self.training is None else (self.training.target, self.training.target_images)

    @property
    def source(self) -> Side | None:
        """The source's training images, where they are at hand."""
        return None if self.training is None else (self.training.source, self.training.source_images)


def _mining(folder: RunFolder) -> list[Epoch]:
    path = folder.path / "mining.jsonl"
    lines = records(path, folder.mining, "epoch")
    for number, line in enumerate(lines, start=1):
        lacking = [key for key in _MINED if not isinstance(line.get(key), list)]
        if lacking:
            raise InputError(f"{path}: line {number} lacks {', '.join(lacking)}")
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
