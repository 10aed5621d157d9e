import pickle

import brute_force
import numpy as np
import pytest
import torch
from benchmarks.dense_reference import cmc_ranking
from sklearn.metrics import average_precision_score

from raid.ops.hits import Rules, hit_positions
from raid.ops.ranked_lists import ranked_lists
from raid.ops.ranking import AP_VARIANTS, average_precision, rank, rank_blocks


def problem(seed, queries=30, gallery=80, ties=False):
    rng = np.random.default_rng(seed)
    make = (lambda n: rng.integers(-1, 2, (n, 3)) / 2) if ties else (lambda n: rng.standard_normal((n, 6)))
    return {
        "query_features": make(queries).astype(np.float32),
        "query_identities": rng.integers(-1, 8, queries),
        "query_cameras": rng.integers(0, 3, queries),
        "gallery_features": make(gallery).astype(np.float32),
        "gallery_identities": rng.integers(-1, 7, gallery),
        "gallery_cameras": rng.integers(0, 3, gallery),
    }


def ranking_of(arguments, i):
    """What counts of the gallery for query i, in order, by a full sort, and its similarities."""
    features, ids, cams, g_features, g_ids, g_cams = arguments.values()
    similarity = g_features @ features[i]
    order = sorted(range(len(g_ids)), key=lambda j: (-similarity[j], j))
    order = [j for j in order if g_ids[j] != -1]
    if cams is not None:
        order = [j for j in order if not (g_ids[j] == ids[i] and g_cams[j] == cams[i])]
    return order, similarity


def reference(arguments, ap):
    """The text of methods.md 1.2, query after query; average precision is NaN where there is none."""
    ids, g_ids = arguments["query_identities"], arguments["gallery_identities"]
    firsts, precisions, penalties = [], [], []
    of_all = np.full(len(ids), np.nan)
    for i, identity in enumerate(ids):
        order, _ = ranking_of(arguments, i)
        hits = [place for place, j in enumerate(order) if g_ids[j] == identity]
        if not hits or identity == -1:
            continue
        precisions.append(brute_force.precision(hits, ap))
        of_all[i] = precisions[-1]
        firsts.append(hits[0])
        penalties.append(len(hits) / (hits[-1] + 1))
    cmc = [np.mean([first <= r for first in firsts]) for r in range(len(g_ids))]
    return np.mean(precisions), cmc, np.mean(penalties), len(firsts), of_all


def same(ranking, expected):
    assert ranking.mAP == pytest.approx(expected[0])
    np.testing.assert_allclose(ranking.cmc, expected[1], atol=1e-12)
    assert ranking.mINP == pytest.approx(expected[2])
    assert ranking.num_valid == expected[3]
    if len(expected) > 4:
        np.testing.assert_allclose(ranking.average_precisions, expected[4])  # NaN = NaN


def test_check_vector():
    hits = np.array([1, 3, 4])  # 1-based ranks 2, 4, 5
    assert average_precision(hits) == pytest.approx(0.533333, abs=1e-6)
    assert average_precision(hits, "market_trapezoid") == pytest.approx(0.405556, abs=1e-6)
    assert average_precision(hits, "mar_official") == pytest.approx(0.572222, abs=1e-6)


@pytest.mark.parametrize(
    ("ap", "expected"), [("noninterp", 0.533333), ("market_trapezoid", 0.405556), ("mar_official", 0.572222)]
)
def test_check_vector_through_rank(ap, expected):
    gallery = np.arange(6, 0, -1)[:, None]
    identities = np.array([0, 5, 0, 5, 5, 0])
    ranking = rank(np.ones((1, 1)), np.array([5]), None, gallery, identities, None, ap=ap)
    assert ranking.mAP == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(ranking.cmc, [0, 1, 1, 1, 1, 1])
    assert ranking.mINP == 3 / 5
    assert ranking.num_valid == 1


def test_noninterp_is_sklearns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        relevant = rng.random(30) < 0.3
        relevant[rng.integers(30)] = True
        expected = average_precision_score(relevant, -np.arange(30))
        assert average_precision(np.flatnonzero(relevant)) == pytest.approx(expected)


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cameras", [True, False])
def test_equals_the_slow_reference(ap, ties, cameras):
    for seed in range(4):
        arguments = problem(seed, ties=ties)
        if not cameras:
            arguments |= {"query_cameras": None, "gallery_cameras": None}
        same(rank(**arguments, ap=ap, block_rows=7), reference(arguments, ap))


def test_order_of_queries_and_gallery_and_names_do_not_matter():
    arguments = problem(1)
    rng = np.random.default_rng(0)
    plain = rank(**arguments)
    orders = {"query": rng.permutation(30), "gallery": rng.permutation(80)}
    names = rng.permutation(100)
    other = {key: values[orders[key.split("_")[0]]] for key, values in arguments.items()}
    for key in ("query_identities", "gallery_identities"):
        other[key] = np.where(other[key] < 0, -1, names[other[key]])
    for key in ("query_cameras", "gallery_cameras"):
        other[key] = np.array(["hall", "door", "yard"])[other[key]]
    same(rank(**other), (plain.mAP, plain.cmc, plain.mINP, plain.num_valid))


@pytest.mark.parametrize("num_places", [1, 5, 200])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cameras", [True, False])
def test_lists_equal_the_slow_reference(num_places, ties, cameras):
    for seed in range(4):
        arguments = problem(seed, ties=ties)
        if not cameras:
            arguments |= {"query_cameras": None, "gallery_cameras": None}
        lists = ranked_lists(**arguments, num_places=num_places, block_rows=7)
        assert lists.rows.shape == lists.similarity.shape == lists.right.shape == (30, num_places)
        for i, identity in enumerate(arguments["query_identities"]):
            order, similarity = ranking_of(arguments, i) if identity != -1 else ([], np.empty(0))
            order = order[:num_places]
            missing = num_places - len(order)
            np.testing.assert_array_equal(lists.rows[i], [*order, *[-1] * missing])
            np.testing.assert_allclose(
                lists.similarity[i], [*similarity[order], *[np.nan] * missing], rtol=1e-5, atol=1e-6
            )
            right = arguments["gallery_identities"][order] == identity
            np.testing.assert_array_equal(lists.right[i], [*right, *[False] * missing])


def test_a_list_begins_with_what_the_score_counts():
    arguments = problem(5)
    ranking, lists = rank(**arguments), ranked_lists(**arguments, num_places=80)
    valid = ~np.isnan(ranking.average_precisions)
    assert ranking.num_valid == valid.sum() < 30
    for i in np.flatnonzero(valid):
        hits = np.flatnonzero(lists.right[i])
        assert average_precision(hits) == ranking.average_precisions[i]
    assert ranking.mAP == ranking.average_precisions[valid].mean()


def test_lists_of_bad_arguments():
    with pytest.raises(ValueError, match="num_places"):
        ranked_lists(**problem(0), num_places=0)
    with pytest.raises(ValueError, match="cameras of both"):
        ranked_lists(**{**problem(0), "query_cameras": None}, num_places=3)


def test_duplicated_queries_change_nothing():
    arguments = problem(2)
    doubled = {k: np.repeat(v, 2, axis=0) if k.startswith("query") else v for k, v in arguments.items()}
    plain, twice = rank(**arguments), rank(**doubled)
    same(twice, (plain.mAP, plain.cmc, plain.mINP, 2 * plain.num_valid))


def test_the_querys_own_camera_and_junk_do_not_count():
    features = np.array([[4.0], [3], [2], [1]])
    query = (np.ones((1, 1)), np.array([5]), np.array([0]))
    # Own camera first, then junk, then a distractor of the same camera (identity 0 counts), then the match.
    ranking = rank(*query, features, np.array([5, -1, 0, 5]), np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(ranking.cmc, [0, 1, 1, 1])
    assert ranking.mAP == 0.5


def test_perfect_ranking():
    features = np.eye(5)
    ranking = rank(features, np.arange(5), np.zeros(5), features, np.arange(5), np.ones(5))
    assert (ranking.mAP, ranking.mINP, ranking.num_valid) == (1, 1, 5)
    np.testing.assert_array_equal(ranking.cmc, np.ones(5))
    assert ranking.cmc.dtype == np.float64


def labels_of(arguments):
    return [values for key, values in arguments.items() if "features" not in key]


def stably_sorted(distances, arguments, i):
    """Positions of the matches of query i by a stable sort of its distances."""
    ids, cams, g_ids, g_cams = labels_of(arguments)
    order = np.argsort(distances[i], kind="stable")
    order = order[(g_ids[order] != -1) & ~((g_ids[order] == ids[i]) & (g_cams[order] == cams[i]))]
    return np.flatnonzero(g_ids[order] == ids[i]) if ids[i] != -1 else np.empty(0, int)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("values", [2, 9, 10**9])  # ties of nearly everything, of some, of nothing
@pytest.mark.parametrize(("gallery", "identities"), [(60, 8), (9000, 700), (9000, 2)])
def test_positions_are_those_of_a_stable_sort(dtype, values, gallery, identities):
    # 9,000 items are several tiles; 2 identities have more matches than are counted one by one.
    rng = np.random.default_rng(values)
    arguments = problem(0, queries=6, gallery=gallery)
    arguments["query_identities"] = np.array([0, 1, -1, 1, 999, 0])
    arguments["gallery_identities"] = rng.integers(-1, identities, gallery)
    distances = rng.integers(0, values, (6, gallery)).astype(dtype)
    distances[3] = np.inf  # an order all the same
    hits, counts = hit_positions(distances, 0, Rules.of(*labels_of(arguments)))
    expected = [stably_sorted(distances, arguments, i) for i in range(6)]
    np.testing.assert_array_equal(counts, [len(of_query) for of_query in expected])
    np.testing.assert_array_equal(hits, np.concatenate(expected))


def test_without_ties_it_is_sklearns():
    arguments = problem(3, gallery=600) | {"query_cameras": None, "gallery_cameras": None}
    arguments["gallery_identities"] = np.abs(arguments["gallery_identities"])
    ranking = rank(**arguments)
    similarity = arguments["query_features"] @ arguments["gallery_features"].T
    for i in np.flatnonzero(~np.isnan(ranking.average_precisions)):
        match = arguments["gallery_identities"] == arguments["query_identities"][i]
        expected = average_precision_score(match, similarity[i])
        assert ranking.average_precisions[i] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("cameras", [True, False])
def test_blocks_of_distances_give_the_same_ranking(ap, cameras):
    arguments = problem(4, ties=True)
    if not cameras:
        arguments |= {"query_cameras": None, "gallery_cameras": None}
    distances = -(arguments["query_features"] @ arguments["gallery_features"].T)
    blocks = (distances[start : start + 11] for start in range(0, 30, 11))
    same(rank_blocks(blocks, *labels_of(arguments), ap=ap), reference(arguments, ap))
    same(rank_blocks([distances.astype(np.float64)], *labels_of(arguments), ap=ap), reference(arguments, ap))


def test_the_peer_of_the_benchmarks_says_the_same():
    arguments = problem(7, ties=True)
    for key in ("query_identities", "gallery_identities"):
        arguments[key] = np.abs(arguments[key])  # it knows no junk
    distances = -(arguments["query_features"] @ arguments["gallery_features"].T)
    cmc, mean, precisions = cmc_ranking(distances, *labels_of(arguments))
    ranking = rank(**arguments)
    assert ranking.mAP == pytest.approx(mean)
    np.testing.assert_allclose(ranking.cmc, cmc, atol=1e-12)
    np.testing.assert_allclose(ranking.average_precisions, precisions)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.zeros((30, 79))], "must make up"),
        ([np.zeros((20, 80)), np.zeros((20, 80))], "must make up"),
        ([np.zeros((29, 80))], "29 of 30"),
        ([np.full((30, 80), np.nan)], "NaN"),
    ],
)
def test_bad_blocks(blocks, message):
    with pytest.raises(ValueError, match=message):
        rank_blocks(blocks, *labels_of(problem(0)))
    with pytest.raises(ValueError, match="unknown ap"):
        rank_blocks(blocks, *labels_of(problem(0)), ap="voc")


@pytest.mark.parametrize("equal", [True, False])
def test_any_threads_and_shards_give_the_same_bytes(equal):
    arguments = problem(6, queries=90, ties=True)
    if equal:
        arguments["gallery_features"][:] = arguments["gallery_features"][0]

    def backwards(function, items):  # as shards that finish in another order
        results = {item: function(item) for item in reversed(list(items))}
        return [results[item] for item in sorted(results)]

    def outcome(**options):
        ranking = rank(**arguments, block_rows=40, **options)
        return ranking.average_precisions.tobytes() + ranking.cmc.tobytes()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome()
        torch.set_num_threads(3)
        assert outcome() == outcome(map_blocks=backwards) == alone
    finally:
        torch.set_num_threads(before)


def test_nothing_to_rank():
    arguments = problem(0, queries=0)
    with pytest.raises(ValueError, match="no query has a match"):
        rank(**arguments)
    with pytest.raises(ValueError, match="no query has a match"):
        rank_blocks([], *labels_of(arguments))
    assert ranked_lists(**arguments, num_places=3).rows.shape == (0, 3)
    with pytest.raises(ValueError, match="without a match"):
        average_precision(np.empty(0))


def test_blocks_are_picklable():
    arguments = problem(3)

    def elsewhere(function, items):
        return [pickle.loads(pickle.dumps(function))(item) for item in items]

    plain = rank(**arguments, block_rows=8)
    other = rank(**arguments, block_rows=8, map_blocks=elsewhere)
    assert (other.mAP, other.mINP) == (plain.mAP, plain.mINP)


@pytest.mark.parametrize(
    "change",
    [
        {"ap": "voc"},
        {"query_cameras": None},
        {"query_identities": np.full(30, -1)},
        {"gallery_identities": np.full(80, 99)},
        {"gallery_identities": np.zeros(3)},
        {"gallery_features": np.zeros((80, 5))},
        {"query_features": np.zeros(30)},
    ],
)
def test_bad_arguments(change):
    with pytest.raises(ValueError, match=r"unknown ap|cameras|no query|shape|dimensions"):
        rank(**{**problem(0), **change})
    with pytest.raises(ValueError, match="unknown ap"):
        average_precision(np.array([0]), "voc")


def test_features_that_are_not_finite_are_refused() -> None:
    one = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="gallery_features are not finite"):
        rank(one, np.array([1]), None, one * np.nan, np.array([1]), None)
