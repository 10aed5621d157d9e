"""Average-linkage clustering of a sparse similarity, exact and without an N x N matrix."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components


def agglomerative(similarity: sp.csr_array, *, num_clusters: int) -> NDArray[np.int64]:
    """Merge samples by average linkage until `num_clusters` clusters are left.

    The distance of two samples is 1 - similarity, 1 where nothing is stored; of two clusters, the mean over
    their pairs, which is 1 - (sum of their stored similarities) / (|A| |B|). Exact: the same tree as on the
    dense distance matrix, up to the order of equal distances. The diagonal is not looked at.

    Args:
        similarity: (N, N) symmetric, values 0 to 1.
        num_clusters: 1 to N.

    Returns:
        Labels (N,) int64, numbered by first appearance. If fewer clusters are asked for than the similarity
        has connected components, a warning says so and each component is a cluster: all merges left would
        be at distance 1, one as good as the other.

    Raises:
        ValueError: `num_clusters` outside 1..N, or a similarity that is not square, symmetric, finite and
            non-negative.

    Memory: two to three times that of `similarity` (each cluster's row of similarities, replaced as it
    merges), 12 to 16 bytes an entry.
    """
    num_samples = similarity.shape[0]
    if not 1 <= num_clusters <= num_samples:
        raise ValueError(
            f"num_clusters must be 1 to {num_samples} (the number of samples), got {num_clusters}"
        )
    merges, heights = _Chain(_checked(similarity)).run()
    components = num_samples - len(merges)
    if num_clusters < components:
        warnings.warn(
            f"{num_clusters} clusters asked for, but the samples fall into {components} groups that share no "
            f"neighbour; returning {components} clusters",
            stacklevel=2,
        )
    # Stable: of equal heights the earlier merge first, so a child never comes after its parent.
    lowest = np.argsort(heights, kind="stable")[: max(0, num_samples - num_clusters)]
    return _labels_of(merges[lowest], num_samples)


def _checked(similarity: sp.csr_array) -> sp.csr_array:
    """Return the similarity with sorted rows and without stored zeros; ValueError if it cannot be used."""
    if similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity must be square, got {similarity.shape}")
    matrix = sp.csr_array(similarity)
    if matrix.nnz and not (np.isfinite(matrix.data).all() and matrix.data.min() >= 0):
        raise ValueError("similarity must be finite and non-negative")
    if not matrix.has_sorted_indices or (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
        matrix.sort_indices()
    # The chain may never end on an asymmetric matrix: A's nearest is B, while B does not know A.
    turned = matrix.T.tocsr()
    same_places = np.array_equal(matrix.indptr, turned.indptr) and np.array_equal(
        matrix.indices, turned.indices
    )
    if not same_places or not np.allclose(matrix.data, turned.data, rtol=1e-5, atol=1e-7):
        raise ValueError("similarity must be symmetric")
    return matrix


class _Chain:
    """Nearest-neighbour chain over rows of summed similarities.

    A cluster lives in the slot of one of its samples. Its row lists slots (perhaps of clusters since merged:
    `owner` tells into which) and the sums of similarities; it is brought up to date when it is visited.
    """

    # Sums over the same pairs, added in two orders, differ in their last bits. A cluster goes back to the one
    # it was reached from unless another is clearly nearer: so no circle of ties is walked for ever.
    TIE = 1e-12

    def __init__(self, matrix: sp.csr_array) -> None:
        count = matrix.shape[0]
        self.owner = np.arange(count)
        self.size = np.ones(count)
        self.height = np.zeros(count)
        self.members = [[slot] for slot in range(count)]
        ends = matrix.indptr
        self.slots: list[NDArray[Any] | None] = [matrix.indices[ends[i] : ends[i + 1]] for i in range(count)]
        self.sums: list[NDArray[Any] | None] = [matrix.data[ends[i] : ends[i + 1]] for i in range(count)]

    def run(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return all merges within connected components: pairs (M, 2) of slots, and heights (M,)."""
        merges: list[tuple[int, int]] = []
        heights: list[float] = []
        for start in range(len(self.owner)):
            chain = [start] if self.owner[start] == start else []
            while chain:
                previous = chain[-2] if len(chain) > 1 else None
                nearest, similarity = self._nearest(chain[-1], previous)
                if nearest is None:  # a whole component, alone in the chain
                    break
                if nearest != previous:
                    chain.append(nearest)
                    continue
                merges.append((chain[-1], chain[-2]))
                slot = self._merge(chain.pop(), chain.pop(), 1.0 - similarity)
                heights.append(self.height[slot])
                chain = chain or [slot]
        return np.array(merges, np.int64).reshape(-1, 2), np.array(heights)

    def _nearest(self, slot: int, previous: int | None) -> tuple[int | None, float]:
        """Return the cluster of highest mean similarity (ties: `previous`, lowest slot), and that mean."""
        slots, sums = self._refresh(slot)
        if len(slots) == 0:
            return None, 0.0
        means = sums / (self.size[slot] * self.size[slots])
        best = int(means.argmax())
        if previous is not None:
            back = int(np.searchsorted(slots, previous))
            if means[back] >= means[best] * (1.0 - self.TIE):
                best = back
        return int(slots[best]), float(means[best])

    def _refresh(self, slot: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Rewrite a row in terms of the clusters there are now, each once, by rising slot."""
        stale_slots, stale_sums = self.slots[slot], self.sums[slot]
        assert stale_slots is not None
        assert stale_sums is not None
        totals = np.asarray(np.bincount(self.owner[stale_slots], weights=stale_sums), np.float64)
        totals[slot : slot + 1] = 0.0
        slots = np.flatnonzero(totals)
        sums = totals[slots]
        self.slots[slot], self.sums[slot] = slots.astype(stale_slots.dtype), sums
        return slots, sums

    def _merge(self, first: int, second: int, height: float) -> int:
        """Put two clusters into the slot of the one with more samples, and return that slot."""
        keep, drop = (first, second) if self.size[first] >= self.size[second] else (second, first)
        self.owner[self.members[drop]] = keep
        self.members[keep] += self.members[drop]
        self.size[keep] += self.size[drop]
        # Rounding must not put a cluster below its parts.
        self.height[keep] = max(height, self.height[keep], self.height[drop])
        self.slots[keep] = _joined(self.slots, keep, drop)
        self.sums[keep] = _joined(self.sums, keep, drop)
        self.members[drop], self.slots[drop], self.sums[drop] = [], None, None
        return keep


def _joined(rows: list[NDArray[Any] | None], first: int, second: int) -> NDArray[Any]:
    one, other = rows[first], rows[second]
    assert one is not None
    assert other is not None
    return np.concatenate([one, other])


def _labels_of(merges: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
    """Join the pairs of slots, and number the sets by first appearance."""
    links = sp.coo_array((np.ones(len(merges), np.int8), tuple(merges.T)), shape=(num_samples, num_samples))
    _, labels = connected_components(links, directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
