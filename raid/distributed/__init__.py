"""The only package that knows of processes, process groups and clusters."""

import os

# Ray reads these when it is imported, which is from here on.
# Lines that look alike, such as those of the epochs, would be left out.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
if not os.environ.get("RAY_ADDRESS"):
    # A cluster that we start ourselves is this machine's own: all of it listens on the loopback alone. (What
    # Ray does by default where a firewall would ask the user.)
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
