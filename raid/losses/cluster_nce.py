"""ClusterNCE and its memory of cluster centroids (ICSR eq. 3 and 4; Cluster-Contrast)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def cluster_nce(queries: Tensor, centroids: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Compute the cross entropy of queries against all centroids, averaged over the batch (eq. 3).

    L = mean_i -log( exp(q_i . u_{y_i} / t) / sum_k exp(q_i . u_k / t) ), q_i = queries_i / ||queries_i||.
    Computed in the centroids' precision, outside autocast: dividing by t = .05 multiplies the rounding
    of bfloat16 by 20.

    Args:
        queries: (B, D) features; normalised here.
        centroids: (K, D) unit rows; no gradient flows to them.
        targets: (B,) int64, 0..K-1.
        temperature: t, above 0.

    Returns:
        Scalar.

    Memory: 2 * B * K numbers.
    """
    with torch.autocast(queries.device.type, enabled=False):
        unit = functional.normalize(queries.to(centroids.dtype), dim=1)
        return functional.cross_entropy(unit @ centroids.detach().T / temperature, targets)


def cluster_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """Return the L2-normalised mean of each cluster's features, (K, D).

    Args:
        features: (N, D).
        labels: (N,) int64, 0..K-1 without gaps; -1 is left out.

    Raises:
        ValueError: shapes that do not fit, a label below -1, or a label in 0..max that nobody has.

    Memory: one copy of the kept features, and the result.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"need (N, D) and (N,), got {tuple(features.shape)} and {tuple(labels.shape)}")
    kept = labels != -1
    if bool((labels < -1).any()):
        raise ValueError("labels must be -1 (left out) or 0..K-1")
    counts = torch.bincount(labels[kept])
    if bool((counts == 0).any()):
        raise ValueError(
            f"labels must be contiguous: {int((counts == 0).sum())} below the highest are unused"
        )
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels[kept], features[kept])
    return functional.normalize(sums / counts[:, None], dim=1)


@dataclass(frozen=True)
class Visits:
    """The clusters of a batch's rows, and the order in which the memory takes them.

    Made on the host, where the batch is drawn: an update on a GPU then waits for nobody.

    Attributes:
        targets: (B,) int64.
        order: (B,) int64, the rows: the first of every cluster, then the second of those that have one...
        sizes: rows of each of these turns.
    """

    targets: Tensor
    order: Tensor
    sizes: tuple[int, ...]

    def to(self, device: torch.device) -> "Visits":
        """Return them on `device`."""
        return Visits(self.targets.to(device), self.order.to(device), self.sizes)


class ClusterMemory:
    """Centroids that follow the features of each batch (eq. 4, with the release's renormalisation).

    Attributes:
        centroids: (K, D) tensor of unit rows, the memory's own copy; changed in place by `update`.
        momentum: share of the *old* centroid that an update keeps (.1: the new sample dominates).
    """

    def __init__(self, centroids: Tensor, *, momentum: float) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be 0 to 1, got {momentum}")
        self.centroids = centroids.detach().clone()
        self.momentum = momentum

    def visits(self, targets: Tensor) -> Visits:
        """Return what `update` needs to know of a batch's clusters.

        Args:
            targets: (B,) int64, 0..K-1, on the CPU.

        Raises:
            ValueError: targets outside 0..K-1, or of another shape.
        """
        if targets.ndim != 1:
            raise ValueError(f"need (B,), got {tuple(targets.shape)}")
        if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= len(self.centroids)):
            raise ValueError(f"targets must be 0 to {len(self.centroids) - 1}")
        occurrence = _occurrence(targets)
        order = torch.argsort(occurrence, stable=True)
        return Visits(targets, order, tuple(torch.bincount(occurrence).tolist()))

    @torch.no_grad()
    def update(self, features: Tensor, visits: Visits) -> None:
        """Move the centroids towards a batch: u_y <- m u_y + (1 - m) x, then u_y <- u_y / ||u_y||.

        Row after row: with a small m the last sample of a cluster counts most, so the order inside a
        cluster is part of the result. All ranks must give all rows of the global batch in one order.

        Args:
            features: (B, D); normalised here, as the release hands its memory unit rows.
            visits: of the batch, on the memory's device.

        Raises:
            ValueError: shapes that do not fit.
        """
        if features.ndim != 2 or visits.targets.shape != features.shape[:1]:
            raise ValueError(
                f"need (B, D) and (B,), got {tuple(features.shape)} and {tuple(visits.targets.shape)}"
            )
        samples = functional.normalize(features.to(self.centroids.dtype), dim=1)
        # The rows of a turn touch different centroids: one vectorised step.
        for rows in visits.order.split(visits.sizes):
            clusters = visits.targets[rows]
            mixed = self.momentum * self.centroids[clusters] + (1 - self.momentum) * samples[rows]
            self.centroids[clusters] = functional.normalize(mixed, dim=1)


def _occurrence(targets: Tensor) -> Tensor:
    """Return, for each row, how many rows before it have the same target."""
    ordered, order = torch.sort(targets, stable=True)
    places = torch.arange(len(targets), device=targets.device)
    result = torch.empty_like(places)
    result[order] = places - torch.searchsorted(ordered, ordered)
    return result
