"""Are two pictures of one person? How often a threshold on their similarity is right, over all pairs.

A pair of one identity is genuine, a pair of two an impostor's; it is accepted where its cosine similarity is
at least the threshold. Thresholds are levels: steps of 2^-20, which a float32 product of unit rows does not
resolve any finer. So the pairs become two histograms, of which every figure is exact, and no matrix of all
pairs is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.ops.compiled import compiled
from raid.ops.neighbors import row_blocks
from raid.ops.products import as_slices, products

Ints = NDArray[np.int64]
Features = NDArray[np.float32]

STEPS = 2**20  # of a similarity of 1
NUM_LEVELS = 2 * STEPS + 1  # -1 to 1; level NUM_LEVELS accepts nothing
_UNIT_WITHIN = 1e-3


@dataclass(frozen=True, eq=False)
class Curve:
    """How many pairs every threshold accepts.

    Attributes:
        genuine: (NUM_LEVELS + 1,) int64, pairs of one identity that a level accepts; falls to 0.
        impostor: the same of pairs of two identities.
    """

    genuine: Ints
    impostor: Ints

    @property
    def num_genuine(self) -> int:
        """Pairs of one identity."""
        return int(self.genuine[0])

    @property
    def num_impostor(self) -> int:
        """Pairs of two identities."""
        return int(self.impostor[0])

    def level(self, far: float) -> int:
        """Return the lowest level that accepts at most the share `far` of the impostors."""
        return int(np.argmax(self.impostor <= allowed(far, self.num_impostor)))

    def far(self, level: int) -> float:
        """Return the share of the impostors that a level accepts."""
        return int(self.impostor[level]) / self.num_impostor

    def tar(self, level: int) -> float:
        """Return the share of the genuine pairs that a level accepts."""
        return int(self.genuine[level]) / self.num_genuine

    def equal_error_rate(self) -> float:
        """Return the share at which impostors are accepted and genuine pairs rejected, interpolated."""
        accepted, rejected = self.impostor / self.num_impostor, 1 - self.genuine / self.num_genuine
        above = int(np.argmax(rejected >= accepted))  # at level 0 it is 0 of 1, at the last 1 of 0
        (one, other), (low, high) = accepted[above - 1 : above + 1], rejected[above - 1 : above + 1]
        share = (one - low) / ((one - low) + (high - other))
        return float(one + share * (other - one))

    def area(self) -> float:
        """Return the area under the curve: how often a genuine pair is more alike than an impostor's.

        Pairs of the same level count half.
        """
        genuine = -np.diff(self.genuine).astype(np.float64)
        below = (self.num_impostor - self.impostor[:-1]).astype(np.float64)
        same = -np.diff(self.impostor)
        return float(genuine @ (below + 0.5 * same)) / self.num_genuine / self.num_impostor


def allowed(far: float, num_impostor: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
    """Return how many of the impostors may be accepted; 29 of 100 at 0.29, whatever its last digit."""
    return far * num_impostor * (1 + 1e-12)


def similarity_of(level: int) -> float:
    """Return the threshold that a level is, as a similarity; exact in float32."""
    return level / STEPS - 1.0


def pair_curve(
    features: Features, identities: Ints, cameras: Ints | None = None, *, block_rows: int = 1024
) -> Curve:
    """Count the pairs by their similarity.

    Args:
        features: (N, D) unit rows.
        identities: (N,) of any numbers.
        cameras: (N,): pairs of one camera are left out; None: all pairs.
        block_rows: rows and columns compared at a time; they do not change the result.

    Raises:
        ValueError: the features are not unit rows.

    Memory: 34 MB, and blocks. Time: N * N * D multiplications of float32, on torch's threads.
    """
    counts = np.zeros((2, NUM_LEVELS), np.int64)
    for tile, row, column in tiles(features, block_rows):
        _count(
            tile, row, column, identities, cameras_or_any(cameras, identities), cameras is not None, counts
        )
    accepted = np.zeros((2, NUM_LEVELS + 1), np.int64)
    accepted[:, :-1] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return Curve(genuine=accepted[0], impostor=accepted[1])


def tiles(features: Features, block_rows: int) -> Iterator[tuple[NDArray[np.float32], int, int]]:
    """Yield the similarities of all pairs of rows, block by block: (tile, its first row, its first column).

    A tile on the diagonal has its pairs twice, and every row with itself.

    Raises:
        ValueError: the features are not unit rows.
    """
    lengths = np.linalg.norm(features, axis=1)
    if not (np.abs(lengths - 1.0) < _UNIT_WITHIN).all():
        raise ValueError("features must be unit rows")
    blocks = row_blocks(len(features), block_rows)
    for number, (start, stop) in enumerate(blocks):
        rows = as_slices(features[start:stop])
        for first, last in blocks[number:]:
            yield products(rows, as_slices(features[first:last])), start, first


@compiled
def level_of(similarity: float) -> int:
    """Return the highest level that accepts a similarity."""
    level = int(np.floor((similarity + 1.0) * STEPS))
    return min(max(level, 0), NUM_LEVELS - 1)


@compiled
def _count(
    tile: NDArray[np.float32],
    first_row: int,
    first_column: int,
    identities: Ints,
    cameras: Ints,
    across: bool,
    counts: Ints,
) -> None:
    for row in range(len(tile)):
        one = first_row + row
        for column in range(max(0, one + 1 - first_column), tile.shape[1]):
            other = first_column + column
            if not (across and cameras[one] == cameras[other]):
                kind = int(identities[one] != identities[other])
                counts[kind, level_of(np.float64(tile[row, column]))] += 1


def cameras_or_any(cameras: Ints | None, identities: Ints) -> Ints:
    """Return an array in any case: compiled code wants one."""
    return identities if cameras is None else cameras
