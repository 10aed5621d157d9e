import math
from functools import partial
from itertools import combinations

import mar_inputs
import pytest
import torch
from mar_inputs import assert_same, unit_rows, value_and_gradients

from raid.losses.discriminative import (
    MinedPairs,
    MultilabelMemory,
    check_rows,
    discriminative_loss,
    mine_by_agreement,
    mine_by_feature,
    next_threshold,
)
from raid.ops.multilabel import agreement_quantile, soft_multilabels

FORMS = ["released", "paper"]


def example(rows=16, seed=0, dtype=torch.float64):
    features = unit_rows(rows, 6, seed, dtype=dtype)
    return features, soft_multilabels(features, unit_rows(9, 6, seed + 1, dtype=dtype), 30)


def agreement(one, other):
    return 1 - sum(abs(a - b) for a, b in zip(one.tolist(), other.tolist(), strict=True)) / 2


def of(threshold):
    return torch.tensor(threshold, dtype=torch.float64)


def plain_loss(features, multilabels, threshold, ratio, form):
    """Eq. 3 and 4, pair after pair; also the positive and the negative pairs."""
    pairs = list(combinations(range(len(features)), 2))
    distances = {(i, j): ((features[i] - features[j]) ** 2).sum() for i, j in pairs}
    similar = sorted(pairs, key=lambda pair: (distances[pair].item(), pair))
    similar = similar[: max(1, int(ratio * len(pairs)))]
    positives, negatives = [], []
    for i, j in similar:
        a = agreement(multilabels[i], multilabels[j])
        is_positive = a >= threshold if form == "paper" else a > threshold
        (positives if is_positive else negatives).append((i, j))
    p = sum(torch.exp(-distances[pair]) for pair in positives) / len(positives) if positives else 1.0
    n = sum(torch.exp(-distances[pair]) for pair in negatives) / len(negatives) if negatives else 0.5
    first = -torch.log(p) if positives else 0.0
    loss = first + torch.log(torch.as_tensor(p + n, dtype=features.dtype)) + 0 * features.sum()
    return loss, positives, negatives


def rows_of(mined, positive):
    return [tuple(pair) for pair in mined.rows[mined.positive == positive].tolist()]


def test_golden_values():
    inputs = mar_inputs.golden()
    memory = MultilabelMemory(24, 10, momentum=0.1)
    memory.update(torch.arange(24), soft_multilabels(inputs.target, inputs.agents, 30))
    threshold = agreement_quantile(memory.table.numpy(), 0.05)
    assert threshold == pytest.approx(0.69952226, abs=1e-6)
    mined = mine_by_agreement(inputs.target, memory.table, of(threshold), ratio=0.05, form="released")
    assert (len(mined.rows), mined.num_positives, mined.num_negatives) == (13, 1, 12)
    assert discriminative_loss(inputs.target, mined).item() == pytest.approx(0.69746834, abs=1e-6)
    assert mined.reached == pytest.approx(threshold, abs=1e-7)
    assert next_threshold(mined, 0.1) == pytest.approx(threshold, abs=1e-7)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_equal_the_loop(form, ratio, threshold):
    features, multilabels = example()
    mined = mine_by_agreement(features, multilabels, of(threshold), ratio=ratio, form=form)
    _, positives, negatives = plain_loss(features, multilabels, threshold, ratio, form)
    assert rows_of(mined, True) == positives
    assert rows_of(mined, False) == negatives
    assert_same(
        value_and_gradients(lambda f: discriminative_loss(f, mined), features),
        value_and_gradients(lambda f: plain_loss(f, multilabels, threshold, ratio, form)[0], features),
    )


def test_forms_differ_where_the_agreement_equals_the_threshold():
    features = unit_rows(2, 4, 0)
    multilabels = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    for form, positives in (("released", 0), ("paper", 1)):
        mined = mine_by_agreement(features, multilabels, of(0.5), ratio=0.5, form=form)
        assert mined.num_positives == positives


def test_elsewhere_the_forms_agree():
    features, multilabels = example()
    released, paper = (
        mine_by_agreement(features, multilabels, of(0.3), ratio=0.2, form=form).positive for form in FORMS
    )
    assert torch.equal(released, paper)
    assert 0 < released.sum() < len(released)


def three_pairs(positive):
    """All pairs of three rows, mined already."""
    rows = torch.tensor([[0, 1], [0, 2], [1, 2]])
    return MinedPairs(rows, torch.ones(3), torch.tensor(positive), 0.5, 0.5)


def test_no_positives_and_no_negatives():
    features = torch.tensor([[1.0, 0], [0, 1], [-1, 0]]).double()
    means = torch.tensor([math.exp(-2), math.exp(-4), math.exp(-2)]).mean().item()
    for positive, expected in (
        ([False] * 3, math.log(1 + means)),
        ([True] * 3, -math.log(means) + math.log(means + 0.5)),
    ):
        value, gradient = value_and_gradients(
            partial(discriminative_loss, mined=three_pairs(positive)), features
        )
        assert value.item() == pytest.approx(expected, abs=1e-7)
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_rows_of_any_length_give_a_finite_loss():
    features = torch.tensor([[100.0, 0], [0, 100], [-100, 0]])
    for positive in ([True, False, False], [False, True, False]):
        value, gradient = value_and_gradients(
            partial(discriminative_loss, mined=three_pairs(positive)), features
        )
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("rows", [2, 3, 7, 20])
def test_the_threshold_of_small_batches_does_not_collapse(rows):
    features, multilabels = example(rows)
    every = [agreement(one, other) for one, other in combinations(multilabels, 2)]
    threshold = of(0.5)
    for _ in range(200):
        mined = mine_by_agreement(features, multilabels, threshold, ratio=0.005, form="released")
        assert len(mined.rows) == 1
        assert mined.reached == pytest.approx(max(every), abs=1e-12)
        threshold = next_threshold(mined, 0.1)
    assert threshold == pytest.approx(max(every), abs=1e-8)
    assert discriminative_loss(features, mined).isfinite()


def test_threshold_follows_the_batch():
    features, multilabels = example()
    mined = mine_by_agreement(features, multilabels, of(0.6), ratio=0.1, form="released")
    every = sorted((agreement(one, other) for one, other in combinations(multilabels, 2)), reverse=True)
    assert len(mined.rows) == 12
    assert mined.reached == pytest.approx(every[11], abs=1e-12)
    assert next_threshold(mined, 0.1) == pytest.approx(0.9 * 0.6 + 0.1 * every[11], abs=1e-12)


def mine(guide, features, multilabels, form="released"):
    if guide == "feature":
        return mine_by_feature(features, ratio=0.2, form=form)
    return mine_by_agreement(features, multilabels, of(0.3), ratio=0.2, form=form)


@pytest.mark.parametrize("guide", ["multilabel", "feature"])
def test_order_of_images_does_not_matter(guide):
    features, multilabels = example(seed=3)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    mined, other = mine(guide, features, multilabels), mine(guide, features[order], multilabels[order])
    for positive in (True, False):
        turned = {tuple(sorted((int(order[i]), int(order[j])))) for i, j in rows_of(other, positive)}
        assert turned == set(rows_of(mined, positive))
    torch.testing.assert_close(
        discriminative_loss(features[order], other), discriminative_loss(features, mined)
    )


@pytest.mark.parametrize("guide", ["multilabel", "feature"])
def test_duplicates_are_mined_first_in_the_order_of_their_numbers(guide):
    features, multilabels = example(8)
    features, multilabels = features.repeat(2, 1), multilabels.repeat(2, 1)
    mined = mine(guide, features, multilabels)
    assert mined.rows[:8].tolist() == [[i, i + 8] for i in range(8)]
    value, gradient = value_and_gradients(lambda f: discriminative_loss(f, mined), features)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.105, 1.0])
def test_the_feature_guide_calls_the_nearer_half_positive(form, ratio):
    features, _ = example()
    mined = mine_by_feature(features, ratio=ratio, form=form)
    count = len(mined.rows)
    positives = count // 2 if form == "released" else -(-count // 2)
    assert mined.positive.tolist() == [True] * positives + [False] * (count - positives)
    assert mined.threshold == pytest.approx(mined.scores.quantile(0.5).item())
    assert mined.reached == mined.scores.min()
    assert discriminative_loss(features, mined).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("guide", ["multilabel", "feature"])
def test_half_precision_features_and_autocast_do_not_lower_the_precision(dtype, guide):
    features, multilabels = example(dtype=torch.float32)
    features = features.to(dtype)
    mined = mine(guide, features.float(), multilabels)
    with torch.autocast("cpu", torch.bfloat16):
        found = mine(guide, features, multilabels)
        loss = discriminative_loss(features, found)
    assert torch.equal(found.rows, mined.rows)
    assert torch.equal(found.positive, mined.positive)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, discriminative_loss(features.float(), mined))


@pytest.mark.parametrize("guide", ["multilabel", "feature"])
def test_workers_that_gather_get_the_gradient_of_one(guide):
    _, multilabels = example(12)

    def loss(features):
        return discriminative_loss(features, mine(guide, features, multilabels))

    expected = mar_inputs.weight_gradient(loss, [unit_rows(12, 9, 1)], 1)
    assert expected.abs().max() > 0
    assert_same([mar_inputs.weight_gradient(loss, [unit_rows(12, 9, 1)], 2)], [expected], 1e-12)


def test_memory_stores_the_first_visit_and_averages_the_others():
    _, multilabels = example(6, dtype=torch.float32)
    memory = MultilabelMemory(10, 9, momentum=0.1)
    memory.update(torch.tensor([7, 2, 4]), multilabels[:3])
    assert torch.equal(memory.table[[7, 2, 4]], multilabels[:3])
    memory.update(torch.tensor([4, 0]), multilabels[3:5].requires_grad_())
    torch.testing.assert_close(memory.table[4], 0.9 * multilabels[2] + 0.1 * multilabels[3])
    assert torch.equal(memory.table[0], multilabels[4])
    assert memory.visited.nonzero()[:, 0].tolist() == [0, 2, 4, 7]
    assert (memory.table[~memory.visited] == 0).all()
    assert not memory.table.requires_grad
    memory.update(torch.empty(0, dtype=torch.int64), torch.empty(0, 9))


def test_the_order_of_a_batch_leaves_the_memory_as_it_is():
    _, multilabels = example(6, dtype=torch.float32)
    order, tables = torch.randperm(6, generator=torch.Generator().manual_seed(0)), []
    for places in (torch.arange(6), order):
        memory = MultilabelMemory(6, 9, momentum=0.1)
        for shift in range(2):
            memory.update(places, multilabels[places].roll(shift, dims=1))
        tables.append(memory.table)
    assert torch.equal(*tables)


def test_memory_is_kept_and_taken_over():
    _, multilabels = example(6, dtype=torch.float32)
    one, other = (MultilabelMemory(6, 9, momentum=0.1) for _ in range(2))
    one.update(torch.tensor([1, 3]), multilabels[:2])
    other.load_state_dict(one.state_dict())
    for memory in (one, other):
        memory.update(torch.tensor([3, 5]), multilabels[2:4])
    assert torch.equal(one.table, other.table)
    assert torch.equal(one.visited, other.visited)


@pytest.mark.parametrize("rows", [[-1, 0], [0, 4], [1, 1], [0], [[0, 1]]])
def test_memory_refuses_rows_that_do_not_fit(rows):
    memory = MultilabelMemory(4, 9, momentum=0.1)

    def visit():
        check_rows(torch.tensor(rows), 4)
        memory.update(torch.tensor(rows), torch.ones(2, 9))

    with pytest.raises(ValueError, match=r"rows must be 0 to 3|twice|need"):
        visit()
    assert not memory.visited.any()


def test_bad_settings():
    features, multilabels = example()
    for call, message in (
        (lambda: mine_by_agreement(features, multilabels, of(0.5), ratio=0.1, form="code"), "form must be"),
        (lambda: mine_by_feature(features, ratio=0.0, form="paper"), "ratio above 0"),
        (lambda: mine_by_feature(features[:1], ratio=0.1, form="paper"), "0 pairs"),
        (lambda: MultilabelMemory(2, 2, momentum=-1), "momentum"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
