"""Compiled loops over rows."""

import subprocess
import sys
import threading
import uuid

import numpy as np
import pytest
import torch

import raid.ops.compiled
from raid.ops.compiled import _cache_folder, compiled, over_rows, over_threads


@compiled
def _total(values, first, last):
    total = 0.0
    for row in range(first, last):
        total += values[row]
    return total


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_chunks_come_in_their_order_whatever_the_threads(threads):
    values = np.arange(100.0)
    totals = over_rows(lambda first, last: _total(values, first, last), 3, 100, chunk_rows=10)
    assert totals == [values[first : min(first + 10, 100)].sum() for first in range(3, 100, 10)]


def test_threads_are_used(threads):
    barrier = threading.Barrier(threads, timeout=20)  # is passed only if so many wait at once
    over_rows(lambda first, last: barrier.wait(), 0, threads, chunk_rows=1)


def test_no_rows_and_no_chunk():
    assert over_rows(lambda first, last: 1, 5, 5, chunk_rows=2) == []
    with pytest.raises(ValueError, match="chunk_rows must be at least 1, got 0"):
        over_rows(lambda first, last: 1, 0, 5, chunk_rows=0)


def test_failure_of_a_chunk_is_raised(threads):
    def fail(first, last):
        raise ZeroDivisionError(first)

    with pytest.raises(ZeroDivisionError):
        over_rows(fail, 0, 6, chunk_rows=2)


def test_items_share_the_threads_each_with_one_of_its_own(threads):
    barrier = threading.Barrier(threads, timeout=20)

    def work(item):
        barrier.wait()
        rows = torch.full((600, 600), float(item))
        return (rows @ rows)[0, 0].item(), torch.get_num_threads()

    found = over_threads(work, range(2 * threads))
    assert found == [(600.0 * item**2, 1) for item in range(2 * threads)]
    assert torch.get_num_threads() == threads


def test_every_state_of_the_sources_has_a_cache_of_its_own(tmp_path):
    """numba's own stamp would miss a callee in another file, and run code that does not fit it."""
    (tmp_path / "one.py").write_text("one")
    (tmp_path / "two.py").write_text("two")
    before = _cache_folder(tmp_path)
    _cache_folder.cache_clear()
    assert _cache_folder(tmp_path) == before
    assert before.is_dir()
    (tmp_path / "two.py").write_text("three")
    _cache_folder.cache_clear()
    assert _cache_folder(tmp_path) != before


def test_code_is_found_in_that_cache_by_the_next_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        f"# {uuid.uuid4()}: numba knows a file by its place and its content, and pytest gives places again\n"
        "from raid.ops.compiled import compiled\n"
        "@compiled\n"
        "def double(value):\n"
        "    return 2 * value\n"
        "print(double(21), sum(double.stats.cache_hits.values()))\n"
    )
    for hits in (0, 1):
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=200)
        assert (done.returncode, done.stdout) == (0, f"42 {hits}\n"), done.stderr


def test_without_a_place_for_the_cache_it_is_compiled_all_the_same(tmp_path, monkeypatch):
    occupied = tmp_path / "file"
    occupied.touch()  # whoever makes a folder below it fails, root too
    monkeypatch.setenv("HOME", str(occupied))
    _cache_folder.cache_clear()
    assert _cache_folder(occupied) is None
    monkeypatch.setattr(raid.ops.compiled, "_PACKAGE", occupied)
    assert compiled(lambda value: 2 * value)(21) == 42
