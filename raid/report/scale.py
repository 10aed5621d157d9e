"""Axes: from values to pixels, and where the ticks go."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps low..high to the pixels start..end."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def linear(
    low: float, high: float, start: float, end: float, *, whole: bool = False, most: int | None = None
) -> Scale:
    """Return a scale of exactly low..high; `whole` puts ticks on whole numbers alone, and on the first.

    There are about `most` ticks. One value alone gets half a unit of air (`whole`) or a little on both sides.
    """
    if low == high:
        air = 0.5 if whole else max(abs(low), 1.0) * 0.1
        low, high = low - air, high + air
    step = _step(high - low, most or (6 if whole else 5))
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [step * n for n in range(first, last + 1)]
    if whole and (not ticks or ticks[0] - math.ceil(low) > 0.4 * step):
        ticks.insert(0, float(math.ceil(low)))
    return Scale(low, high, start, end, tuple(ticks))


def fitted(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Scale:
    """Return a scale around finite values that begins and ends on a tick, and at 0 where `zero`."""
    values = list(values)
    low, high = min(values), max(values)
    if zero:
        low = min(low, 0.0)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        air = max(0.5, 0.1 * abs(low))
        low, high = (low - air, high + air) if not zero else (low, low + 2 * air)
    step = _step(high - low, 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * n for n in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a logarithmic scale around positive values, with ticks at 1, 2, 5, 10, ..."""
    values = list(values)
    decades = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    every = [step * 10.0**decade for decade in decades for step in _STEPS[:3]]
    low = max(tick for tick in every if tick <= min(values))
    high = min(tick for tick in every if tick >= max(values) and tick > low)
    ticks = [tick for tick in every if low <= tick <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if math.isclose(math.log10(tick) % 1.0, 0.0, abs_tol=1e-9)]
    return Scale(low, high, start, end, tuple(ticks), logarithmic=True)


def spaced(ticks: Sequence[tuple[float, str]], least: float) -> list[tuple[float, str]]:
    """Return every n-th of the ticks (pixel, label), for the labels to be `least` pixels apart."""
    gaps = [abs(other - one) for (one, _), (other, _) in pairwise(ticks)]
    return list(ticks[:: max(1, math.ceil(least / min(gaps) - 1e-9))] if gaps else ticks)


def _step(extent: float, most: int) -> float:
    """Return the smallest of 1, 2, 5, 10, ... that cuts `extent` into at most `most` pieces."""
    power = 10.0 ** math.floor(math.log10(extent / most))
    return next((power * step for step in _STEPS if power * step * most >= extent * (1 - 1e-9)), power * 10)
