"""The runs that `raid compare` is told of: read from their folders, and put together by setting."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.config import read_flat
from raid.errors import InputError
from raid.evaluate import load_record
from raid.methods.seed_table import SHOWN
from raid.report.reading import is_finite, records
from raid.run_folder import RunFolder

Floats = NDArray[np.float64]
# Not in a run's hash, and not the same figure with another value of them.
_KIND = ("evaluate.ap", "evaluate.cuhk03", "evaluate.seed")
_OF_DRAWN_GALLERIES = _KIND[1:]
_FLIP = "evaluate.flip"  # not in the hash either, and another way of making features
UNKNOWN = "(not recorded)"


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run that has ended, and what its last epoch came to.

    Attributes:
        path: of its folder.
        seed: of the run.
        fields: "a.b": value of all that makes its setting, and `method`.
        figures: eval/mAP and eval/rank1 of the last epoch, as shares of 1.
        scores: by `SHOWN`, of every query (Q,): average precision, and whether the first place is right
            (none in the record of an older raid, or of drawn galleries); NaN = not valid.
        evaluated_on: what has to be the same in runs that are compared, by what it is called.
    """

    path: Path
    seed: int
    fields: dict[str, Any]
    figures: dict[str, float]
    scores: dict[str, Floats]
    evaluated_on: dict[str, Any]

    @staticmethod
    def read(path: Path) -> "EvaluatedRun":
        """Read the run in `path`.

        Raises:
            InputError: the folder holds no run, one that has not ended, or one without an evaluation.
        """
        folder = RunFolder(path)
        recorded = folder.recorded()
        if not folder.model.exists():
            raise InputError(f"{path}: its run has not ended (no model.pt): go on with it by --resume")
        if not folder.evaluation.exists():
            raise InputError(
                f"{path}: no evaluation (evaluation.npz): its set has no query or gallery images"
            )
        record, written = load_record(folder.evaluation), read_flat(folder.config)
        config = dict(recorded["config"])
        seed = config.pop("seed", None)
        if not isinstance(seed, int) or "average_precision" not in record:
            raise InputError(f"{path}: run.json has no seed, or evaluation.npz no average precisions")
        fields = {"method": recorded["method"], **config, _FLIP: written.get(_FLIP, False)}
        data = recorded["data"] if isinstance(recorded["data"], dict) else {"data.root": recorded["data"]}
        fields |= {key: f"images {value[:8]}" for key, value in data.items() if _is_other_set(key)}
        run = EvaluatedRun(
            path, seed, fields, _last_figures(folder), _scores(record), _kind(recorded, data, record, written)
        )
        run._check_epoch()
        return run

    @property
    def name(self) -> str:
        """The folder's name without the seed: what the setting is called."""
        name = self.path.resolve().name
        found = re.sub(rf"[-_.]?seed[-_=.]?{self.seed}(?!\d)|[-_.]s?{self.seed}$", "", name).strip("-_.")
        return found or name

    def _check_epoch(self) -> None:
        """Refuse a record of another evaluation than the last epoch's."""
        if self.evaluated_on["protocol"] == "viper":
            return  # the figures are of both directions, the record of one
        mean = float(np.nanmean(self.scores["eval/mAP"]))
        if abs(mean - self.figures["eval/mAP"]) > 1e-6:
            raise InputError(
                f"{self.path}: evaluation.npz has mAP {mean:.4f}, the last epoch of metrics.jsonl "
                f"{self.figures['eval/mAP']:.4f}: they are not of one evaluation"
            )


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ in their seeds alone, at most one a seed.

    Attributes:
        name: unlike that of any other setting.
        runs: by rising seed.
    """

    name: str
    runs: tuple[EvaluatedRun, ...]
    by_seed: dict[int, EvaluatedRun] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_seed", {run.seed: run for run in self.runs})

    @property
    def seeds(self) -> list[int]:
        """The seeds, rising."""
        return list(self.by_seed)

    @cached_property
    def figures(self) -> dict[str, Floats]:
        """Figures of the last epoch by `SHOWN`, (S,), as shares of 1."""
        return {key: np.array([run.figures[key] for run in self.runs]) for key in SHOWN}

    def differences(self, reference: "Setting") -> dict[str, tuple[Any, Any]]:
        """Return the fields in which the reference and this setting differ, with both values.

        Of different methods, those that both have.
        """
        old, new = reference.runs[0].fields, self.runs[0].fields
        keys = [*old, *(key for key in new if key not in old)]
        if old["method"] != new["method"]:
            keys = [key for key in old if key in new]
        pairs = {key: (old.get(key, UNKNOWN), new.get(key, UNKNOWN)) for key in keys}
        return {key: values for key, values in pairs.items() if values[0] != values[1]}


def read_settings(paths: Sequence[Path]) -> list[Setting]:
    """Read runs and put together those of one setting, in the order in which they are first named.

    Raises:
        InputError: one path alone, a folder that cannot be read, runs on different queries or gallery
            images or with another kind of average precision, or two runs of one setting and seed.
    """
    if len(paths) < 2:
        raise InputError("a comparison takes two runs at least: raid compare RUN RUN ...")
    runs = [EvaluatedRun.read(path) for path in paths]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    groups: list[list[EvaluatedRun]] = []
    for run in runs:
        group = next((group for group in groups if group[0].fields == run.fields), None)
        if group is None:
            groups.append([run])
            continue
        for other in group:
            if other.seed == run.seed:
                raise InputError(
                    f"{other.path} and {run.path}: the same setting and the same seed, {run.seed}: name one "
                    "of them (checkpoints and generated images to start from do not make a setting)"
                )
        group.append(run)
    names = _names([group[0] for group in groups])
    return [
        Setting(name, tuple(sorted(group, key=lambda run: run.seed)))
        for name, group in zip(names, groups, strict=True)
    ]


def _is_other_set(key: str) -> bool:
    """Whether a fingerprint is of images other than those of the evaluation; a checkpoint is of a seed."""
    return key.endswith(".root") and key != "data.root"


def _last_figures(folder: RunFolder) -> dict[str, float]:
    path = folder.path / "metrics.jsonl"
    epochs = records(path, folder.metrics, "epoch")
    if not epochs or not all(is_finite(epochs[-1].get(key)) for key in SHOWN):
        raise InputError(f"{path}: its last epoch has no {' and '.join(SHOWN)}")
    return {key: float(epochs[-1][key]) for key in SHOWN}


def _scores(record: dict[str, NDArray[Any]]) -> dict[str, Floats]:
    precisions = np.asarray(record["average_precision"], np.float64)
    scores = {"eval/mAP": precisions}
    if "first_match" in record:
        scores["eval/rank1"] = np.where(np.isnan(precisions), np.nan, record["first_match"] == 1)
    return scores


def _kind(
    recorded: dict[str, Any], data: dict[str, str], record: dict[str, NDArray[Any]], written: dict[str, Any]
) -> dict[str, Any]:
    protocol = recorded["set"].get("protocol", "standard")
    counted = [key for key in _KIND if protocol == "cuhk03_classic" or key not in _OF_DRAWN_GALLERIES]
    return {
        "the images of data.root (fingerprint)": data["data.root"],
        "protocol": protocol,
        "number of gallery images": int(record.get("num_gallery", np.array(-1))),
        **{key: written.get(key, UNKNOWN) for key in counted},
    }


def _check_comparable(first: EvaluatedRun, run: EvaluatedRun) -> None:
    for what in {**first.evaluated_on, **run.evaluated_on}:
        old, new = (of.evaluated_on.get(what, UNKNOWN) for of in (first, run))
        if old != new and UNKNOWN not in (old, new):
            raise InputError(
                f"{run.path}: evaluated on another query set, or otherwise, than {first.path}: {what} was "
                f"{old}, is {new}; only figures of the same queries and gallery can be compared"
            )
    old_valid, new_valid = (~np.isnan(of.scores["eval/mAP"]) for of in (first, run))
    if not np.array_equal(old_valid, new_valid):
        raise InputError(
            f"{run.path}: other queries than {first.path} have a match ({new_valid.sum()} of "
            f"{len(new_valid)}, {old_valid.sum()} of {len(old_valid)}); only figures of the same "
            "queries can be compared"
        )


def _names(runs: list[EvaluatedRun]) -> list[str]:
    """Return the runs' names, with as many folders above as tell them apart, or else numbered."""
    names = [run.name for run in runs]
    for above in range(3):
        same = {name for name in names if names.count(name) > 1}
        parents = [run.path.resolve().parents for run in runs]
        names = [
            f"{parents[i][above].name}/{name}" if name in same and above < len(parents[i]) else name
            for i, name in enumerate(names)
        ]
    seen = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, seen, strict=True)]
