"""Reads that do not come back are named, and keep nobody."""

import os
import subprocess
import sys
import threading
import time

import pytest

from raid.data.reading import read_bytes, within
from raid.errors import InputError


@pytest.fixture
def hanging(tmp_path):
    """A file whose reader waits for ever: a pipe that nobody writes to."""
    path = tmp_path / "hangs.jpg"
    os.mkfifo(path)
    return path


def test_a_file_is_read(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_bytes(tmp_path / "a") == b"abc"
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "b")


def test_a_read_that_hangs_is_named_and_the_next_one_works(hanging, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(
        InputError, match=r"hangs\.jpg: could not be read within 0\.1 s \(data\.read_timeout_s\)"
    ):
        read_bytes(hanging, 0.1)
    assert read_bytes(tmp_path / "a", 5.0) == b"abc"


def test_an_error_of_the_read_is_its_own():
    def timed_out() -> bytes:
        raise TimeoutError("of the network")

    with pytest.raises(TimeoutError, match="of the network"):
        within(5.0, timed_out, "x")


def test_every_thread_has_a_reader_of_its_own():
    may_end = threading.Event()
    slow = threading.Thread(target=lambda: within(60.0, may_end.wait, "slow"))
    slow.start()
    assert within(30.0, lambda: 3, "quick") == 3  # and does not wait for the other
    may_end.set()
    slow.join()


def readers() -> int:
    return sum(thread.name == "raid-reader" for thread in threading.enumerate())


def test_a_reader_ends_with_its_thread():
    within(5.0, lambda: None, "ours, which stays")
    before = readers()
    seen = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: seen.append(within(5.0, readers, "its own")))
        thread.start()
        thread.join()
    deadline = time.monotonic() + 5
    while readers() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (max(seen) > before, readers()) == (True, before)


def test_a_process_ends_though_a_read_hangs(hanging):
    program = (
        "import sys; from pathlib import Path; from raid.data.reading import read_bytes\n"
        "try: read_bytes(Path(sys.argv[1]), 0.2)\nexcept Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, hanging], capture_output=True, text=True, timeout=60, check=True
    )
    assert "the storage hangs" in done.stdout
