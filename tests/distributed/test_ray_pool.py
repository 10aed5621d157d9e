from collections import Counter

import pytest

pytest.importorskip("ray")
from raid.distributed.ray_pool import spread


@pytest.mark.parametrize(
    ("size", "cpus", "expected"),
    [
        (2, {"a": 1.0, "b": 1.0}, {"a": 1, "b": 1}),
        (3, {"head": 0.0, "a": 8.0, "b": 8.0}, {"a": 2, "b": 1}),
        (9, {"small": 4.0, "large": 8.0}, {"small": 3, "large": 6}),
        (1, {"head": 0.0, "only": 2.0}, {"only": 1}),
        (4, {"only": 2.0}, {"only": 4}),
    ],
)
def test_processes_are_spread_by_cpus(size, cpus, expected):
    assert Counter(spread(size, cpus)) == expected


def test_neighbours_in_number_are_on_other_nodes():
    assert spread(4, {"b": 2.0, "a": 2.0}) == ["a", "b", "a", "b"]


def test_the_order_of_the_nodes_does_not_matter():
    cpus = {"c": 3.0, "a": 5.0, "b": 4.0}
    assert spread(7, cpus) == spread(7, dict(sorted(cpus.items())))
