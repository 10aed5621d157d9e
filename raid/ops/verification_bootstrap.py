"""Intervals for thresholds: the bootstrap over identities, whose pairs are not independent of each other.

Identities are drawn with replacement; a genuine pair counts as often as its identity was drawn, an
impostor's as often as both were, one times the other (the pigeonhole bootstrap, Owen 2007). Copies of one
identity make no pairs. Of more than 100 identities, 100 groups are drawn. The interval of a threshold is too
wide rather than too narrow: where nobody is more alike to others than the rest, nearly twice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled
from raid.ops.verification import NUM_LEVELS, Curve, Features, Ints, allowed, cameras_or_any, level_of, tiles

Floats = NDArray[np.float64]

DRAWS = 2000
NUM_GROUPS = 100
_MOST_LEVELS = 500
_AROUND, _HIGHEST = 81, 60
_DRAWS_AT_A_TIME = 50


class PairTable(NamedTuple):
    """How many pairs of groups of identities some levels accept.

    Attributes:
        levels: (L,) rising, from 0 to NUM_LEVELS.
        genuine: (G, L) float64, pairs within the identities of a group.
        impostor: (G, G, L) float64, pairs across identities, once: of a group and a later one, or itself.
    """

    levels: Ints
    genuine: Floats
    impostor: Floats


class Replicates(NamedTuple):
    """What drawn identities come to.

    Attributes:
        levels: (F, R) int64 of F shares of accepted impostors.
        tar: (F, R) share of the genuine pairs accepted at them.
    """

    levels: Ints
    tar: Floats


def candidate_levels(curve: Curve, fars: Sequence[float]) -> Ints:
    """Return the levels among which replicates look for theirs, rising.

    All there can be where they are few; else those just above the highest impostors, and for each of `fars`
    81 that accept a quarter to four times as many, the closer to it the denser: 0.1 % apart at first.
    """
    above = np.flatnonzero(np.diff(curve.impostor)) + 1  # just above an impostor
    if len(above) > _MOST_LEVELS:
        steps = np.linspace(-1.0, 1.0, _AROUND)
        shares = [min(far * factor, 1.0) for far in fars for factor in 4.0 ** (steps * np.abs(steps))]
        above = np.array([*above[-_HIGHEST:], *(curve.level(share) for share in shares)])
    return np.unique([0, *above, NUM_LEVELS])


def pair_table(
    features: Features,
    identities: Ints,
    cameras: Ints | None,
    levels: Ints,
    *,
    num_groups: int = NUM_GROUPS,
    block_rows: int = 1024,
) -> PairTable:
    """Count the pairs that each of `levels` accepts, by the groups of their identities.

    Identities are dealt to the groups by their order. The rest is as in
    `raid.ops.verification.pair_curve`.

    Memory: G * G * L numbers, twice: some 90 MB at the most.
    """
    numbers = np.unique(identities, return_inverse=True)[1]
    num_groups = min(num_groups, int(numbers.max()) + 1)
    places = np.searchsorted(levels, np.arange(NUM_LEVELS), side="right") - 1
    genuine = np.zeros((num_groups, len(levels)), np.int64)
    impostor = np.zeros((num_groups, num_groups, len(levels)), np.int64)
    given = numbers, cameras_or_any(cameras, numbers), cameras is not None, num_groups, places
    for tile, row, column in tiles(features, block_rows):
        _tabulate(tile, row, column, *given, genuine, impostor)
    return PairTable(levels, _accepted(genuine), _accepted(impostor))


def replicates(table: PairTable, fars: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> Replicates:
    """Return threshold and true-accept rate at every share of `fars` in each of up to `draws` replicates.

    A replicate without a genuine or without an impostor's pair is left out.
    """
    num_groups = len(table.genuine)
    drawn = np.random.default_rng(seed).multinomial(num_groups, [1 / num_groups] * num_groups, draws)
    found = [
        _replicated(table, fars, drawn[start : start + _DRAWS_AT_A_TIME].astype(np.float64))
        for start in range(0, draws, _DRAWS_AT_A_TIME)
    ]
    levels, tar = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return Replicates(levels, tar)


def _replicated(table: PairTable, fars: Sequence[float], weights: Floats) -> tuple[Ints, Floats]:
    """Return (F, R) levels and true-accept rates of the drawn `weights` (R, G)."""
    groups, num_levels = table.genuine.shape
    genuine = weights @ table.genuine
    by_group = (weights @ table.impostor.reshape(groups, -1)).reshape(-1, groups, num_levels)
    impostor = np.einsum("rg,rgl->rl", weights, by_group)
    valid = (genuine[:, 0] > 0) & (impostor[:, 0] > 0)
    genuine, impostor = genuine[valid], impostor[valid]
    most = np.stack([np.asarray(allowed(far, impostor[:, 0])) for far in fars])
    places = np.argmax(impostor[None] <= most[:, :, None], axis=2)
    rows = np.arange(len(genuine))
    return table.levels[places], genuine[rows, places] / genuine[:, 0]


def _accepted(counts: Ints) -> Floats:
    """Return how many of the counts are at a level or above."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1].astype(np.float64)


@compiled
def _tabulate(
    tile: NDArray[np.float32],
    first_row: int,
    first_column: int,
    identities: Ints,
    cameras: Ints,
    across: bool,
    num_groups: int,
    places: Ints,
    genuine: Ints,
    impostor: Ints,
) -> None:
    for row in range(len(tile)):
        one = first_row + row
        group = identities[one] % num_groups
        for column in range(max(0, one + 1 - first_column), tile.shape[1]):
            other = first_column + column
            if across and cameras[one] == cameras[other]:
                continue
            place = places[level_of(np.float64(tile[row, column]))]
            if identities[one] == identities[other]:
                genuine[group, place] += 1
            else:
                second = identities[other] % num_groups
                impostor[min(group, second), max(group, second), place] += 1
