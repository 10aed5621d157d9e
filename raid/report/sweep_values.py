"""Values of a sweep's axes and of its objective as text, as places and as colours."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raid.report.charts import Show, number, percent, whole_percent
from raid.report.reading import is_finite
from raid.report.style import HEAT_STEPS
from raid.sweep_folder import Axis, Objective, Trial
from raid.sweep_points import applies, badness, deviation, key_of, mean

_SHARES = re.compile(r"eval/(.*/)?(mAP|mINP|rank\d+)")
_FAINTEST = 3  # of the heat's steps: those below are hardly seen as lines


def text(value: Any) -> str:
    """Return a value as a run file has it; a number of about four digits."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short(shown: str, most: int) -> str:
    """Return a text whose middle is left out where it has more than `most` characters."""
    if len(shown) <= most:
        return shown
    return f"{shown[: most // 2]}…{shown[len(shown) - (most - most // 2 - 1) :]}"


@dataclass(frozen=True)
class Shown:
    """How a figure is written.

    Attributes:
        unit: of the numbers in a table; empty: there is none.
        one: a value.
        tick: a value, beside an axis.
    """

    unit: str
    one: Show
    tick: Show

    @staticmethod
    def of(key: str) -> "Shown":
        """Return how the figures of a key are written: those of a ranking in percent."""
        return Shown("%", percent, whole_percent) if _SHARES.fullmatch(key) else Shown("", number, number)

    def head(self, name: str) -> str:
        """Return the head of a column."""
        return f"{name}, {self.unit}" if self.unit else name

    def spread(self, values: Sequence[float], *, signed: bool = False) -> str:
        """Return mean and deviation in the unit; of one value it alone, of none a dash."""
        if not values:
            return "–"
        sign, middle, around = "+" if signed else "", mean(values), deviation(values)
        if self.unit:
            form, middle, spread = ".1f", 100 * middle, 100 * (around or 0.0)
        else:
            form, spread = _form(max(abs(middle), around or 0.0), 3 if signed else 4), around or 0.0
        return f"{middle:{sign}{form}}" if around is None else f"{middle:{sign}{form}} ± {spread:{form}}"

    def whole(self, values: Sequence[float]) -> str:
        """Return mean and deviation with their unit, in one piece."""
        return f"{self.spread(values)} {self.unit}".rstrip().replace(" ", "\N{NO-BREAK SPACE}")


def _form(size: float, digits: int) -> str:
    """Return the format of numbers up to a size, of so many digits, for them to have as many decimals."""
    if not 1e-5 <= size < 1e6:
        return f".{digits}g"
    return f".{max(0, digits - 1 - math.floor(math.log10(size)))}f"


def text_of(axis: Axis, point: Mapping[str, Any]) -> str:
    """Return a point's value of an axis, or a dash where that changes nothing."""
    return text(point[axis.path]) if applies(axis, point) else "–"


def distinct(axis: Axis, trials: Iterable[Trial]) -> dict[str, Any]:
    """Return the values of an axis that were tried where they change something, by what tells them apart."""
    values = [trial.point[axis.path] for trial in trials if applies(axis, trial.point)]
    return {key_of(value): value for value in values}


def ordered(axis: Axis, trials: Iterable[Trial]) -> list[Any]:
    """Return the values that were tried: numbers by size, others as the axis has them."""
    found = distinct(axis, trials)
    if all(map(is_finite, found.values())):
        return sorted(found.values())
    declared = {key_of(value): i for i, value in enumerate(axis.values)}
    return [found[key] for key in sorted(found, key=lambda key: (declared.get(key, len(declared)), key))]


def is_range(axis: Axis, values: Sequence[Any]) -> bool:
    """Whether the values are numbers drawn from a range, which a scale shows; others are put side by side."""
    drawn = axis.low is not None and any(value not in axis.values for value in values)
    return drawn and all(map(is_finite, values))


def is_log(axis: Axis, values: Iterable[float]) -> bool:
    """Whether the numbers are put on a logarithmic scale."""
    return axis.log and all(value > 0 for value in values)


def goodness(objective: Objective, values: Mapping[int, float]) -> dict[int, float]:
    """Return where each trial's value is between the worst, 0, and the best, 1, by number."""
    bad = {number: badness(objective, value) for number, value in values.items()}
    low, high = min(bad.values()), max(bad.values())
    return {number: (high - value) / (high - low) if high > low else 1.0 for number, value in bad.items()}


def heat(share: float) -> str:
    """Return the class of a line's colour, from faint at 0 to strong at 1."""
    return f"h{_FAINTEST + round(share * (HEAT_STEPS - 1 - _FAINTEST))}"


def heat_steps() -> list[str]:
    """Return the classes that `heat` has, from faint to strong."""
    return [f"h{step}" for step in range(_FAINTEST, HEAT_STEPS)]


def share_of(value: float, low: float, high: float, *, log: bool) -> float:
    """Return where a value is between two others, from 0 to 1."""
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low) if high > low else 0.5
