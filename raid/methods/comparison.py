"""`raid compare`: whether the difference between the settings of several runs is real.

Every setting is compared with the first. Two things are left to chance: which queries the set has, and
which seeds were run. The first is answered by the bootstrap over queries, paired (both settings rank the
same ones); both at once where there are two seeds at least (`raid.ops.bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.files import write_json
from raid.methods.compared_runs import Setting, read_settings
from raid.methods.seed_table import SHOWN
from raid.ops.bootstrap import DRAWS, LEVEL, Spread, interval, paired_spread, resampled_means, unpaired_spread

Floats = NDArray[np.float64]
Ends = tuple[float, float]
FORMAT = 1
_FEW_SEEDS = 5  # with fewer, Student's t is more than 1.4 times the normal's


@dataclass(frozen=True, eq=False)
class Difference:
    """A setting minus the reference in one figure, as shares of 1.

    Attributes:
        mean: over queries and seeds.
        of_seeds: (S,) of every seed, where they are paired.
        num_seeds: of the setting that has fewer.
        over_queries: interval, were other queries drawn and the models the same.
        over_both: interval, were other seeds run too; None of one seed.
    """

    mean: float
    of_seeds: Floats | None
    num_seeds: int
    over_queries: Ends
    over_both: Ends | None

    @property
    def verdict(self) -> str:
        """In words, and never more than was seen."""
        told_apart = _excludes_zero(self.over_queries)
        if self.over_both is None:
            found = "real at 95 % over queries, for these two models" if told_apart else "not told apart"
            return f"{found}; one seed: the spread of seeds is unknown; run more"
        if _excludes_zero(self.over_both):
            return f"real at 95 % over queries and seeds, {self._directions()}"
        within = (
            ": real at 95 % over queries, for these models, but within what seeds do" if told_apart else ""
        )
        more = f"; {self.num_seeds} seeds tell only large differences apart: run more"
        return f"not told apart{within}{more if self.num_seeds < _FEW_SEEDS else ''}"

    def _directions(self) -> str:
        if self.of_seeds is None:
            return "of which none is paired"
        same, number = int((np.sign(self.of_seeds) == np.sign(self.mean)).sum()), len(self.of_seeds)
        if same == number:
            return f"and in the same direction for all {number} seeds"
        return f"but {number - same} of {number} seeds went the other way"


@dataclass(frozen=True, eq=False)
class Pair:
    """A setting and the reference.

    Attributes:
        name: of the setting.
        reference: its name.
        seeds: that are paired; none where the settings share too few.
        left_out: seeds that one of both alone has, where others are paired.
        figures: by `SHOWN`, differences of the last epoch: (S,) of paired seeds, else (1,) of means.
        differences: by `SHOWN`, with intervals; no rank-1 where a record has none.
    """

    name: str
    reference: str
    seeds: list[int]
    left_out: list[int]
    figures: dict[str, Floats]
    differences: dict[str, Difference]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All settings, and each but the first compared with it."""

    settings: list[Setting]
    pairs: list[Pair]

    def as_record(self) -> dict[str, Any]:
        """Return what the JSON file holds: figures as shares of 1."""
        reference = self.settings[0]
        return {
            "format": FORMAT,
            "level": LEVEL,
            "draws": DRAWS,
            "settings": [
                {
                    "name": setting.name,
                    "runs": {str(run.seed): str(run.path) for run in setting.runs},
                    "differs": {key: list(values) for key, values in setting.differences(reference).items()},
                    "figures": {key: _summary(values) for key, values in setting.figures.items()},
                }
                for setting in self.settings
            ],
            "pairs": [
                {
                    "setting": pair.name,
                    "reference": pair.reference,
                    "paired_seeds": pair.seeds,
                    "left_out_seeds": pair.left_out,
                    "figures": {key: _summary(values) for key, values in pair.figures.items()},
                    "differences": {key: _plain(value) for key, value in pair.differences.items()},
                }
                for pair in self.pairs
            ],
        }

    def write(self, path: Path) -> None:
        """Write the record as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        write_json(path, self.as_record())


def compare(paths: Sequence[Path], *, seed: int = 0) -> Comparison:
    """Read the runs and compare every setting with that of the first.

    Args:
        paths: run folders.
        seed: of the bootstrap's draws.

    Raises:
        InputError: as `raid.methods.compared_runs.read_settings`.
    """
    settings = read_settings(paths)
    return Comparison(settings, [_pair(setting, settings[0], seed) for setting in settings[1:]])


def _pair(setting: Setting, reference: Setting, seed: int) -> Pair:
    shared = [number for number in setting.seeds if number in reference.seeds]
    others = sorted({*setting.seeds, *reference.seeds} - {*shared})
    # One shared seed says nothing of the spread, where all of them may.
    if len(shared) == 1 and min(len(setting.seeds), len(reference.seeds)) > 1:
        shared, others = [], []
    differences = {}
    for key in SHOWN:
        if all(key in run.scores for run in (*setting.runs, *reference.runs)):
            differences[key] = _difference(setting, reference, shared, key, seed)
    figures = {key: _figure_differences(setting, reference, shared, key) for key in SHOWN}
    return Pair(setting.name, reference.name, shared, others if shared else [], figures, differences)


def _figure_differences(setting: Setting, reference: Setting, shared: list[int], key: str) -> Floats:
    if not shared:
        return np.array([setting.figures[key].mean() - reference.figures[key].mean()])
    pairs = [(setting.by_seed[seed].figures[key], reference.by_seed[seed].figures[key]) for seed in shared]
    return np.array([one - other for one, other in pairs])


def _difference(setting: Setting, reference: Setting, shared: list[int], key: str, seed: int) -> Difference:
    one, other = (_of_seeds(each, shared or each.seeds, key) for each in (setting, reference))
    by_query = one.mean(axis=0) - other.mean(axis=0)
    (replicates,) = resampled_means(by_query[None], seed=seed)
    spread = _spread(one.mean(axis=1), other.mean(axis=1), paired=bool(shared))
    return Difference(
        float(by_query.mean()),
        one.mean(axis=1) - other.mean(axis=1) if shared else None,
        min(len(one), len(other)),
        interval(replicates),
        None if spread is None else interval(replicates, spread, seed=seed),
    )


def _of_seeds(setting: Setting, seeds: list[int], key: str) -> Floats:
    """Return the scores of the valid queries, (S, V)."""
    scores = np.stack([setting.by_seed[seed].scores[key] for seed in seeds])
    return scores[:, ~np.isnan(scores[0])]


def _spread(one: Floats, other: Floats, *, paired: bool) -> Spread | None:
    if min(len(one), len(other)) < 2:
        return None
    return paired_spread(one - other) if paired else unpaired_spread(one, other)


def _excludes_zero(ends: Ends) -> bool:
    return not ends[0] <= 0.0 <= ends[1]


def _summary(values: Floats) -> dict[str, Any]:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "deviation": deviation, "by_seed": values.tolist()}


def _plain(difference: Difference) -> dict[str, Any]:
    return {
        "mean": difference.mean,
        "interval_over_queries": list(difference.over_queries),
        "interval_over_queries_and_seeds": list(difference.over_both) if difference.over_both else None,
        "verdict": difference.verdict,
    }
