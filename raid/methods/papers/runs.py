"""Runs as the papers' tables see them: what they were made with and on, and their figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raid.config import determining, flatten, load, read_flat
from raid.errors import InputError
from raid.evaluate import load_record
from raid.methods.compared_runs import UNKNOWN, EvaluatedRun
from raid.methods.known import config_of
from raid.methods.papers.tables import Cell
from raid.methods.slsr.clusters import Clustered
from raid.report.reading import is_finite
from raid.run_folder import RunFolder

# Not in a run's hash, and not the same figure with another value of them.
_KIND = ("evaluate.ap", "evaluate.flip")
_OF_DRAWN_GALLERIES = ("evaluate.cuhk03", "evaluate.seed")
_OF_RERANKING = ("evaluate.rerank_k1", "evaluate.rerank_k2", "evaluate.rerank_weight")
_RANK_20 = "rank-20"  # which an epoch does not record, but the last evaluation's curve has
_SAME = 1e-6  # as far as rounding takes two records of one figure apart

Differences = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class TableRun:
    """A run that has ended.

    Attributes:
        path: of its folder.
        method: icsr, mar or slsr.
        fields: "a.b": value of its configuration, seed included, and of how it was evaluated.
        facts: of its sets.
        images: fingerprints of its sets, by the fields that say where they are.
        counts: of its evaluation, by what was counted; -1 = not recorded.
        epoch: figures of the last one.
    """

    path: Path
    method: str
    fields: Mapping[str, Any]
    facts: Mapping[str, str]
    images: Mapping[str, str]
    counts: Mapping[str, int]
    epoch: Mapping[str, Any]

    @staticmethod
    def read(path: Path) -> "TableRun":
        """Read the run in `path`.

        Raises:
            InputError: as `raid.methods.compared_runs.EvaluatedRun.read`.
        """
        run, folder = EvaluatedRun.read(path), RunFolder(path)
        recorded, written = folder.recorded(), read_flat(folder.config)
        data = recorded["data"] if isinstance(recorded["data"], dict) else {"data.root": recorded["data"]}
        evaluation = {key: value for key, value in written.items() if key.startswith("evaluate.")}
        return TableRun(
            path,
            recorded["method"],
            {**recorded["config"], **evaluation},
            {"protocol": "standard", **recorded["set"]},
            {key: value for key, value in data.items() if key.endswith(".root")},
            {
                "queries": len(run.scores["eval/mAP"]),
                "gallery images": int(run.evaluated_on["number of gallery images"]),
            },
            folder.metrics()[-1],
        )

    def figures(self, cell: Cell) -> dict[str, float]:
        """Return the figures of the last epoch that `cell` has, in percent.

        Raises:
            InputError: the run has no such figure.
        """
        return {label: 100.0 * self._share(cell, label) for label in cell.figures}

    def _silhouette(self, num_clusters: int) -> float:
        clusters = Clustered.read(RunFolder(self.path).clusters)
        found = clusters.silhouette_plane[clusters.numbers == num_clusters]
        if not len(found):
            raise InputError(f"its clusters.npz has no silhouette of {num_clusters} clusters")
        return float(found[0])

    def _at_rank_20(self) -> float:
        record = load_record(RunFolder(self.path).evaluation)
        curve = record["cmc"] if "cmc" in record else np.empty(0)
        if not len(curve) or abs(float(curve[0]) - self.epoch["eval/rank1"]) > _SAME:
            raise InputError("its evaluation.npz has no curve of the last epoch, and so no rank-20")
        return float(curve[min(20, len(curve)) - 1])

    def _share(self, cell: Cell, label: str) -> float:
        if cell.kind == "silhouette":
            return self._silhouette(int(label.removeprefix("k = ")))
        if label == _RANK_20:
            return self._at_rank_20()
        key = "/".join(filter(None, ("eval", cell.kind, label.replace("-", ""))))
        if not is_finite(self.epoch.get(key)):
            option = f" (evaluate.{cell.kind}=true adds it)" if cell.kind else ""
            raise InputError(f"its last epoch has no {key}{option}")
        return float(self.epoch[key])


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a run has that belongs into a cell."""

    cell: Cell
    fields: Mapping[str, Any]

    @staticmethod
    def of(cell: Cell, jobs: Path) -> "Wanted":
        """Return it by the cell's run file in `jobs`.

        Raises:
            InputError: the run file cannot be read, or is wrong.
        """
        job = cell.job
        config = load(config_of(job.method), jobs / job.file, job.overrides.split())
        resolved = flatten(config)
        fields = determining(config) | {key: resolved[key] for key in _evaluation_of(cell)}
        fields = {key: value for key, value in fields.items() if key not in cell.varying}
        return Wanted(cell, json.loads(json.dumps(fields)))  # as a run folder has them

    def differences(self, run: TableRun) -> Differences:
        """Return what keeps a run of the same method out: what it has, and what the cell wants, by its name.

        The set comes first, then how it was evaluated and the configuration.
        """
        of, found = self.cell.of, Differences()
        for key, values in self.cell.facts.items():
            known = run.facts.get(key, UNKNOWN)
            if known not in values:
                found[_name_of_fact(key)] = known, " or ".join(values)
        for what, number in (("queries", of.num_query), ("gallery images", of.num_gallery)):
            if run.counts[what] != number:
                found[f"the number of {what}"] = run.counts[what], number
        for key, value in self.fields.items():
            if run.fields.get(key, UNKNOWN) != value:
                found[key] = run.fields.get(key, UNKNOWN), value
        found |= {key: (UNKNOWN, "any") for key in self.cell.varying if key not in run.fields}
        extra = [key for key in run.fields if key not in self.fields and key not in self.cell.varying]
        found |= {key: (run.fields[key], UNKNOWN) for key in extra if not key.startswith("evaluate.")}
        return found


def _evaluation_of(cell: Cell) -> tuple[str, ...]:
    """Return the fields of section evaluate on which the cell's figures depend."""
    if cell.kind == "silhouette":
        return ()
    drawn = _OF_DRAWN_GALLERIES if "cuhk03_classic" in cell.of.facts["protocol"] else ()
    return (*_KIND, *drawn, *(_OF_RERANKING if cell.kind == "rerank" else ()))


def _name_of_fact(key: str) -> str:
    return "set" if key == "set" else key.replace("_", " ") if key.startswith("source_") else f"set's {key}"
