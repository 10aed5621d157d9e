"""A process that stands still ends, and leaves its stacks."""

import subprocess
import sys
import time

from raid.methods.stalls import stacks_since, watched

STANDS_STILL = """
import sys, time
from pathlib import Path
from raid.methods.stalls import watched

def hanging():
    time.sleep(600)

with watched(Path(sys.argv[1]), "worker_1", 0.3) as beat:
    for _ in range(8):
        time.sleep(0.1)
        beat()
    print("alive", flush=True)
    hanging()
"""


def test_stacks_of_a_process_that_stands_still(tmp_path):
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-c", STANDS_STILL, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == "alive\n"  # as long as it gets on, nothing happens to it
    (file,) = stacks_since(tmp_path, begun)
    assert file.name == "stacks_worker_1.txt"
    assert "in hanging" in file.read_text()
    assert stacks_since(tmp_path, time.time() + 1) == []


def test_nothing_is_left_of_one_that_gets_on(tmp_path):
    with watched(tmp_path, "worker_0", 0.2) as beat:
        beat()
    time.sleep(0.4)
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_there_is_no_watchdog(tmp_path):
    with watched(tmp_path, "worker_0", 0.0) as beat:
        beat()
        assert list(tmp_path.iterdir()) == []


def test_a_worker_of_the_run_before_that_ends_late(tmp_path):
    """Its driver was killed, the run is gone on with: either may end first, and the file is the new one's."""
    for old_first in (True, False):
        old, new = watched(tmp_path, "worker_0", 60.0), watched(tmp_path, "worker_0", 60.0)
        old.__enter__()
        new.__enter__()
        (old if old_first else new).__exit__(None, None, None)
        assert len(list(tmp_path.iterdir())) == old_first
        (new if old_first else old).__exit__(None, None, None)
        assert list(tmp_path.iterdir()) == []
