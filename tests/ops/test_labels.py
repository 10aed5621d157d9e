import numpy as np

from raid.ops.labels import by_first_appearance


def test_numbers_follow_the_first_samples():
    labels, first = by_first_appearance(np.array([7, -1, 7, 3, -1, 0]))
    assert (list(labels), list(first)) == ([0, 1, 0, 2, 1, 3], [0, 1, 3, 5])
    assert labels.dtype == np.int64
    assert [len(part) for part in by_first_appearance(np.array([], np.int64))] == [0, 0]
