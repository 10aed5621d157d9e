from dataclasses import replace

import brute_force
import numpy as np
import pytest
from benchmarks.dense_reference import rerank_dense

from raid.ops.ranking import AP_VARIANTS
from raid.protocols import Options, Side, averaged, rank_protocol, rankings

REFERENCE = {"rerank_k1": 7, "rerank_k2": 3, "rerank_weight": 0.4}


def side(rng, count, *, ties=False, cameras=3):
    """Junk, distractors (identity 0), some identities without a match, and, with ties, few similarities."""
    rows = rng.integers(-1, 2, (count, 3)) if ties else rng.standard_normal((count, 6))
    rows = rows + np.where((rows == 0).all(axis=1), 1, 0)[:, None]
    features = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Side(features, rng.integers(-1, 9, count), rng.integers(0, cameras, count))


def problem(seed, **how):
    rng = np.random.default_rng(seed)
    query, gallery, more = side(rng, 35, **how), side(rng, 80, **how), side(rng, 50, **how)
    query.identities[:3] = 99  # nobody of the gallery
    gallery.identities[gallery.identities == 1] = 2  # but some of the further images
    return query, gallery, more


def people(of):
    cameras = [None] * len(of.identities) if of.cameras is None else of.cameras.tolist()
    return list(zip(of.identities.tolist(), cameras, strict=True))


def distances(query, gallery, options=None):
    if options is None:
        return -(query.features @ gallery.features.T)
    how = {"k1": options.rerank_k1, "k2": options.rerank_k2, "weight": options.rerank_weight}
    return rerank_dense(query.features, gallery.features, **how)


def same(ranking, expected, atol=1e-9):
    assert ranking.num_valid == expected[3]
    np.testing.assert_allclose(ranking.average_precisions, expected[4], atol=atol)  # NaN = NaN
    assert ranking.mAP == pytest.approx(expected[0], abs=atol)
    np.testing.assert_allclose(ranking.cmc, expected[1], atol=atol)
    assert ranking.mINP == pytest.approx(expected[2], abs=atol)


def without_cameras(*sides):
    return [replace(each, cameras=None) for each in sides]


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cameras", [True, False])
def test_single_and_multi_query_equal_the_loops(ap, ties, cameras):
    for seed in range(3):
        sides = problem(seed, ties=ties)
        query, gallery, more = sides if cameras else without_cameras(*sides)
        found = rankings(query, gallery, more, options=Options(ap=ap, multi_query=True), block_rows=9)
        assert list(found) == ["", "multi_query"]
        expected = brute_force.standard(distances(query, gallery), people(query), people(gallery), ap)
        assert 0 < expected[3] < len(query.identities)
        same(found[""], expected)
        mean = brute_force.averaged(query.features, people(query), more.features, people(more))
        assert (mean != query.features).any()
        assert (mean == query.features).all(axis=1).any()  # some have no further images
        of_mean = distances(replace(query, features=mean), gallery)
        same(found["multi_query"], brute_force.standard(of_mean, people(query), people(gallery), ap))


def classic_problem(seed, ties=False):
    """40 images of 8 people and junk, queries and gallery both; one person is seen by one camera alone."""
    both = side(np.random.default_rng(seed), 40, ties=ties, cameras=2)
    both.cameras[both.identities == 3] = 0
    return both


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("convention", ["sls", "torchreid"])
def test_cuhk03_classic_equals_the_loops_given_the_same_draws(ap, ties, convention):
    for seed in range(2):
        both = classic_problem(seed, ties)
        options = Options(ap=ap, cuhk03=convention, seed=seed)
        found = rank_protocol(both, both, protocol="cuhk03_classic", options=options, block_rows=7)
        expected = brute_force.classic(
            distances(both, both), people(both), people(both), ap, convention, seed
        )
        assert 0 < expected[3] < 40
        same(found, expected)


def test_the_average_precision_of_sls_is_a_reciprocal_rank_and_torchreid_s_is_the_market_s():
    both = classic_problem(4)
    by = {
        name: rank_protocol(both, both, protocol="cuhk03_classic", options=Options(cuhk03=name))
        for name in ("sls", "torchreid")
    }
    assert by["sls"].mAP == pytest.approx(by["sls"].mINP)
    plain = rank_protocol(both, both, options=Options())
    assert by["torchreid"].mAP == pytest.approx(plain.mAP)
    assert by["torchreid"].mINP == pytest.approx(plain.mINP)
    assert by["torchreid"].cmc[0] < plain.cmc[0]  # one image to be found, not the best of several


def test_the_draws_have_a_seed():
    both = classic_problem(1)
    cmc = [
        rank_protocol(both, both, protocol="cuhk03_classic", options=Options(seed=seed)).cmc
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(cmc[0], cmc[1])
    assert (cmc[0] != cmc[2]).any()


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("cameras", [True, False])
def test_viper_is_the_mean_of_both_directions(ap, cameras):
    for seed in range(3):
        sides = problem(seed, ties=seed == 2)[:2]
        one, other = sides if cameras else without_cameras(*sides)
        found = rank_protocol(one, other, protocol="viper", options=Options(ap=ap), block_rows=11)
        forward = brute_force.standard(distances(one, other), people(one), people(other), ap)
        backward = brute_force.standard(distances(other, one), people(other), people(one), ap)
        assert forward[0] != backward[0]
        same(found, brute_force.mean_of(forward, backward))
        turned = rank_protocol(other, one, protocol="viper", options=Options(ap=ap))
        assert turned.mAP == pytest.approx(found.mAP)
        np.testing.assert_allclose(turned.cmc, found.cmc)


@pytest.mark.parametrize("ap", AP_VARIANTS)
@pytest.mark.parametrize("cameras", [True, False])
@pytest.mark.parametrize("protocol", ["standard", "viper", "cuhk03_classic"])
def test_re_ranked_they_equal_the_loops_over_dense_distances(ap, cameras, protocol):
    options = Options(ap=ap, multi_query=True, rerank=True, **REFERENCE)
    sides = problem(5)
    query, gallery, more = sides if cameras else without_cameras(*sides)
    if protocol == "cuhk03_classic":
        query = gallery = classic_problem(5)
        more = None
    found = rankings(query, gallery, more, protocol=protocol, options=options, block_rows=9)

    def expected(one, other):
        reference = {"cuhk03_classic": lambda *all_of: brute_force.classic(*all_of, "sls")}
        compute = reference.get(protocol, brute_force.standard)
        return compute(distances(one, other, options), people(one), people(other), ap)

    forward = expected(query, gallery)
    same(
        found["rerank"],
        brute_force.mean_of(forward, expected(gallery, query)) if protocol == "viper" else forward,
    )
    assert found["rerank"].mAP != found[""].mAP
    multi = ["multi_query", "multi_query/rerank"] if protocol == "standard" else []
    assert list(found) == ["", "rerank", *multi]
    if multi:
        mean = brute_force.averaged(query.features, people(query), more.features, people(more))
        same(found["multi_query/rerank"], expected(replace(query, features=mean), gallery))


def all_protocols(query, gallery, more, **how):
    """Every ranking there is, by name."""
    found = {}
    for convention in ("sls", "torchreid"):
        options = Options(multi_query=True, rerank=True, cuhk03=convention, **REFERENCE)
        for protocol in ("standard", "viper", "cuhk03_classic"):
            for name, ranking in rankings(
                query, gallery, more, protocol=protocol, options=options, **how
            ).items():
                found[convention, protocol, name] = ranking
    assert len(found) == 2 * (4 + 2 + 2)
    return found


def as_reference(ranking):
    return ranking.mAP, ranking.cmc, ranking.mINP, ranking.num_valid, ranking.average_precisions


def test_blocks_and_shards_change_no_figure():
    sides = problem(6)

    def backwards(function, items):
        results = {item: function(item) for item in reversed(list(items))}
        return [results[item] for item in sorted(results)]

    plain = all_protocols(*sides)
    for how in ({"block_rows": 1}, {"block_rows": 13}, {"block_rows": 13, "map_blocks": backwards}):
        for key, ranking in all_protocols(*sides, **how).items():
            same(ranking, as_reference(plain[key]))


def test_the_order_of_the_gallery_and_names_of_people_and_cameras_change_no_figure():
    query, gallery, more = problem(7)
    rng = np.random.default_rng(0)
    plain = all_protocols(query, gallery, more)
    order, names, cameras = rng.permutation(80), rng.permutation(100), np.array([5, 0, 9])

    def renamed(of):
        identities = np.where(of.identities == -1, -1, names[of.identities])
        return Side(of.features, identities, cameras[of.cameras])

    shuffled = Side(gallery.features[order], gallery.identities[order], gallery.cameras[order])
    for key, ranking in all_protocols(renamed(query), renamed(shuffled), renamed(more)).items():
        expected = as_reference(plain[key])
        if key[1] == "viper":  # its average precisions hold those of the gallery in their order
            precisions = plain[key].average_precisions
            expected = (*expected[:4], np.concatenate([precisions[:35], precisions[35:][order]]))
        same(ranking, expected)


def test_a_query_is_the_mean_of_its_further_images_and_not_a_unit_row():
    axes = np.eye(3, dtype=np.float32)
    query = Side(axes[[2, 2, 2]], np.array([7, 7, 8]), np.array([0, 1, 0]))
    more = Side(axes[[0, 1, 0]], np.array([7, 7, 7]), np.array([0, 0, 1]))
    np.testing.assert_array_equal(averaged(query, more).features, [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(query.features, axes[[2, 2, 2]])  # the caller's are as they were
    (plain, some) = without_cameras(query, more)
    np.testing.assert_allclose(averaged(plain, some).features, [[2 / 3, 1 / 3, 0]] * 2 + [[0, 0, 1]])


def test_what_was_not_chosen_is_not_computed():
    query, gallery, more = problem(0)
    assert list(rankings(query, gallery, more, options=Options())) == [""]
    assert list(rankings(query, gallery, None, options=Options(multi_query=True))) == [""]


@pytest.mark.parametrize("protocol", ["standard", "viper", "cuhk03_classic"])
@pytest.mark.parametrize("rerank", [False, True])
def test_features_that_are_not_finite_are_refused(protocol, rerank):
    query, gallery, _ = problem(0)
    gallery.features[5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        rankings(query, gallery, protocol=protocol, options=Options(rerank=rerank))
