import numpy as np
import pytest

from raid.config import load
from raid.errors import InputError
from raid.methods.slsr.config import Generated
from raid.methods.slsr.targets import of_real, with_generated

LABELS = np.array([0, 0, 1, 2, 2, 3])  # N = 6 images of K = 4 identities
SETS = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)  # nobody in cluster 2
MADE_FROM = np.array([0, 0, 1, 1, 1])


def targets(epsilon=0.0, made_from=MADE_FROM, sets=SETS, labels=LABELS, **chosen):
    generated = load(Generated, overrides=chosen)
    return with_generated(labels, 4, epsilon, made_from, sets, generated, seed=3)


def by_hand(kind, epsilon, num_outputs):
    """The distribution of every image, from the paper's words."""
    rows = []
    for label in LABELS:
        row = [epsilon / num_outputs] * num_outputs
        row[label] += 1 - epsilon
        rows.append(row)
    for cluster in MADE_FROM:
        members = [k for k in range(4) if SETS[cluster][k]]
        rows.append(
            {
                "sparse": [1 / len(members) if k in members else 0.0 for k in range(num_outputs)],
                "uniform": [1 / 4] * 4,
                "all_in_one": [0.0, 0.0, 0.0, 0.0, 1.0],
            }[kind]
        )
    return np.array(rows)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "num_outputs"), [("sparse", 4), ("uniform", 4), ("all_in_one", 5)])
def test_every_image_has_the_distribution_of_its_kind(kind, num_outputs, epsilon):
    found = targets(epsilon, label=kind)
    assert found.num_outputs == num_outputs
    assert found.num_real == 6
    ours = found.table[found.rows]
    np.testing.assert_allclose(ours, by_hand(kind, epsilon, num_outputs), atol=1e-15)
    np.testing.assert_allclose(ours.sum(axis=1), 1)


@pytest.mark.parametrize("kind", ["sparse", "uniform", "all_in_one"])
def test_what_counts_as_right_does_not_depend_on_the_labels(kind):
    found = targets(0.2, label=kind)
    hits = found.hits[found.rows][:, :4]
    expected = [[label == k for k in range(4)] for label in LABELS] + [SETS[c].tolist() for c in MADE_FROM]
    assert hits.tolist() == expected
    assert not found.hits[:, 4:].any()


def test_real_images_alone():
    found = of_real(LABELS, 4, 0.4)
    assert found.table.shape == (4, 4)
    np.testing.assert_allclose(found.table[found.rows][3], [0.1, 0.1, 0.7, 0.1])
    assert found.hits[found.rows].sum(axis=1).tolist() == [1] * 6


def test_the_control_gives_each_cluster_another_s_identities():
    ours, control = (targets(label="sparse", control=control) for control in ("none", "permuted"))
    assert np.array_equal(control.table[4], ours.table[5])
    assert np.array_equal(control.table[5], ours.table[4])
    assert np.array_equal(control.table[:4], ours.table[:4])
    assert np.array_equal(control.hits, ours.hits)  # what is right stays what is right


def test_one_cluster_of_everybody_is_uniform():
    everybody = np.ones((1, 4), dtype=bool)
    ours = targets(made_from=np.zeros(3, dtype=np.int64), sets=everybody, label="sparse")
    assert ours.table[4].tolist() == [0.25] * 4


def test_a_cluster_of_one_identity_labels_its_images_as_that_one():
    one = np.array([[0, 0, 1, 0]], dtype=bool)
    ours = targets(made_from=np.zeros(2, dtype=np.int64), sets=one, label="sparse")
    assert ours.table[4].tolist() == [0, 0, 1, 0]


def test_generated_images_of_nobody_are_refused():
    with pytest.raises(InputError, match=r"^generated\.min_images: no identity has 5 images in cluster 2:"):
        targets(made_from=np.array([0, 2]), label="sparse", min_images=5)


def test_a_control_needs_two_clusters_that_hold_somebody():
    with pytest.raises(InputError, match=r"^generated\.control: permuted: .*two clusters"):
        targets(made_from=np.zeros(2, dtype=np.int64), sets=SETS[[0, 2]], label="sparse", control="permuted")
