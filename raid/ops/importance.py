"""How much each of several settings matters to a figure: permutation importance (Breiman 2001).

It is cross-validated: a random forest learns the figure from the settings of some trials and predicts that
of the others. What a setting matters is how much worse the prediction becomes where its values are those of
other trials.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FEWEST = 10  # trials: with fewer, a fold has hardly one to be tested on
REPEATS = 5  # of the cross-validation, over other folds and with other forests
_FOLDS = 5
_TREES = 50
_DRAWS = 5  # orders that a setting's values are put into


class Importance(NamedTuple):
    """What the settings matter.

    Attributes:
        drops: (A,) by how much R^2 falls where a setting's values are shuffled; mean of the repeats.
        deviations: (A,) of the repeats (n - 1).
        r2: share of the figure's variance that is predicted, of trials that were not learned from; 0 or less
            where the settings tell nothing.
    """

    drops: Floats
    deviations: Floats
    r2: float


def permutation_importance(
    axes: Sequence[Floats], figure: Floats, groups: Ints, *, seed: int = 0
) -> Importance:
    """Return how much each setting matters to a figure.

    The order of the settings does not change what is found of each.

    Args:
        axes: (N, d) of every setting, of N trials: a number, or the d columns that stand for a name. They are
            shuffled together.
        figure: (N,) to be predicted.
        groups: (N,) trials of one group are learned from, or predicted, together: those that differ in
            nothing but chance would tell each other's figure.
        seed: of all draws.

    Raises:
        ValueError: fewer than `FEWEST` trials, fewer than two groups, values that are not finite, or shapes
            that do not fit.

    Time: 25 forests of 50 trees on one thread, about a second for 60 trials.
    """
    _check(axes, figure, groups)
    if np.ptp(figure) == 0:
        return Importance(np.zeros(len(axes)), np.zeros(len(axes)), 0.0)
    # A forest's draws go by the place of a column.
    order = sorted(range(len(axes)), key=lambda axis: axes[axis].tobytes())
    scores = np.stack(
        [_scores([axes[axis] for axis in order], figure, groups, seed, i) for i in range(REPEATS)]
    )
    falls = np.empty((REPEATS, len(axes)))
    falls[:, order] = scores[:, :1] - scores[:, 1:]
    return Importance(falls.mean(axis=0), falls.std(axis=0, ddof=1), float(scores[:, 0].mean()))


def _scores(axes: Sequence[Floats], figure: Floats, groups: Ints, seed: int, repeat: int) -> Floats:
    """Return R^2 of the prediction, and that with each setting shuffled, (1 + A,)."""
    from sklearn.ensemble import (
        RandomForestRegressor,
    )  # here, for the commands that need it not start without

    random = np.random.default_rng([seed, repeat])
    folds = _folds(groups, random)
    orders = [random.permutation(len(figure)) for _ in range(_DRAWS)]
    table = np.concatenate(axes, axis=1)
    asked = np.stack(
        [table, *(_shuffled(axes, axis, order) for axis in range(len(axes)) for order in orders)]
    )
    predicted = np.empty(asked.shape[:2])
    for fold in np.unique(folds):
        tested = folds == fold
        forest = RandomForestRegressor(_TREES, random_state=seed + repeat, n_jobs=1)
        forest.fit(table[~tested], figure[~tested])
        rows = asked[:, tested]
        predicted[:, tested] = forest.predict(rows.reshape(-1, table.shape[1])).reshape(rows.shape[:2])
    missed = ((predicted - figure) ** 2).mean(axis=1) / figure.var()
    return 1.0 - np.array([missed[0], *missed[1:].reshape(len(axes), _DRAWS).mean(axis=1)])


def _folds(groups: Ints, random: np.random.Generator) -> Ints:
    """Return the fold of every row, (N,): the groups are dealt out in a drawn order."""
    names, group = np.unique(groups, return_inverse=True)
    return (random.permutation(len(names)) % _FOLDS)[group]


def _shuffled(axes: Sequence[Floats], axis: int, order: Ints) -> Floats:
    """Return the table with one setting's rows in another order."""
    return np.concatenate([values[order] if i == axis else values for i, values in enumerate(axes)], axis=1)


def _check(axes: Sequence[Floats], figure: Floats, groups: Ints) -> None:
    num = len(figure)
    if num < FEWEST or len(np.unique(groups)) < 2:
        raise ValueError(
            f"need at least {FEWEST} trials and 2 groups, got {num} and {len(np.unique(groups))}"
        )
    if not axes or any(values.ndim != 2 or len(values) != num for values in axes) or len(groups) != num:
        raise ValueError(f"need settings (N, d), figure and groups (N,), N = {num}")
    if not all(np.isfinite(values).all() for values in (*axes, figure)):
        raise ValueError("settings and figure must be finite")
