from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn import metrics

from raid.ops.jaccard import jaccard_similarity
from raid.ops.quality import Quality, ari, bcubed, camera_purity, coverage, nmi, pairwise, silhouette

MSMT17 = Path(__file__).parents[3] / "shared" / "data" / "msmt17_local_labels.parquet"
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3])


def reference_pairwise(truth, labels):
    pairs = list(combinations(range(len(truth)), 2))
    both = sum(truth[i] == truth[j] and labels[i] == labels[j] for i, j in pairs)
    cluster = sum(labels[i] == labels[j] for i, j in pairs)
    identity = sum(truth[i] == truth[j] for i, j in pairs)
    return both / cluster, both / identity


def reference_bcubed(truth, labels):
    precision = np.mean([(truth[labels == p] == g).mean() for g, p in zip(truth, labels, strict=True)])
    recall = np.mean([(labels[truth == g] == p).mean() for g, p in zip(truth, labels, strict=True)])
    return precision, recall


def test_golden_values_of_the_release():
    pairs = pairwise(TRUTH, LABELS)
    assert (pairs.precision, pairs.recall) == (0.375, 0.3)
    assert pairs.f == pytest.approx(0.333333, abs=1e-6)
    cubed = bcubed(TRUTH, LABELS)
    assert cubed.precision == pytest.approx(0.633333, abs=1e-6)
    assert cubed.recall == pytest.approx(0.566667, abs=1e-6)
    assert cubed.f == pytest.approx(0.598148, abs=1e-6)
    assert cubed.expansion == pairs.expansion == 1.75
    assert nmi(TRUTH, LABELS) == pytest.approx(0.573932, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    truth, labels = rng.integers(0, 9, 80), rng.integers(0, 12, 80)
    pairs, cubed = pairwise(truth, labels), bcubed(truth, labels)
    assert (pairs.precision, pairs.recall) == pytest.approx(reference_pairwise(truth, labels))
    assert (cubed.precision, cubed.recall) == pytest.approx(reference_bcubed(truth, labels))
    expansion = np.mean([len(set(labels[truth == g])) for g in set(truth.tolist())])
    assert pairs.expansion == cubed.expansion == pytest.approx(expansion)
    assert ari(truth, labels) == pytest.approx(metrics.adjusted_rand_score(truth, labels))


@pytest.mark.parametrize("measure", [pairwise, bcubed, nmi, ari])
def test_order_and_names_do_not_matter(measure):
    rng = np.random.default_rng(1)
    truth, labels = rng.integers(0, 9, 80), rng.integers(-1, 12, 80)
    order, names = rng.permutation(80), rng.permutation(50)
    renamed = np.where(labels < 0, -1, names[labels])
    for noise in ("drop", "singletons"):
        plain = measure(truth, labels, noise=noise)
        other = measure(names[truth][order], renamed[order], noise=noise)
        if isinstance(plain, Quality):
            plain, other = list(vars(plain).values()), list(vars(other).values())
        assert other == pytest.approx(plain)


@pytest.mark.parametrize("measure", [pairwise, bcubed])
def test_duplicated_samples(measure):
    # B-cubed is unchanged when every sample appears twice, and a perfect clustering stays perfect.
    assert measure(TRUTH, TRUTH + 7) == Quality(1, 1, 1, 1)
    doubled = measure(np.repeat(TRUTH, 2), np.repeat(LABELS, 2))
    if measure is bcubed:
        assert list(vars(doubled).values()) == pytest.approx(list(vars(bcubed(TRUTH, LABELS)).values()))


@pytest.mark.parametrize("measure", [pairwise, bcubed, nmi, ari])
def test_noise(measure):
    labels = LABELS.copy()
    labels[[2, 7]] = -1
    kept = labels != -1
    assert measure(TRUTH, labels) == measure(TRUTH[kept], LABELS[kept])
    alone = LABELS.copy()
    alone[[2, 7]] = [100, 101]
    assert measure(TRUTH, labels, noise="singletons") == measure(TRUTH, alone)
    with pytest.raises(ValueError, match="noise"):
        measure(TRUTH, labels, noise="keep")
    with pytest.raises(ValueError, match="shape"):
        measure(TRUTH, labels[:-1])


def test_nothing_to_compare_is_zero():
    noise = np.full(4, -1)
    for measure in (pairwise, bcubed):
        assert measure(np.arange(4), noise) == Quality(0, 0, 0, 0)
    assert nmi(np.arange(4), noise) == ari(np.arange(4), noise) == 0
    assert pairwise(np.arange(4), np.arange(4)) == Quality(0, 0, 0, 1)
    assert coverage(noise) == coverage(np.empty(0)) == camera_purity(noise, noise) == 0


def test_coverage():
    assert coverage(np.array([0, -1, 3, 3])) == 0.75


def test_camera_purity():
    labels, cameras = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 0, 1, 2, 3, 0])
    assert camera_purity(labels, cameras) == pytest.approx((2 + 1) / 5)
    share = [max(np.bincount(cameras[labels == p])) / (labels == p).sum() for p in labels if p != -1]
    assert camera_purity(labels, cameras) == pytest.approx(np.mean(share))
    assert camera_purity(cameras, cameras) == 1


def dense_silhouette(similarity, labels):
    distance = 1 - similarity.toarray().astype(np.float64)
    np.fill_diagonal(distance, 0)
    kept = labels != -1
    return metrics.silhouette_score(distance[np.ix_(kept, kept)], labels[kept], metric="precomputed")


@pytest.mark.parametrize("low", [0, -1])
@pytest.mark.parametrize("clusters", [2, 10, 60])
def test_silhouette_equals_sklearn(low, clusters):
    rng = np.random.default_rng(clusters)
    features = np.repeat(rng.standard_normal((20, 16)), 6, axis=0) + 0.5 * rng.standard_normal((120, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    similarity = jaccard_similarity(features, k1=10, k2=3)
    for labels in (rng.integers(low, clusters, 120), np.repeat(np.arange(20), 6) % clusters):
        expected = dense_silhouette(similarity, labels)
        assert silhouette(similarity, labels) == pytest.approx(expected, abs=1e-9)
    order = rng.permutation(120)
    permuted = silhouette(sp.csr_array(similarity[order][:, order]), labels[order])
    assert permuted == pytest.approx(expected, abs=1e-9)


def test_silhouette_has_the_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr("raid.ops.quality._CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    similarity = sp.csr_array(rng.random((100, 100), np.float32))
    labels = rng.integers(-1, 9, 100)
    before, found = torch.get_num_threads(), set()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.add(silhouette(similarity, labels))
    torch.set_num_threads(before)
    assert len(found) == 1


def test_silhouette_of_a_matrix_on_disk_with_rows_out_of_order(tmp_path):
    rng = np.random.default_rng(1)
    similarity = sp.csr_array(rng.random((40, 40), np.float32))
    labels = rng.integers(0, 4, 40)
    mapped = sp.csr_array(similarity.shape, dtype=np.float32)
    for name in ("data", "indices", "indptr"):
        values = getattr(similarity, name)
        np.save(
            tmp_path / f"{name}.npy", values if name == "indptr" else values.reshape(40, 40)[:, ::-1].ravel()
        )
        setattr(mapped, name, np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert silhouette(mapped, labels) == pytest.approx(silhouette(similarity, labels), abs=1e-12)


def test_silhouette_without_a_second_cluster_or_distance():
    everything = sp.csr_array(np.ones((4, 4), np.float32))
    assert silhouette(everything, np.zeros(4)) == 0
    assert silhouette(everything, np.full(4, -1)) == 0
    assert silhouette(everything, np.arange(4)) == 0  # singletons
    assert silhouette(everything, np.array([0, 0, 1, 1])) == 0  # duplicates in two clusters
    assert (
        silhouette(
            sp.csr_array(np.kron(np.eye(2), np.ones((2, 2))).astype(np.float32)), np.array([0, 0, 1, 1])
        )
        == 1
    )
    with pytest.raises(ValueError, match="does not fit"):
        silhouette(everything, np.zeros(3))


@pytest.mark.skipif(not MSMT17.exists(), reason=f"{MSMT17} is absent")
def test_published_local_labels_of_msmt17():
    import pyarrow.parquet as parquet

    table = parquet.read_table(MSMT17)
    identity, camera, local = (table[c].to_numpy() for c in ("identity", "camera", "local_label"))
    cameras, sizes = np.unique(camera, return_counts=True)

    def weighted(measure):
        each = [measure(identity[camera == c], local[camera == c]) for c in cameras]
        return np.average([[q.precision, q.recall, q.expansion] for q in each], axis=0, weights=sizes)

    assert weighted(bcubed)[:2] == pytest.approx([0.783, 0.702], abs=5e-4)
    assert weighted(bcubed)[2] == pytest.approx(2.25, abs=5e-3)
    assert weighted(pairwise)[:2] == pytest.approx([0.692, 0.627], abs=5e-4)
