"""What this machine has."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use, where it is less than the machine has


def memory_bytes() -> int:
    """Return the memory that processes here can use together."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        allowed = _CGROUP.read_text().strip()
    except OSError:
        return installed
    return min(installed, int(allowed)) if allowed.isdecimal() else installed
