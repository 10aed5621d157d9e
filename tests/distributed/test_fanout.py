import os
import time
from functools import partial

import numpy as np
import pytest
import torch

from raid.distributed.fanout import InProcess, Processes
from raid.errors import InputError

THREADS = torch.get_num_threads() + 2  # what no process has by itself


@pytest.fixture(scope="module")
def processes():
    pool = Processes(2, THREADS)
    yield pool
    pool.close()


@pytest.fixture(params=["InProcess", "Processes"])
def fan_out(request):
    return InProcess() if request.param == "InProcess" else request.getfixturevalue("processes")


def weighted(item, values, factor):
    time.sleep(0.02 * (item == 0))  # the first is the last to be done
    return item, float(values[item] * factor)


def write(item, values):
    values[item] = 0


def fail_at_2(item):
    if item == 2:
        raise InputError(f"item {item} cannot be done")
    return item


def square_sum(block, matrix):
    return torch.from_numpy(matrix[block].copy()).square().sum(dim=1).numpy()


def surroundings(item):
    return os.getpid(), torch.get_num_threads()


def test_results_come_in_the_order_of_the_items(fan_out):
    values = np.arange(9.0)
    found = fan_out.map(weighted, range(9), fan_out.share(values), 0.5)
    assert list(found) == [(i, i / 2) for i in range(9)]
    assert list(fan_out.map(weighted, iter([]), values, 1)) == []


def test_both_give_the_same_bytes(processes):
    matrix = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    blocks = [slice(start, start + 7) for start in range(0, 40, 7)]
    rows = [list(f.map(square_sum, blocks, f.share(matrix))) for f in (InProcess(), processes)]
    assert [part.tobytes() for part in rows[0]] == [part.tobytes() for part in rows[1]]
    np.testing.assert_allclose(np.concatenate(rows[0]), (matrix**2).sum(axis=1), rtol=1e-5)


def test_shared_arrays_are_read_only(fan_out):
    values = np.arange(4.0)
    shared = fan_out.share(values)
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        list(fan_out.map(write, [0, 1], shared))
    values[0] = 5  # the owner may still write
    assert fan_out.share("text") == "text"


def test_an_exception_of_an_item_surfaces(fan_out):
    found = fan_out.map(fail_at_2, range(50))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(InputError, match="item 2 cannot be done"):
        next(found)
    assert list(fan_out.map(fail_at_2, [3, 4])) == [3, 4]


def test_a_partial_may_be_mapped(fan_out):
    assert list(fan_out.map(partial(weighted, values=[1.0, 2.0], factor=3), [1])) == [(1, 6.0)]


def test_items_run_elsewhere_with_their_number_of_threads(processes):
    places = list(processes.map(surroundings, range(20)))
    assert {threads for _, threads in places} == {THREADS}
    assert os.getpid() not in {process for process, _ in places}
    assert list(InProcess().map(surroundings, [0])) == [(os.getpid(), torch.get_num_threads())]


def test_close_ends_the_processes():
    pool = Processes(1, 1)
    ((process, threads),) = pool.map(surroundings, [0])
    assert threads == 1
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.map(surroundings, [0])
