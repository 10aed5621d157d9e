import numpy as np
import pytest

from raid.ops.smoothing import all_in_one, identity_sets, lsr, permuted_sets, sparse, uniform

# Identity 0 is in clusters 0 and 1, 1 in 0 twice, 2 in 1, 3 in 3 alone; cluster 2 is empty.
CLUSTERS = np.array([0, 1, 0, 0, 1, 3])
IDENTITIES = np.array([0, 0, 1, 1, 2, 3])


def sets_of(clusters=CLUSTERS, identities=IDENTITIES, *, num_clusters=4, num_identities=4, min_images=1):
    return identity_sets(
        clusters,
        identities,
        num_clusters=num_clusters,
        num_identities=num_identities,
        min_images=min_images,
    )


def plain_sets(clusters, identities, num_clusters, min_images):
    """C_i as a set of Python, image by image."""
    images = {}
    for cell in zip(clusters.tolist(), identities.tolist(), strict=True):
        images[cell] = images.get(cell, 0) + 1
    return [
        {identity for (cluster, identity), count in images.items() if cluster == i and count >= min_images}
        for i in range(num_clusters)
    ]


def as_python(sets):
    return [set(np.flatnonzero(row).tolist()) for row in sets]


def test_an_identity_is_in_every_cluster_that_has_enough_of_its_images():
    assert as_python(sets_of()) == [{0, 1}, {0, 2}, set(), {3}]
    assert as_python(sets_of(min_images=2)) == [{1}, set(), set(), set()]


@pytest.mark.parametrize("min_images", [1, 2, 5])
def test_sets_equal_the_plain_ones_in_any_order(min_images):
    rng = np.random.default_rng(min_images)
    clusters, identities = rng.integers(0, 5, 300), rng.integers(0, 30, 300)
    arguments = {"num_clusters": 5, "num_identities": 31, "min_images": min_images}
    found = sets_of(clusters, identities, **arguments)
    assert found.shape == (5, 31)
    assert as_python(found) == plain_sets(clusters, identities, 5, min_images)
    order = rng.permutation(300)
    np.testing.assert_array_equal(found, sets_of(clusters[order], identities[order], **arguments))


def test_sparse_is_even_on_the_set_and_nothing_elsewhere():
    found = sparse(sets_of()[[0, 1, 3]])
    np.testing.assert_array_equal(found, [[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(sparse(sets_of()[1]), found[1])


def test_one_cluster_is_lsro():
    sets = sets_of(np.zeros(6, np.int64), num_clusters=1)
    np.testing.assert_array_equal(sparse(sets), uniform(4)[None])


def test_an_empty_set_has_no_distribution():
    with pytest.raises(ValueError, match=r"sets \[2\] hold no identity"):
        sparse(sets_of())
    with pytest.raises(ValueError, match=r"sets \[0\]"):
        sparse(np.zeros(4, bool))


def test_distributions_add_up_to_one():
    rng = np.random.default_rng(0)
    sets = rng.random((5, 751)) < 0.3
    for rows in (sparse(sets), uniform(751), all_in_one(751), lsr(rng.integers(0, 751, 9), 751, 0.1)):
        assert rows.dtype == np.float64
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=-1), 1, rtol=0, atol=1e-12)


def test_all_in_one_is_a_class_after_the_identities():
    np.testing.assert_array_equal(all_in_one(3), [0, 0, 0, 1])


def test_lsr():
    np.testing.assert_allclose(lsr(np.array([2, 0]), 4, 0.2), [[0.05, 0.05, 0.85, 0.05], [0.85] + [0.05] * 3])
    np.testing.assert_array_equal(lsr(np.array([1]), 3, 0), [[0, 1, 0]])
    np.testing.assert_allclose(lsr(np.array([1]), 3, 1), uniform(3)[None])
    assert lsr(np.array([], np.int64), 3, 0.1).shape == (0, 3)


@pytest.mark.parametrize("seed", range(8))
def test_the_control_gives_every_cluster_the_set_of_another(seed):
    sets = sets_of()
    control = permuted_sets(sets, seed)
    np.testing.assert_array_equal(control, permuted_sets(sets, seed))
    assert as_python(control)[2] == set()  # the empty one
    assert sorted(map(sorted, as_python(control))) == sorted(map(sorted, as_python(sets)))
    assert all((control[i] != sets[i]).any() for i in (0, 1, 3))
    np.testing.assert_array_equal(sets, sets_of())  # not changed


def test_the_control_depends_on_the_seed():
    sets = np.eye(4, dtype=bool)
    assert len({permuted_sets(sets, seed).tobytes() for seed in range(20)}) == 6  # cycles of four


def test_one_cluster_has_no_control():
    with pytest.raises(ValueError, match="two clusters"):
        permuted_sets(np.array([[True, True], [False, False]]), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clusters": CLUSTERS[:-1]}, "shape"),
        ({"num_clusters": 3}, "clusters must be 0 to 2"),
        ({"clusters": CLUSTERS - 1}, "clusters must be"),
        ({"num_identities": 3}, "identities must be 0 to 2"),
        ({"identities": IDENTITIES - 1}, "identities must be"),
        ({"min_images": 0}, "min_images"),
    ],
)
def test_arguments_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        sets_of(**change)


def test_lsr_arguments_out_of_range():
    for label in (-1, 3):
        with pytest.raises(ValueError, match="identities"):
            lsr(np.array([label]), 3, 0.1)
    with pytest.raises(ValueError, match="epsilon"):
        lsr(np.array([1]), 3, 1.5)
