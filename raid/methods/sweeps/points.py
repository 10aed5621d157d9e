"""The points of a search: what values the settings of each trial have."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from raid.errors import InputError
from raid.sweep_folder import Axis

Point: TypeAlias = dict[str, Any]  # value of every axis, by path
Check: TypeAlias = Callable[[Point], None]
# Draws for a point that was not drawn before and is legal, before it is taken that there is none.
_PATIENCE = 200


def overrides_of(axes: Iterable[Axis], point: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a point sets, by path of the configuration."""
    found: dict[str, Any] = {}
    for axis in axes:
        found |= axis.overrides(point[axis.path])
    return found


def chosen(
    axes: Sequence[Axis], names: Sequence[str] | None, values: Mapping[str, Any], fixed: Iterable[str]
) -> tuple[Axis, ...]:
    """Return the axes that are searched.

    Args:
        axes: that the sweep knows.
        names: of those that are searched; None: all. The last part of a path will do.
        values: lists that take the place of an axis' own values and range, by name.
        fixed: paths that the user has set, which are therefore not searched.

    Raises:
        InputError: there is no such axis, an axis is named and set, values are no list, or nothing is left.
    """
    known = {name: axis for axis in axes for name in (axis.name, axis.path)}
    for name in (*(names or ()), *values):
        if name not in known:
            listed = ", ".join(axis.name for axis in axes)
            raise InputError(f"{name}: is not searched by this sweep; it knows {listed}")
    wanted = list(axes) if names is None else [known[name] for name in dict.fromkeys(names)]
    taken = set(fixed)
    for axis in wanted:
        if axis.path in taken and (names is not None or axis.name in values or axis.path in values):
            raise InputError(f"{axis.path}: is set and searched; leave one of both out")
    given = {known[name].path: _listed(known[name], of_axis) for name, of_axis in values.items()}
    left = [axis for axis in wanted if axis.path not in taken]
    if not left:
        raise InputError("nothing is left to search: every axis is set by an override")
    return tuple(
        replace(axis, values=given[axis.path], low=None, high=None) if axis.path in given else axis
        for axis in left
    )


def _listed(axis: Axis, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values or len({repr(value) for value in values}) < len(values):
        raise InputError(
            f"--values {axis.name}: {values!r} is not a list of different values, such as [1, 3, 5]"
        )
    # YAML reads off as false.
    return tuple("off" if value is False and "off" in axis.values else value for value in values)


def grid(axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield every combination of the axes' values once, the last axis changing fastest."""
    seen = set()
    for values in itertools.product(*(axis.values for axis in axes)):
        point = settled(axes, {axis.path: value for axis, value in zip(axes, values, strict=True)})
        key = repr(point)
        if key not in seen:
            seen.add(key)
            yield point


def settled(axes: Sequence[Axis], point: Point) -> Point:
    """Return the point with the first value for every axis that changes nothing beside the others' values.

    So points that are the same run are the same point: dbscan, say, takes no number of clusters.
    """
    found = dict(point)
    for axis in axes:
        if any(path in point and point[path] not in values for path, values in axis.only.items()):
            found[axis.path] = axis.values[0]
    return found


def legal(points: Iterable[Point], check: Check) -> tuple[list[Point], list[str]]:
    """Return the points that `check` lets pass, and what it says of the others."""
    kept, refused = [], []
    for point in points:
        try:
            check(point)
            kept.append(point)
        except InputError as error:
            refused.append(str(error))
    return kept, refused


def drawn(axes: Sequence[Axis], num: int, seed: int, check: Check) -> list[Point]:
    """Draw different points that `check` lets pass: `num`, or fewer where there are no more.

    The first points are the same for any `num`.

    Raises:
        InputError: of the last draw, where none passes.
    """
    random = np.random.default_rng(seed)
    found: list[Point] = []
    failure: InputError | None = None
    since = 0
    while len(found) < num and since < _PATIENCE:
        point = settled(axes, {axis.path: _draw(axis, random) for axis in axes})
        since += 1
        if point in found:
            continue
        try:
            check(point)
        except InputError as error:
            failure = error
            continue
        found.append(point)
        since = 0
    if not found and failure is not None:
        raise failure
    return found


def _draw(axis: Axis, random: np.random.Generator) -> Any:
    if axis.low is None or axis.high is None:
        return axis.values[int(random.integers(len(axis.values)))]
    if axis.log:
        return float(np.exp(random.uniform(np.log(axis.low), np.log(axis.high))))
    return float(random.uniform(axis.low, axis.high))


def space_of(axes: Iterable[Axis]) -> dict[str, tuple[Any, ...]]:
    """Return what Optuna draws from, by path: ((values),) or (low, high, log)."""
    return {
        axis.path: (axis.values,) if axis.low is None else (axis.low, axis.high, axis.log) for axis in axes
    }


def told(axes: Iterable[Axis], point: Mapping[str, Any]) -> str:
    """Return a point in words."""
    return ", ".join(f"{axis.name}={_short(point[axis.path])}" for axis in axes)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
