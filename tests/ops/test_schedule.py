import math

import numpy as np
import pytest

from raid.ops.schedule import discard_probability


def test_last_epoch_of_the_published_horizon():
    # methods.md 2.10: with horizon 3 all end near .67 - .76.
    ends = {kind: discard_probability(kind, 49, 50) for kind in ("linear", "exponential", "cosine")}
    assert ends["cosine"] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.98 / 3)))
    assert ends["cosine"] == pytest.approx(0.759, abs=1e-3)
    assert ends["linear"] == pytest.approx(0.673, abs=1e-3)
    assert ends["exponential"] == pytest.approx(0.721, abs=1e-3)
    assert discard_probability("none", 49, 50) == 1


@pytest.mark.parametrize("kind", ["none", "linear", "exponential", "cosine"])
@pytest.mark.parametrize("horizon", [0.5, 1, 3])
def test_starts_at_start_and_never_rises(kind, horizon):
    curve = [discard_probability(kind, e, 20, horizon=horizon, start=0.9, end=0.2) for e in range(40)]
    assert curve[0] == pytest.approx(0.9)
    assert (np.diff(curve) <= 1e-15).all()
    assert min(curve) >= 0.2 - 1e-15


def test_full_anneal_reaches_the_end_and_stays():
    for kind in ("linear", "cosine"):
        assert discard_probability(kind, 20, 20, horizon=1, end=0.1) == pytest.approx(0.1)
        assert discard_probability(kind, 60, 20, horizon=1, end=0.1) == pytest.approx(0.1)
    assert discard_probability("linear", 5, 20, horizon=1) == 0.75
    assert discard_probability("exponential", 20, 20, horizon=1) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize(
    ("kind", "epoch", "epochs", "options"),
    [
        ("step", 0, 1, {}),
        ("cosine", -1, 1, {}),
        ("cosine", 0, 0, {}),
        ("cosine", 0, 1, {"horizon": 0}),
        ("cosine", 0, 1, {"start": 1.1}),
        ("cosine", 0, 1, {"end": -0.1}),
    ],
)
def test_bad_arguments(kind, epoch, epochs, options):
    with pytest.raises(ValueError, match=r"decay|epoch|probabilities"):
        discard_probability(kind, epoch, epochs, **options)
