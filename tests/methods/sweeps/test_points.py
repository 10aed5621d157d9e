"""Which points a search has, and what they set."""

import math

import pytest

from raid.errors import InputError
from raid.methods.sweeps.points import chosen, drawn, grid, legal, overrides_of, space_of, told
from raid.sweep_folder import Axis

DECAY = Axis("refine.decay", ("off", "none", "cosine"), instead={"off": {"refine.enabled": False}})
HORIZON = Axis("refine.horizon", (1.0, 3.0), low=1.0, high=5.0)
WEIGHT = Axis("losses.lambda1", (1e-4, 1e-2), low=1e-4, high=1e-2, log=True)


ONLY_DECAYING = Axis("refine.horizon", (1.0, 3.0), only={"refine.decay": ("cosine",)})


def never(point):
    pass


def test_a_grid_has_every_combination_once_the_last_axis_changing_fastest():
    points = list(grid([DECAY, HORIZON]))
    assert [tuple(point.values()) for point in points] == [
        ("off", 1.0), ("off", 3.0), ("none", 1.0), ("none", 3.0), ("cosine", 1.0), ("cosine", 3.0),
    ]  # fmt: skip


def test_a_value_that_is_not_the_settings_own_sets_something_else():
    assert overrides_of([DECAY, HORIZON], {"refine.decay": "off", "refine.horizon": 3.0}) == {
        "refine.enabled": False, "refine.horizon": 3.0,
    }  # fmt: skip
    assert overrides_of([DECAY], {"refine.decay": "none"}) == {"refine.decay": "none"}


def test_draws_are_different_legal_and_begin_alike_for_any_number():
    few, many = drawn([DECAY, HORIZON], 5, 1, never), drawn([DECAY, HORIZON], 50, 1, never)
    assert many[:5] == few
    assert len({tuple(point.values()) for point in many}) == 50
    assert drawn([DECAY, HORIZON], 5, 2, never) != few


def test_draws_of_a_range_lie_in_it_evenly_on_its_scale():
    values = [point["losses.lambda1"] for point in drawn([WEIGHT], 400, 1, never)]
    assert 1e-4 <= min(values) < max(values) <= 1e-2
    below = sum(value < 1e-3 for value in values)  # half of the range, by the logarithm
    assert abs(below - 200) < 5 * math.sqrt(100)
    values = [point["refine.horizon"] for point in drawn([HORIZON], 400, 1, never)]
    assert abs(sum(value < 3.0 for value in values) - 200) < 5 * math.sqrt(100)


def test_no_more_points_are_drawn_than_there_are():
    points = drawn([DECAY], 16, 1, never)
    assert sorted(point["refine.decay"] for point in points) == ["cosine", "none", "off"]


def test_what_is_refused_is_drawn_again_or_left_out_and_all_refused_is_an_error():
    def no_off(point):
        if point["refine.decay"] == "off":
            raise InputError("off is off")

    assert {point["refine.decay"] for point in drawn([DECAY], 16, 1, no_off)} == {"none", "cosine"}
    kept, refused = legal(grid([DECAY]), no_off)
    assert ([point["refine.decay"] for point in kept], refused) == (["none", "cosine"], ["off is off"])

    def nothing(point):
        raise InputError("nothing goes")

    with pytest.raises(InputError, match="nothing goes"):
        drawn([DECAY], 16, 1, nothing)


def test_axes_are_chosen_by_name_and_taken_out_by_an_override():
    axes = [DECAY, HORIZON, WEIGHT]
    assert chosen(axes, None, {}, []) == (DECAY, HORIZON, WEIGHT)
    assert chosen(axes, ["losses.lambda1", "decay"], {}, []) == (WEIGHT, DECAY)
    assert chosen(axes, None, {}, ["refine.decay", "seed"]) == (HORIZON, WEIGHT)


def test_values_take_the_place_of_an_axis_values_and_range():
    (axis,) = chosen([HORIZON], None, {"horizon": [2, 4]}, [])
    assert (axis.values, axis.low, axis.high) == ((2, 4), None, None)


def test_off_is_what_yaml_reads_as_false():
    (axis,) = chosen([DECAY], None, {"decay": [False, "none"]}, [])
    assert axis.values == ("off", "none")


@pytest.mark.parametrize(
    ("names", "values", "fixed", "message"),
    [
        (["decays"], {}, [], "decays: is not searched by this sweep; it knows decay, horizon"),
        (None, {"k1": [1]}, [], "k1: is not searched"),
        (["decay"], {}, ["refine.decay"], "refine.decay: is set and searched"),
        (None, {"decay": ["none"]}, ["refine.decay"], "refine.decay: is set and searched"),
        (None, {}, ["refine.decay", "refine.horizon"], "nothing is left to search"),
        (None, {"decay": "none"}, [], "'none' is not a list of different values"),
        (None, {"decay": ["none", "none"]}, [], "is not a list of different values"),
        (None, {"decay": []}, [], "is not a list of different values"),
    ],
)
def test_what_cannot_be_chosen_is_said(names, values, fixed, message):
    with pytest.raises(InputError, match=message):
        chosen([DECAY, HORIZON], names, values, fixed)


def test_optuna_is_given_choices_and_ranges():
    assert space_of([DECAY, HORIZON, WEIGHT]) == {
        "refine.decay": (("off", "none", "cosine"),),
        "refine.horizon": (1.0, 5.0, False),
        "losses.lambda1": (1e-4, 1e-2, True),
    }


def test_a_point_in_words():
    point = {"refine.decay": "off", "losses.lambda1": 0.000123456}
    assert told([DECAY, WEIGHT], point) == "decay=off, lambda1=0.0001235"


def test_settings_that_change_nothing_make_no_points_of_their_own():
    points = [tuple(point.values()) for point in grid([DECAY, ONLY_DECAYING])]
    assert points == [("off", 1.0), ("none", 1.0), ("cosine", 1.0), ("cosine", 3.0)]
    assert len(drawn([DECAY, ONLY_DECAYING], 50, 1, never)) == 4
    assert len(list(grid([ONLY_DECAYING]))) == 2  # the decay is not searched: it is the run file's
