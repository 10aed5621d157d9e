"""Bytes that the clustering of a set holds at its peak, as the docstrings of `raid.ops` have it."""

_BLOCK_ROWS = 1024  # of the search


def cluster_bytes(num_rows: int, dimensions: int, entries_per_row: float) -> float:
    """Return the peak of an epoch's clustering: features, search, similarity, linkage.

    Args:
        num_rows: N.
        dimensions: D of the features.
        entries_per_row: that the Jaccard similarity stores, see `usual_entries`.
    """
    features = 4.0 * num_rows * dimensions
    search = 2 * 4.0 * _BLOCK_ROWS * num_rows
    similarity = 8.0 * num_rows * entries_per_row * 1.25  # a quarter more while it is put together
    return features + max(search, similarity) + 2000.0 * num_rows


def usual_entries(num_rows: int, k1: int) -> float:
    """Return the entries a row that Jaccard similarities of trained features have: about 1.8 k1^2."""
    return min(float(num_rows), 1.8 * k1**2)


def dense_bytes(num_rows: int) -> float:
    """Return what the published way holds: two N x N matrices in float32 (distances and weights)."""
    return 8.0 * num_rows**2
