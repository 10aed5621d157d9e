from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from raid.ops.refine import COINS, REFEREES, refine_labels

MSMT17 = Path(__file__).parents[3] / "shared" / "data" / "msmt17_local_labels.parquet"


def problem(seed, count=160, clusters=5, cameras=3, locals_=4, ties=False):
    rng = np.random.default_rng(seed)
    return {
        "labels": rng.integers(-1, clusters, count),
        "local_labels": rng.integers(-1, locals_, count),
        "cameras": rng.integers(0, cameras, count),
        "scores": rng.integers(0, 5, count).astype(float) if ties else rng.random(count),
        "modules": rng.integers(-1, count // 6, count),
    }


def reference(
    labels,
    local_labels,
    cameras,
    scores,
    *,
    discard_probability,
    seed,
    epoch,
    referee="top",
    coin="sample",
    require_above_mean=True,
    modules=None,
):
    """The text of methods.md 2.9, sample after sample."""
    count, mean, local = len(labels), scores.mean(), local_labels
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    coins = random.random(count) if coin == "sample" else None

    def hit(j):
        return (random.random() if coins is None else coins[j]) < discard_probability

    candidates = {i for i in range(count) if labels[i] != -1 and local[i] >= 0}
    if require_above_mean:
        candidates = {i for i in candidates if scores[i] > mean}
    if referee == "infomap_last":
        last = {}
        for i in range(count):
            if modules[i] != -1 and scores[i] > mean:
                last[modules[i]] = i
        candidates &= set(last.values())
    out = labels.copy()
    for cluster in sorted(set(labels.tolist()) - {-1}):
        for camera in sorted(set(cameras.tolist())):
            group = [i for i in range(count) if labels[i] == cluster and cameras[i] == camera]
            voters = sorted((i for i in group if i in candidates), key=lambda i: (-scores[i], i))
            for i in voters[:1] if referee == "top" else voters:
                if out[i] == -1 and referee in ("sequential", "infomap_last"):
                    continue
                agreeing = {local[v] for v in voters} if referee == "union" else {local[i]}
                for j in group:
                    if out[j] != -1 and local[j] >= 0 and local[j] not in agreeing and hit(j):
                        out[j] = -1
    return out


@pytest.mark.parametrize("referee", REFEREES)
@pytest.mark.parametrize("coin", COINS)
@pytest.mark.parametrize("require", [True, False])
@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_equals_the_slow_reference(referee, coin, require, probability):
    for seed in range(6):
        arguments = problem(seed, ties=seed % 2 == 1)
        options = {
            "discard_probability": probability,
            "seed": seed,
            "epoch": 3,
            "referee": referee,
            "coin": coin,
            "require_above_mean": require,
        }
        refined = refine_labels(**arguments, **options)
        assert refined.dtype == np.int64
        np.testing.assert_array_equal(refined, reference(**arguments, **options))


def test_by_hand():
    # One cluster, two cameras. Camera 0: sample 1 (local 7) is referee, 0 disagrees. Camera 1: no referee.
    arguments = {
        "labels": np.array([0, 0, 0, 0, 0, -1]),
        "local_labels": np.array([3, 7, 7, 1, 2, 3]),
        "cameras": np.array([0, 0, 0, 1, 1, 0]),
        "scores": np.array([6.0, 9, 1, 1, 1, 0]),
    }
    assert arguments["scores"].mean() == 3
    before = arguments["labels"].copy()
    refined = refine_labels(**arguments, discard_probability=1, seed=0, epoch=0)
    np.testing.assert_array_equal(refined, [-1, 0, 0, 0, 0, -1])
    np.testing.assert_array_equal(arguments["labels"], before)
    union = refine_labels(**arguments, discard_probability=1, seed=0, epoch=0, referee="union")
    np.testing.assert_array_equal(union, before)
    both = refine_labels(**arguments, discard_probability=1, seed=0, epoch=0, referee="intersection")
    np.testing.assert_array_equal(both, [-1, -1, -1, 0, 0, -1])


@pytest.mark.parametrize("referee", REFEREES)
@pytest.mark.parametrize("coin", COINS)
def test_nothing_at_probability_zero(referee, coin):
    arguments = problem(1)
    refined = refine_labels(**arguments, discard_probability=0, seed=0, epoch=0, referee=referee, coin=coin)
    np.testing.assert_array_equal(refined, arguments["labels"])


@pytest.mark.parametrize("coin", COINS)
def test_at_probability_one_the_first_referee_settles_it(coin):
    for seed in range(10):
        arguments = problem(seed)
        options = {"discard_probability": 1.0, "seed": 5, "epoch": 1, "coin": coin}
        top = refine_labels(**arguments, **options, referee="top")
        np.testing.assert_array_equal(top, refine_labels(**arguments, **options, referee="sequential"))


@pytest.mark.parametrize("referee", REFEREES)
def test_new_names_change_nothing(referee):
    arguments = problem(2)
    options = {"discard_probability": 0.5, "seed": 3, "epoch": 2, "referee": referee}
    refined = refine_labels(**arguments, **options)
    rng = np.random.default_rng(0)
    names = {key: rng.permutation(200) for key in ("labels", "local_labels", "cameras", "modules")}
    renamed = {
        key: np.where(values < 0, values, names[key][values]) if key in names else values
        for key, values in arguments.items()
    }
    other = refine_labels(**renamed, **options)
    np.testing.assert_array_equal(other, np.where(refined < 0, -1, names["labels"][refined]))


@pytest.mark.parametrize("referee", ["top", "union", "intersection", "sequential"])
def test_permuted_samples_give_permuted_labels(referee):
    arguments = problem(3)
    order = np.random.default_rng(0).permutation(160)
    options = {"discard_probability": 1.0, "seed": 3, "epoch": 2, "referee": referee}
    refined = refine_labels(**arguments, **options)
    permuted = refine_labels(**{k: v[order] for k, v in arguments.items()}, **options)
    np.testing.assert_array_equal(permuted, refined[order])


@pytest.mark.parametrize("referee", ["top", "union", "sequential", "infomap_last"])
@pytest.mark.parametrize("coin", COINS)
def test_no_cluster_and_no_camera_of_it_is_emptied(referee, coin):
    for seed in range(10):
        arguments = problem(seed, locals_=12)
        refined = refine_labels(
            **arguments, discard_probability=0.7, seed=seed, epoch=0, referee=referee, coin=coin
        )
        live = arguments["labels"] != -1
        before = set(zip(arguments["labels"][live], arguments["cameras"][live], strict=True))
        after = set(zip(refined[refined != -1], arguments["cameras"][refined != -1], strict=True))
        assert before == after


def test_a_higher_probability_discards_a_superset():
    arguments = problem(4, count=400)
    discarded = [
        refine_labels(**arguments, discard_probability=p, seed=1, epoch=1) == -1 for p in (0, 0.3, 0.6, 1)
    ]
    for fewer, more in pairwise(discarded):
        assert (fewer <= more).all()
        assert fewer.sum() < more.sum()


def test_probability_is_the_marginal_of_a_sample():
    arguments = problem(5, count=400)
    contradicted = refine_labels(**arguments, discard_probability=1, seed=0, epoch=0) != arguments["labels"]
    share = np.mean(
        [
            (refine_labels(**arguments, discard_probability=0.3, seed=7, epoch=e) != arguments["labels"])
            for e in range(400)
        ],
        axis=0,
    )
    assert (share[~contradicted] == 0).all()
    assert share[contradicted].mean() == pytest.approx(0.3, abs=0.01)
    assert np.abs(share[contradicted] - 0.3).max() < 5 * np.sqrt(0.21 / 400)


def test_epochs_and_seeds_draw_afresh():
    arguments = problem(6)
    draws = {
        refine_labels(**arguments, discard_probability=0.5, seed=s, epoch=e).tobytes()
        for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    assert len(draws) == 4


def test_missing_local_labels_neither_vote_nor_fall():
    arguments = problem(7)
    arguments["local_labels"][:] = -1
    for referee in REFEREES:
        refined = refine_labels(**arguments, discard_probability=1, seed=0, epoch=0, referee=referee)
        np.testing.assert_array_equal(refined, arguments["labels"])


def test_empty_input():
    none = np.empty(0, np.int64)
    assert refine_labels(none, none, none, none * 1.0, discard_probability=1, seed=0, epoch=0).shape == (0,)


@pytest.mark.parametrize(
    "change",
    [
        {"referee": "best"},
        {"coin": "toss"},
        {"discard_probability": -0.1},
        {"discard_probability": 1.1},
        {"seed": -1},
        {"epoch": -1},
        {"cameras": np.zeros(3)},
        {"scores": np.zeros((160, 1))},
        {"modules": np.zeros(3)},
        {"referee": "infomap_last", "modules": None},
    ],
)
def test_bad_arguments(change):
    with pytest.raises(ValueError, match=r"unknown|must|needs"):
        refine_labels(**{**problem(0), "discard_probability": 1, "seed": 0, "epoch": 0, **change})


@pytest.mark.skipif(not MSMT17.exists(), reason=f"{MSMT17} is absent")
def test_at_msmt17s_camera_imbalance():
    import pyarrow.parquet as parquet

    table = parquet.read_table(MSMT17)
    cameras = table["camera"].to_numpy()
    rng = np.random.default_rng(0)
    labels = table["identity"].to_numpy() // 2  # two people a cluster
    arguments = (labels, table["local_label"].to_numpy(), cameras, rng.random(len(labels)))
    top = refine_labels(*arguments, discard_probability=1, seed=0, epoch=0)
    turns = refine_labels(*arguments, discard_probability=1, seed=0, epoch=0, referee="sequential")
    np.testing.assert_array_equal(top, turns)
    assert 0.3 < (top != -1).mean() < 0.9
