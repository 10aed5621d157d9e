"""How likely a contradicted sample is discarded, epoch by epoch (ICSR section 2.3, self-paced learning)."""

import math
from collections.abc import Callable

SHAPES: dict[str, Callable[[float], float]] = {
    "none": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "exponential": lambda t: math.exp(-t),
    "cosine": lambda t: 0.5 * (1.0 + math.cos(math.pi * t)),
}


def discard_probability(
    kind: str, epoch: int, epochs: int, *, horizon: float = 3.0, start: float = 1.0, end: float = 0.0
) -> float:
    """Return the probability of discarding a contradicted sample at `epoch`.

    It is end + (start - end) * shape(t) with t = min(1, epoch / (epochs * horizon)). With the published
    horizon of 3 a run ends after a third of the curve (cosine: near .76); with 1 it sees all of it.
    The authors published the cosine only; the constants of linear and exponential are readings.

    Args:
        kind: shape of the decay: `none` (always `start`), `linear`, `exponential` (exp(-t), which does
            not reach `end`) or `cosine`.
        epoch: epoch, counted from 0.
        epochs: number of epochs of the run.
        horizon: length of the whole curve, in runs.
        start: probability at epoch 0.
        end: probability at the end of the curve.

    Raises:
        ValueError: unknown `kind`, or a number out of its range.
    """
    if kind not in SHAPES:
        raise ValueError(f"unknown decay {kind!r}: choose one of {', '.join(SHAPES)}")
    if epoch < 0 or epochs < 1 or not horizon > 0:
        raise ValueError(f"need epoch >= 0, epochs >= 1, horizon > 0; got {epoch}, {epochs}, {horizon}")
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise ValueError(f"start and end are probabilities; got {start}, {end}")
    t = min(1.0, epoch / (epochs * horizon))
    return end + (start - end) * SHAPES[kind](t)
