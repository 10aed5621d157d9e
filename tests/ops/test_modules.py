import numpy as np
import pytest

from raid.ops.infomap_process import partition
from raid.ops.modules import infomap_modules

pytest.importorskip("infomap", reason="the extra raid[infomap] is not installed")


def groups(sizes: list[int], noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.eye(16)[truth] + noise * generator.normal(size=(len(truth), 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), truth


def test_separate_groups_are_modules():
    rows, truth = groups([12, 9, 7])
    modules = infomap_modules(rows, num_neighbors=6)
    assert (modules >= 0).all()
    pairs = {(int(a), int(b)) for a, b in zip(truth, modules, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 3


def test_modules_of_four_or_fewer_are_left_out():
    rows, truth = groups([12, 4, 5])
    modules = infomap_modules(rows, num_neighbors=8)
    assert (modules[truth == 1] == -1).all()
    assert (modules[truth != 1] >= 0).all()


def test_the_same_seed_gives_the_same_modules():
    rows, _ = groups([10, 10, 10], noise=0.3)
    first = infomap_modules(rows, num_neighbors=8, cutoff=1.0, seed=3)
    np.testing.assert_array_equal(first, infomap_modules(rows, num_neighbors=8, cutoff=1.0, seed=3))


def test_faiss_in_the_same_process_does_no_harm():
    """Both are wrapped by SWIG: together in one process, Infomap crashes."""
    import faiss

    assert faiss.IndexFlatIP(4).ntotal == 0
    rows, _ = groups([12, 9, 7])
    assert len(set(infomap_modules(rows, num_neighbors=6))) == 3


def test_failure_of_infomap_is_told():
    with pytest.raises(RuntimeError, match="infomap: "):
        partition(2, np.array([0]), np.array([1]), np.array(["heavy"]), seed=1)
