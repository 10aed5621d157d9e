import re

import numpy as np
import pytest

from raid.health import (
    alarms,
    cluster_health,
    label_quality,
    mining_alarms,
    mining_remarks,
    multilabel_health,
)
from raid.ops import quality

# Ten images: clusters of 4, 2, 1 and 2 and an outlier; the refinement discards image 2.
GLOBAL = np.array([0, 0, 0, 0, 1, 1, 2, -1, 3, 3])
REFINED = np.array([0, 0, -1, 0, 1, 1, 2, -1, 3, 3])
CAMERAS = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 0])
HEALTHY = {"cluster/num": 50.0, "cluster/largest": 0.1, "cluster/coverage": 0.9}


def random_case(seed: int, count: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 9, count)
    return {
        "identities": rng.integers(-1, 7, count),
        "global_labels": labels,
        "refined_labels": np.where(rng.random(count) < 0.3, -1, labels),
        "local_labels": rng.integers(0, 4, count),
        "cameras": rng.integers(0, 3, count),
    }


def test_figures_of_an_epoch_by_hand():
    figures = cluster_health(GLOBAL, REFINED, cameras=CAMERAS, silhouette=8 / 9, previous_labels=None)
    assert figures == pytest.approx(
        {
            "cluster/num": 4,
            "cluster/outliers": 1,
            "cluster/coverage": 0.8,  # of the refined ones
            "cluster/largest": 0.4,
            "cluster/size_median": 2,
            "cluster/size_max": 4,
            "cluster/singletons": 1,
            "cluster/silhouette": 8 / 9,
            "refine/discarded": 0.1,
            "cluster/camera_purity": (3 + 2 + 1 + 1) / 9,
        }
    )


def test_sets_without_cameras_and_first_epochs_have_fewer_figures():
    given = {"silhouette": 0.5, "previous_labels": None}
    without = cluster_health(GLOBAL, REFINED, cameras=None, **given)
    assert "cluster/camera_purity" not in without
    assert "cluster/churn" not in without
    figures = cluster_health(GLOBAL, REFINED, cameras=CAMERAS, **given)
    assert without.items() < figures.items()


@pytest.mark.parametrize(
    ("previous", "labels", "churn"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 0),
        ([0, 0, 1, 1], [7, 7, 3, 3], 0),
        # Pairs: 1 in common, 2 before, 1 now of 6: Rand index adjusted (1 - 2/6) / (3/2 - 2/6) = 4/7.
        ([0, 0, 1, 1], [0, 0, 1, 2], 3 / 7),
    ],
)
def test_churn_by_hand(previous, labels, churn):
    labels = np.array(labels)
    figures = cluster_health(
        labels,
        labels,
        cameras=None,
        silhouette=0.0,
        previous_labels=np.array(previous),
    )
    assert figures["cluster/churn"] == pytest.approx(churn)


def test_persons_nearest_to_the_images_by_hand():
    first, then = np.array([5, 5, 8, 8, -1, 2]), np.array([5, 5, 8, 2, 7, -1])
    assert multilabel_health(first, None) == {"multilabel/people": 3.0}
    figures = multilabel_health(then, first)
    # Of the four that were known before too; as in the test above.
    assert figures == pytest.approx({"multilabel/people": 4, "multilabel/churn": 3 / 7})
    assert multilabel_health(first, first)["multilabel/churn"] == 0
    other_names = np.array([1, 1, 0, 0, -1, 4])
    assert multilabel_health(other_names, first)["multilabel/churn"] == 0


def test_of_persons_that_are_not_known_nothing_is_said():
    unknown = np.full(6, -1)
    assert multilabel_health(unknown, None) == multilabel_health(unknown, unknown) == {}
    known = np.array([3, 3, 1, 1, 1, 1])
    for before, after in ((unknown, known), (known, unknown)):
        assert "multilabel/churn" not in multilabel_health(after, before)


def test_nothing_clustered():
    nothing = np.full(5, -1)
    figures = cluster_health(
        nothing,
        nothing,
        cameras=np.zeros(5, np.int64),
        silhouette=0.0,
        previous_labels=None,
    )
    assert figures.pop("cluster/outliers") == 5
    assert set(figures.values()) == {0.0}


def test_all_in_one_cluster():
    one = np.zeros(4, np.int64)
    figures = cluster_health(one, one, cameras=None, silhouette=0.0, previous_labels=None)
    assert (figures["cluster/num"], figures["cluster/largest"]) == (1, 1)


def test_label_quality_by_hand():
    # Identity 5 is split; its image in the second cluster is discarded.
    identities = np.array([5, 5, 5, 8, 8])
    labels, refined = np.array([0, 0, 1, 1, 1]), np.array([0, 0, -1, 1, 1])
    figures = label_quality(identities, labels, refined, None, None)
    assert figures["quality/global/bcubed_precision"] == pytest.approx((2 + 1 / 3 + 4 / 3) / 5)
    assert figures["quality/global/bcubed_recall"] == pytest.approx((4 / 3 + 1 / 3 + 2) / 5)
    assert figures["quality/global/pairwise_precision"] == pytest.approx(2 / 4)
    assert figures["quality/global/pairwise_recall"] == pytest.approx(2 / 4)
    assert figures["quality/global/expansion"] == 1.5
    for key in ("bcubed_precision", "bcubed_recall", "bcubed_f", "nmi", "ari", "expansion"):
        assert figures[f"quality/refined/{key}"] == pytest.approx(1), key
    assert figures["quality/refined_all/bcubed_precision"] == 1
    assert figures["quality/refined_all/bcubed_recall"] == pytest.approx((4 / 3 + 1 / 3 + 2) / 5)
    assert figures["quality/refined_all/expansion"] == 1.5
    assert not any("local" in key for key in figures)


def test_every_discarded_image_counts_as_a_cluster_of_its_own():
    case = random_case(1)
    figures = label_quality(**case)
    known = case["identities"] >= 0
    truth, labels = case["identities"][known], case["refined_labels"][known].copy()
    discarded = np.flatnonzero(labels == -1)
    assert len(discarded) > 5
    labels[discarded] = 100 + np.arange(len(discarded))
    for kind, score in (("bcubed", quality.bcubed), ("pairwise", quality.pairwise)):
        expected = score(truth, labels)
        assert figures[f"quality/refined_all/{kind}_precision"] == pytest.approx(expected.precision)
        assert figures[f"quality/refined_all/{kind}_recall"] == pytest.approx(expected.recall)
        assert figures[f"quality/refined_all/{kind}_f"] == pytest.approx(expected.f)
        assert figures["quality/refined_all/expansion"] == pytest.approx(expected.expansion)
    assert figures["quality/refined_all/nmi"] == pytest.approx(quality.nmi(truth, labels))
    assert figures["quality/refined_all/ari"] == pytest.approx(quality.ari(truth, labels))
    # Leaving the discarded out, as the paper does, looks better.
    assert figures["quality/refined/bcubed_recall"] > figures["quality/refined_all/bcubed_recall"]


def test_local_scores_are_weighted_by_the_images_of_the_cameras():
    # Camera 4: three images, perfect. Camera 9: one cluster of two identities, precision 1/2, recall 1.
    identities = np.array([0, 0, 1, 0, 1])
    cameras = np.array([4, 4, 4, 9, 9])
    local = np.array([3, 3, 0, 0, 0])  # camera 9's label 0 has nothing to do with camera 4's
    figures = label_quality(identities, identities, identities, local, cameras)
    assert figures["quality/local/bcubed_precision"] == pytest.approx(3 / 5 * 1 + 2 / 5 * 1 / 2)
    assert figures["quality/local/bcubed_recall"] == pytest.approx(1)
    assert figures["quality/local/bcubed_f"] == pytest.approx(3 / 5 * 1 + 2 / 5 * 2 / 3)
    assert figures["quality/local/expansion"] == pytest.approx(1)


@pytest.mark.parametrize("missing", ["local_labels", "cameras"])
def test_local_scores_need_labels_and_cameras(missing):
    figures = label_quality(**{**random_case(0), missing: None})
    assert figures
    assert not any("local" in key for key in figures)


def test_without_identities_there_is_nothing_to_score():
    assert label_quality(**{**random_case(0), "identities": np.full(60, -1)}) == {}


def test_images_without_identity_are_left_out_of_the_scores():
    case = random_case(2)
    known = case["identities"] >= 0
    assert 0 < known.sum() < len(known)
    alone = label_quality(**{key: values[known] for key, values in case.items()})
    assert label_quality(**case) == pytest.approx(alone)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_images_does_not_matter(seed):
    case = random_case(seed)
    order = np.random.default_rng(seed).permutation(60)
    permuted = {key: values[order] for key, values in case.items()}
    assert label_quality(**permuted) == pytest.approx(label_quality(**case))

    rng = np.random.default_rng(seed)
    previous = rng.integers(-1, 9, 60)

    def health(of: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, float]:
        return cluster_health(
            of["global_labels"],
            of["refined_labels"],
            cameras=of["cameras"],
            silhouette=0.5,
            previous_labels=previous[rows],
        )

    assert health(permuted, order) == pytest.approx(health(case, np.arange(60)))


@pytest.mark.parametrize("images", [50, 100, 350, 12_950])
def test_fewer_clusters_than_two_percent_of_the_images(images):
    exactly = {**HEALTHY, "cluster/num": float(images // 50)}
    assert list(alarms(exactly, images)) == []
    (line,) = alarms({**exactly, "cluster/num": float(images // 50 - 1)}, images)
    assert f"{images // 50 - 1} clusters are fewer than 2 % of the {images} images" in line
    assert len(list(alarms(exactly, images + 1))) == 1


@pytest.mark.parametrize("count", [5, 15, 35, 12_935])
def test_one_cluster_of_more_than_a_fifth_of_the_images(count):
    exactly = {**HEALTHY, "cluster/largest": (count // 5) / count}
    assert list(alarms(exactly, 50)) == []
    (line,) = alarms({**exactly, "cluster/largest": (count // 5 + 1) / count}, 50)
    assert line.startswith("one cluster holds")
    assert "over 20 %" in line


@pytest.mark.parametrize("count", [5, 15, 35, 12_935])
def test_less_than_a_fifth_of_the_images_in_clusters(count):
    labels = np.where(np.arange(count) < count // 5, 0, -1)
    assert list(alarms({**HEALTHY, "cluster/coverage": quality.coverage(labels)}, 50)) == []
    labels[0] = -1
    (line,) = alarms({**HEALTHY, "cluster/coverage": quality.coverage(labels)}, 50)
    assert "in a cluster (under 20 %)" in line


def test_every_sign_of_collapse_has_its_line():
    assert list(alarms(HEALTHY, 100)) == []
    assert len(list(alarms({"cluster/num": 1, "cluster/largest": 0.9, "cluster/coverage": 0.1}, 100))) == 3


MINED = {
    "train/loss": 3.0,
    "mining/positives": 30.0,
    "mining/negatives": 54.0,
    "mining/threshold": 0.4,
    "mining/positive_precision": 0.6,
    "mining/negative_precision": 0.9,
    "mining/base_rate": 0.3,
}


def test_an_epoch_that_mines_well_is_left_in_peace():
    assert list(mining_alarms(MINED)) == []
    assert list(mining_remarks(MINED)) == []
    assert list(mining_alarms({"pretraining/loss": 2.0, "pretraining/accuracy": 0.1})) == []
    assert list(mining_alarms({"train/loss": 2.0})) == []  # the first epoch of MAR mines nothing
    assert list(mining_remarks({"train/loss": 2.0})) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/loss": np.nan}, r"mean loss \(train/loss\) is nan"),
        ({"train/loss": np.inf}, r"mean loss \(train/loss\) is inf"),
        ({"pretraining/loss": np.nan}, r"mean loss \(pretraining/loss\) is nan"),
        ({"mining/positives": 0.0}, "no pair was mined as positive"),
        ({"mining/negatives": 0.0}, "no pair was mined as hard negative"),
        ({"mining/threshold": 0.0}, "the threshold is 0 "),
        ({"mining/threshold": -0.2}, "the threshold is -0.2 "),
        ({"mining/threshold": np.nan}, "the threshold is nan "),
        ({"mining/threshold": 0.0099}, r"the threshold is 0.0099 \(under 0.01\)"),
    ],
)
def test_every_sign_of_failed_mining_has_its_line(change, message):
    (line,) = mining_alarms(MINED | change)
    assert re.search(message, line)


def test_rare_pairs_and_a_low_threshold_are_no_alarm():
    assert list(mining_alarms(MINED | {"mining/positives": 0.001, "mining/threshold": 0.01})) == []


def test_pairs_no_better_than_the_similar_ones_at_large_are_remarked():
    (line,) = mining_remarks(MINED | {"mining/positive_precision": 0.3})  # no better
    assert line.startswith("of the pairs mined as positive 30.0% are one person, of all similar pairs 30.0%")
    (line,) = mining_remarks(MINED | {"mining/negative_precision": 0.65})
    assert line.startswith("of the hard negatives 65.0% are two persons, of all similar pairs 70.0%")
    both = MINED | {"mining/positive_precision": 0.1, "mining/negative_precision": 0.1}
    assert len(list(mining_remarks(both))) == 2
    assert list(mining_alarms(both)) == []
    nothing = MINED | {"mining/positive_precision": np.nan}  # no positive pair in the epoch
    assert list(mining_remarks(nothing)) == []
