import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import mar_inputs
import numpy as np
import pytest
import torch

from raid.ops.multilabel import (
    agent_logits,
    agreement_quantile,
    log_soft_multilabels,
    num_similar,
    pair_agreements,
    rows_of_pairs,
    similar_pairs,
    soft_multilabels,
)


def table(rows, agents, seed, scale=3.0):
    """Soft multilabels, float32, between flat and concentrated."""
    logits = scale * np.random.default_rng(seed).standard_normal((rows, agents))
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy().astype(np.float32)


def exact_table(rows, agents, seed):
    """Multilabels that are multiples of 2^-10: every difference and sum of them is exact in float32."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(agents, 0.2), rows)
    return np.stack([rng.multinomial(1024, share) for share in shares]).astype(np.float32) / 1024


def all_agreements(multilabels):
    """Of all pairs in float64, the largest first."""
    rows = multilabels.astype(np.float64)
    return np.sort([1 - abs(rows[i] - rows[j]).sum() / 2 for i, j in combinations(range(len(rows)), 2)])[::-1]


def test_golden_values():
    inputs = mar_inputs.golden()
    multilabels = soft_multilabels(inputs.target, inputs.agents, 30)
    expected = [0.191048890, 1.2408e-16, 0.794506550, 5.5978e-11]
    # The published ones are float32's, whose last digits depend on the processor.
    np.testing.assert_allclose(multilabels[0, :4], expected, rtol=5e-5, atol=0)
    np.testing.assert_allclose(multilabels[0, :4], expected, rtol=0, atol=1e-6)
    precise = mar_inputs.golden(torch.float64)
    precise = soft_multilabels(precise.target, precise.agents, 30)
    np.testing.assert_allclose(precise[0, [0, 2]], [0.19104904, 0.79450634], rtol=0, atol=1e-8)
    assert num_similar(24 * 23 // 2, 0.05) == 13
    assert agreement_quantile(multilabels.numpy(), 0.05) == pytest.approx(0.69952226, abs=1e-6)


def test_logarithms_and_half_precision():
    inputs = mar_inputs.golden()
    multilabels = soft_multilabels(inputs.target, inputs.agents, 30)
    logs = log_soft_multilabels(inputs.target, inputs.agents, 30)
    torch.testing.assert_close(logs.exp(), multilabels)
    far = log_soft_multilabels(torch.tensor([[1.0]]), torch.tensor([[1.0], [-1.0]]), 300)
    assert far.tolist() == [[0.0, -600.0]]
    for dtype in (torch.float16, torch.bfloat16):
        rows = inputs.target.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            found = soft_multilabels(rows, inputs.agents, 30)
        assert found.dtype == torch.float32
        assert torch.equal(found, soft_multilabels(rows.float(), inputs.agents, 30))
    assert agent_logits(inputs.target.double(), inputs.agents, 30).dtype == torch.float64


def test_agreement_is_the_sum_of_minima_of_rows_that_add_up_to_one():
    multilabels = torch.from_numpy(table(9, 20, 0)).double()
    multilabels /= multilabels.sum(dim=1, keepdim=True)
    minima = [torch.minimum(multilabels[i], multilabels[j]).sum() for i, j in combinations(range(9), 2)]
    torch.testing.assert_close(pair_agreements(multilabels), torch.stack(minima))
    same = multilabels[:1].repeat(3, 1)
    assert pair_agreements(same.requires_grad_()).tolist() == [1, 1, 1]
    assert not pair_agreements(same).requires_grad


@pytest.mark.parametrize(
    ("num_pairs", "ratio", "expected"),
    [(16836, 0.005, 84), (83663580, 0.005, 418317), (190, 0.005, 1), (1, 0.005, 1), (10, 1, 10)],
)
def test_number_of_similar_pairs(num_pairs, ratio, expected):
    assert num_similar(num_pairs, ratio) == expected


def test_similar_pairs_are_the_nearest_and_equal_ones_go_by_number():
    features = mar_inputs.unit_rows(12, 5, 0)
    every = list(combinations(range(12), 2))
    expected = sorted(every, key=lambda pair: (features[pair[0]] - features[pair[1]]).norm().item())[:13]
    pairs = similar_pairs(features, 0.2)
    assert [tuple(rows) for rows in rows_of_pairs(pairs, 12).tolist()] == expected
    assert [every[number] for number in pairs.tolist()] == expected
    corners = torch.eye(40)[torch.arange(80) % 40]  # 40 pairs at 0, all others at one distance
    rows = rows_of_pairs(similar_pairs(corners, 0.02), 80).tolist()
    assert rows[:40] == [[i, i + 40] for i in range(40)]
    assert rows[40:] == [[0, j] for j in range(1, 80) if j != 40][: len(rows) - 40]


@pytest.mark.parametrize("ratio", [0.0001, 0.005, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "agents", "block_rows"), [(2, 1, 512), (65, 7, 16), (150, 300, 64)])
def test_quantile_is_exact(rows, agents, block_rows, ratio):
    multilabels = exact_table(rows, agents, seed=rows)
    every = all_agreements(multilabels)
    expected = every[max(1, int(ratio * len(every))) - 1]
    assert agreement_quantile(multilabels, ratio, block_rows=block_rows) == expected


def test_quantile_of_multilabels_is_that_of_float64_up_to_rounding():
    multilabels = table(120, 4101, 1)
    every = all_agreements(multilabels)
    for ratio in (0.005, 0.3):
        expected = every[int(ratio * len(every)) - 1]
        assert agreement_quantile(multilabels, ratio) == pytest.approx(expected, abs=1e-6)


def in_turn(function, items):
    """As a pool: by pickle, and the last block first."""
    items = list(items)
    with ThreadPoolExecutor(2) as executor:
        copies = [executor.submit(pickle.loads(pickle.dumps(function)), item) for item in reversed(items)]
        return iter([copy.result() for copy in reversed(copies)])


def test_the_bits_do_not_depend_on_shards_threads_blocks_or_order():
    multilabels = table(300, 133, 2)
    expected = agreement_quantile(multilabels, 0.05)
    before = torch.get_num_threads()
    for threads, block_rows, map_blocks in ((1, 512, map), (3, 512, map), (1, 64, in_turn), (2, 37, in_turn)):
        torch.set_num_threads(threads)
        found = agreement_quantile(multilabels, 0.05, block_rows=block_rows, map_blocks=map_blocks)
        torch.set_num_threads(before)
        assert found == expected
    order = np.random.default_rng(0).permutation(300)
    assert agreement_quantile(multilabels[order], 0.05) == expected
    assert agreement_quantile(multilabels[order].astype(np.float64), 0.05) == expected
    assert agreement_quantile(np.asfortranarray(multilabels), 0.05) == expected


def test_duplicates_agree_wholly():
    multilabels = table(40, 50, 3)
    assert agreement_quantile(np.repeat(multilabels, 2, axis=0), 40 / 3160) == 1
    assert agreement_quantile(np.repeat(multilabels, 2, axis=0), 41 / 3160) < 1


def test_memory_is_that_of_a_block():
    multilabels = table(4000, 32, 4)
    agreement_quantile(multilabels[:100], 0.005)  # compiles
    tracemalloc.start()
    agreement_quantile(multilabels, 0.005, block_rows=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # all agreements at once: 64 MB, or 32 MB of each pair once


def test_a_sample_estimates_the_quantile():
    multilabels = table(600, 40, 5)
    whole = agreement_quantile(multilabels, 0.05)
    samples = [agreement_quantile(multilabels, 0.05, num_sampled=200, seed=seed) for seed in range(5)]
    assert len(set(samples)) == 5
    assert samples == pytest.approx([whole] * 5, abs=0.05)
    assert agreement_quantile(multilabels, 0.05, num_sampled=200, seed=3) == samples[3]
    assert agreement_quantile(multilabels, 0.05, num_sampled=600) == whole


def test_bad_tables():
    multilabels = table(5, 4, 6)
    broken = multilabels.copy()
    broken[2, 1] = np.inf
    for call, message in (
        (lambda: agreement_quantile(multilabels[0], 0.1), r"multilabels must have shape"),
        (lambda: agreement_quantile(broken, 0.1), "not finite"),
        (lambda: agreement_quantile(multilabels[:1], 0.1), "need a pair"),
        (lambda: agreement_quantile(multilabels, 0.0), "ratio above 0"),
        (lambda: agreement_quantile(multilabels, 1.5), "ratio above 0"),
        (lambda: agreement_quantile(multilabels, 0.1, num_sampled=6), "num_sampled must be 2 to 5"),
        (lambda: similar_pairs(torch.ones(1, 3), 0.1), "need a pair"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
