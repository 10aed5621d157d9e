import faiss
import numpy as np
import pytest
import torch

from raid.ops.neighbors import knn
from raid.ops.neighbors_gpu import index_search, torch_search, with_ties_settled


def integers(count):
    """Small integers: every product is exact, so ties are many, inside the k places and across the k-th."""
    return np.random.default_rng(1).integers(-1, 2, (count, 3)).astype(np.float32)


def faiss_on_cpu(gallery):
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index_search(index)


@pytest.mark.parametrize("make", [faiss_on_cpu, lambda gallery: torch_search(gallery, torch.device("cpu"))])
@pytest.mark.parametrize("k", [1, 2, 5, 29, 30])
def test_searches_with_ties_of_their_own_give_what_knn_gives(make, k):
    gallery, queries = integers(30), integers(41)
    found = with_ties_settled(
        queries, k, num_gallery=30, search=make(gallery), products=lambda rows: rows @ gallery.T
    )
    for one, other in zip(found, knn(queries, gallery, k, device="cpu"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("k", [1, 5, 30])
def test_gpu_gives_what_the_cpu_gives(k):
    rows = integers(30)
    for one, other in zip(knn(rows, rows, k, device="cuda"), knn(rows, rows, k, device="cpu"), strict=True):
        np.testing.assert_array_equal(one, other)
