"""What `raid evaluate` prints and stores of its rankings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raid.evaluate import metrics
from raid.ops.ranking import Ranking
from raid.protocols import CUHK03, Options

RANKS = (1, 5, 10, 20)
_COLUMNS = ("mAP", *(f"rank{k}" for k in RANKS), "mINP")
_ROWS = {
    "": "single query",
    "rerank": "  re-ranked",
    "multi_query": "multi-query",
    "multi_query/rerank": "  re-ranked",
}
FORMAT = 1


@dataclass(frozen=True)
class Evaluated:
    """What came of one set.

    Attributes:
        facts: which set it is and how it was evaluated, as the JSON file has them.
        rankings: by protocol, as `raid.protocols.rankings` names them.
    """

    facts: Mapping[str, Any]
    rankings: Mapping[str, Ranking]

    @property
    def figures(self) -> dict[str, float]:
        """By metric key, as shares of 1: eval/mAP, eval/rank20, ...; eval/num_valid counts queries."""
        found: dict[str, float] = {}
        for name, ranking in self.rankings.items():
            found |= metrics(ranking, name, ranks=RANKS)
            found["/".join(filter(None, ("eval", name, "num_valid")))] = ranking.num_valid
        return found


def as_record(sets: Sequence[Evaluated]) -> dict[str, Any]:
    """Return the sets with their figures and, of several, mean and deviation (n - 1) of what all have."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "sets": [{**each.facts, "figures": each.figures} for each in sets],
    }
    if len(sets) > 1:
        record["mean"] = {key: float(values.mean()) for key, values in _values(sets).items()}
        record["deviation"] = {key: float(values.std(ddof=1)) for key, values in _values(sets).items()}
    return record


def as_text(sets: Sequence[Evaluated], options: Options) -> str:
    """Return a table, in percent; of several sets mean +- deviation."""
    width = 9 if len(sets) == 1 else 14
    head = "".join(f"{name.replace('rank', 'rank-'):>{width}}" for name in _COLUMNS)
    lines = [*_about(sets, options), f"{'':<14}{head}{'valid queries':>16}"]
    values = _values(sets)
    for name in sets[0].rankings:
        if not all(name in each.rankings for each in sets):
            continue
        prefix = f"eval/{name}/" if name else "eval/"
        cells = "".join(f"{_cell(100 * values[prefix + column]):>{width}}" for column in _COLUMNS)
        lines.append(f"{_ROWS[name]:<14}{cells}{_cell(values[prefix + 'num_valid'], '.0f'):>16}")
    return "\n".join(lines)


def file_name(sets: Sequence[Evaluated], model: str = "model") -> str:
    """Return what the JSON file is called: by the names of the sets, and of a model that is not the run's."""
    names = list(dict.fromkeys(str(each.facts["name"]) for each in sets))
    more = f"_and_{len(names) - 1}_more" if len(names) > 1 else ""
    of = "" if model == "model" else f"_{model}"  # pretrained.pt lies beside model.pt
    return f"evaluation_{re.sub(r'[^0-9A-Za-z.-]+', '_', names[0])}{more}{of}.json"


def _about(sets: Sequence[Evaluated], options: Options) -> list[str]:
    """Return a line for every set, and what was counted how."""
    lines = []
    for each in sets:
        facts = each.facts
        known = [f"{key} {value}" for key, value in facts["facts"].items() if key != "protocol"]
        counts = [f"{facts['num_query']:,} queries", f"{facts['num_gallery']:,} gallery images"]
        if facts["num_multi_query"]:
            counts.append(f"{facts['num_multi_query']:,} for multi-query")
        if len(sets) > 1:
            figures = each.figures
            known.append(f"mAP {100 * figures['eval/mAP']:.1f}, rank-1 {100 * figures['eval/rank1']:.1f}")
        lines.append(f"{facts['name']}: {', '.join([*counts, *known])}")
    lines.append(f"{_protocol(sets[0].facts, options)}; average precision {options.ap}")
    if options.rerank:
        lines[-1] += (
            f"; re-ranking k1={options.rerank_k1}, k2={options.rerank_k2}, weight {options.rerank_weight}"
        )
    if len(sets) > 1:
        lines.append(f"mean +- deviation of {len(sets)} sets")
    return lines


def _protocol(facts: Mapping[str, Any], options: Options) -> str:
    left_out = "same identity and camera left out" if facts["cameras"] else "no cameras: nothing left out"
    match facts["protocol"]:
        case "cuhk03_classic":
            repeats, gallery = CUHK03[options.cuhk03]
            of = f"average precision on the {gallery} gallery"
            return f"CUHK03 classic as {options.cuhk03}: {repeats} drawn galleries a query, {of}"
        case "viper":
            return f"VIPeR: both directions, averaged; {left_out}"
    return f"standard: {left_out}"


def _values(sets: Sequence[Evaluated]) -> dict[str, Any]:
    """Return every figure of all sets, (S,); those that not all have are left out."""
    figures = [each.figures for each in sets]
    return {
        key: np.array([of_set[key] for of_set in figures], np.float64)
        for key in figures[0]
        if all(key in of_set for of_set in figures)
    }


def _cell(values: Any, form: str = ".1f") -> str:
    mean = format(values.mean(), form)
    return mean if len(values) == 1 else f"{mean} +- {format(values.std(ddof=1), form)}"
