import numpy as np
import pytest

from raid.ops.ranking import AP_VARIANTS
from raid.ops.single_shot import draws, rank_single_shot

# Methods.md's check vector: matches at ranks 2, 4 and 5; the others are one image each of other people.
DISTANCES = np.arange(6.0)[None]
GALLERY = np.array([1, 5, 2, 5, 5, 3])
QUERY = np.array([5])


def ranked(repeats=200, **how):
    return rank_single_shot(
        [DISTANCES], QUERY, None, GALLERY, None, **{"repeats": repeats, "ap_gallery": "full", **how}
    )


@pytest.mark.parametrize(
    ("ap", "expected"), [("noninterp", 0.533333), ("market_trapezoid", 0.405556), ("mar_official", 0.572222)]
)
def test_check_vector_on_the_full_gallery(ap, expected):
    assert ranked(ap=ap).mAP == pytest.approx(expected, abs=1e-6)


def test_the_drawn_match_stands_among_the_drawn_others():
    # Drawn at rank 2: one other before it; at 4 or 5: two.
    drawn = draws(np.array([1, 3, 1, 1]), repeats=200, seed=0, query=0)[:, 1]
    ranking = ranked()
    np.testing.assert_allclose(ranking.cmc, [0, (drawn == 0).mean(), 1, 1])
    assert 0.2 < (drawn == 0).mean() < 0.5
    sampled = ranked(ap_gallery="sampled")
    assert sampled.mAP == pytest.approx(np.where(drawn == 0, 1 / 2, 1 / 3).mean())
    assert sampled.mINP == sampled.mAP


def test_draws_are_uniform_over_the_images_of_each_identity():
    counts = np.array([1, 2, 5])
    drawn = draws(counts, repeats=6000, seed=3, query=9)
    assert drawn.shape == (6000, 3)
    for column, count in zip(drawn.T, counts, strict=True):
        shares = np.bincount(column, minlength=count) / 6000
        np.testing.assert_allclose(shares, 1 / count, atol=0.03)


def test_draws_belong_to_a_seed_and_a_query():
    counts = np.full(20, 9)
    first = draws(counts, repeats=3, seed=1, query=2)
    np.testing.assert_array_equal(first, draws(counts, repeats=3, seed=1, query=2))
    assert (first != draws(counts, repeats=3, seed=2, query=2)).any()
    assert (first != draws(counts, repeats=3, seed=1, query=3)).any()


@pytest.mark.parametrize("ap_gallery", ["sampled", "full"])
def test_one_image_of_each_person_is_the_plain_ranking(ap_gallery):
    ranking = rank_single_shot(
        [np.array([[0.3, 0.1, 0.2]])], np.array([4]), None, np.array([4, 5, 6]), None, repeats=3,
        ap_gallery=ap_gallery,
    )  # fmt: skip
    np.testing.assert_array_equal(ranking.cmc, [0, 0, 1])
    assert (ranking.mAP, ranking.mINP, ranking.num_valid) == (pytest.approx(1 / 3), pytest.approx(1 / 3), 1)


def test_equal_distances_are_ordered_by_row():
    def cmc(gallery):
        return rank_single_shot(
            [np.zeros((1, 2))], np.array([4]), None, np.array(gallery), None, repeats=2, ap_gallery="full"
        ).cmc

    np.testing.assert_array_equal(cmc([4, 5]), [1, 1])
    np.testing.assert_array_equal(cmc([5, 4]), [0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ap": "voc"}, "unknown ap"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"blocks": [np.full((1, 6), np.nan)]}, "NaN"),
        ({"blocks": [np.zeros((1, 5))]}, "must make up"),
        ({"blocks": []}, "0 of 1 queries"),
        ({"query_identities": np.array([9])}, "no query has a match"),
        ({"query_identities": np.array([-1])}, "no query has a match"),
        ({"query_cameras": np.array([0])}, "cameras of both"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {
        "blocks": [DISTANCES], "query_identities": QUERY, "query_cameras": None,
        "gallery_identities": GALLERY, "gallery_cameras": None, "repeats": 2, "ap_gallery": "full",
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        rank_single_shot(**(arguments | change))


@pytest.mark.parametrize("ap", AP_VARIANTS)
def test_junk_and_the_query_s_own_camera_are_never_drawn(ap):
    identities, cameras = np.array([5, -1, 5, 6]), np.array([0, 1, 1, 1])
    ranking = rank_single_shot(
        [np.array([[0.0, 0.1, 0.2, 0.3]])], QUERY, np.array([0]), identities, cameras, repeats=50,
        ap_gallery="sampled", ap=ap,
    )  # fmt: skip
    np.testing.assert_array_equal(ranking.cmc, [1, 1])
    assert ranking.mAP == 1.0
