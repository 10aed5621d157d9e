"""What images are labelled with: identities, or distributions over them (SLSR eq. 6 to 13)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raid.errors import InputError
from raid.methods.slsr.config import Generated
from raid.ops import smoothing
from raid.ops.smoothing import Sets

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Targets:
    """The labels of N real and n generated images, in this order, over O outputs of the classifier.

    Attributes:
        table: (R, O) distributions: a row an identity, then a row a cluster.
        rows: (N + n,) which row of the table an image has.
        num_real: N.
        hits: (R, O) bool: outputs that count as right for an image of the row: its identity, or one of its
            cluster, whatever the labels say.
    """

    table: Floats
    rows: Ints
    num_real: int
    hits: NDArray[np.bool_]

    @property
    def num_outputs(self) -> int:
        """O."""
        return int(self.table.shape[1])


def of_real(labels: Ints, num_identities: int, epsilon: float, *, num_outputs: int | None = None) -> Targets:
    """Return the targets of labelled images (N,), smoothed by `epsilon` (plain LSR)."""
    num_outputs = num_outputs or num_identities
    identities = np.arange(num_identities)
    table = smoothing.lsr(identities, num_outputs, epsilon)
    hits = smoothing.lsr(identities, num_outputs, 0.0) > 0
    return Targets(table, labels, len(labels), hits)


def with_generated(
    labels: Ints,
    num_identities: int,
    epsilon: float,
    made_from: Ints,
    sets: Sets,
    chosen: Generated,
    seed: int,
) -> Targets:
    """Return the targets of real and generated images.

    Args:
        labels: (N,) identities of the real images.
        num_identities: K.
        epsilon: of the real images' labels.
        made_from: (n,) the cluster of every generated image.
        sets: (k, K) identities of every cluster, C_i.
        chosen: kind of label, and control.
        seed: of the control.

    Raises:
        InputError: a cluster with generated images holds no identity.
    """
    assert chosen.label != "none"
    empty = [int(cluster) for cluster in np.unique(made_from) if not sets[cluster].any()]
    if empty:
        raise InputError(
            f"generated.min_images: no identity has {chosen.min_images} images in cluster "
            f"{', '.join(map(str, empty))}: its generated images could be nobody; lower it"
        )
    num_outputs = num_identities + (chosen.label == "all_in_one")
    real = of_real(labels, num_identities, epsilon, num_outputs=num_outputs)
    more = np.zeros((len(sets), num_outputs))
    used = np.flatnonzero(sets.any(axis=1))
    more[used] = _distributions(sets[used], num_identities, chosen, seed)
    hits = np.zeros(more.shape, dtype=bool)
    hits[:, :num_identities] = sets
    return Targets(
        np.concatenate([real.table, more]),
        np.concatenate([labels, num_identities + made_from]),
        len(labels),
        np.concatenate([real.hits, hits]),
    )


def _distributions(sets: Sets, num_identities: int, chosen: Generated, seed: int) -> Floats:
    """Return a row for each cluster of `sets`, none of which is empty."""
    match chosen.label:
        case "uniform":
            return np.tile(smoothing.uniform(num_identities), (len(sets), 1))
        case "all_in_one":
            return np.tile(smoothing.all_in_one(num_identities), (len(sets), 1))
    if chosen.control == "permuted":
        try:
            sets = smoothing.permuted_sets(sets, seed)
        except ValueError as error:
            raise InputError(f"generated.control: permuted: {error}") from error
    return smoothing.sparse(sets)
