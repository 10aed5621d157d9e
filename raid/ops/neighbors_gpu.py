"""Exact nearest neighbours by searches that break ties as they like: faiss, or torch on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raid.ops.top_k import Best

# (rows (R, D), count) -> the `count` best values of each row (R, count), falling, and their indices.
Search = Callable[[NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[Any]]]
# rows (R, D) -> their products with the whole gallery (R, N).
Products = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_MOST_OF_FAISS = 2048  # neighbours that its GPU search can return


def gpu_search(gallery: NDArray[np.float32], k: int) -> Search:
    """Return a search of the gallery (N, D), which is copied to the GPU: faiss if it can, else torch."""
    import faiss  # here, as loading its GPU libraries takes seconds that no CPU needs

    if faiss.get_num_gpus() > 0 and k < _MOST_OF_FAISS:
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), gallery.shape[1])
        index.add(gallery)
        return index_search(index)
    return torch_search(gallery, torch.device("cuda"))


def index_search(index: Any) -> Search:
    """Return the search of a faiss index of inner products."""
    return lambda rows, count: index.search(np.ascontiguousarray(rows), count)


def torch_search(gallery: NDArray[np.float32], device: torch.device) -> Search:
    """Return a search by products on a device; at worst the gallery and R * N * 4 bytes there."""
    there = torch.tensor(gallery, device=device)

    def search(rows: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        values, index = torch.topk(torch.tensor(rows, device=device) @ there.T, count, dim=1)
        return values.cpu().numpy(), index.cpu().numpy()

    return search


def with_ties_settled(
    rows: NDArray[np.float32], k: int, *, num_gallery: int, search: Search, products: Products
) -> Best:
    """Return the k best of each row as `knn` does: equal values by lowest index, also across the k-th place.

    Args:
        rows: (R, D) queries.
        k: 1 to N.
        num_gallery: N.
        search: of the gallery.
        products: asked only for the rows whose k-th place is contested.
    """
    # One more than asked: an equal value in place k + 1 tells that the k-th place is contested.
    values, index = search(rows, min(k + 1, num_gallery))
    contested = np.flatnonzero(values[:, k - 1] == values[:, k]) if k < num_gallery else np.empty(0, np.int64)
    values, index = values[:, :k], index[:, :k].astype(np.int32)
    order = np.lexsort((index, -values), axis=1)
    values, index = np.take_along_axis(values, order, axis=1), np.take_along_axis(index, order, axis=1)
    for row in contested:
        whole = products(rows[row : row + 1])[0]
        index[row] = np.argsort(-whole, kind="stable")[:k]
        values[row] = whole[index[row]]
    return values, index
