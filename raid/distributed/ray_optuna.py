"""Optuna's search for Ray Tune, whose trials have numbers; importing this needs Optuna."""

import itertools
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from raid.distributed.ray_tune import NUMBER, VALUE, Draws, Mode


class NumberedOptuna(OptunaSearch):  # type: ignore[misc]
    """Draws points by Optuna's tree-structured Parzen estimator; trials are numbered in their order."""

    def __init__(self, draws: Draws, mode: Mode) -> None:
        """Begin with what is known of earlier trials."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(
            {path: _distribution(values) for path, values in draws.space.items()},
            metric=VALUE,
            mode=mode,
            points_to_evaluate=[dict(point) for point, _ in draws.known],
            evaluated_rewards=[value for _, value in draws.known],
            # Another seed than before, or the first draws would be those of the first trials again.
            seed=draws.seed + len(draws.known),
        )
        self._numbers = itertools.count(draws.first)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the point of the next trial, with its number."""
        point = super().suggest(trial_id)
        return None if point is None else {**point, NUMBER: next(self._numbers)}


def _distribution(values: tuple[Any, ...]) -> optuna.distributions.BaseDistribution:
    match values:
        case (tuple() as choices,):
            return optuna.distributions.CategoricalDistribution(choices)
        case low, high, log:
            return optuna.distributions.FloatDistribution(low, high, log=log)
    raise AssertionError(values)
