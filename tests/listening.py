"""What processes listen on."""

import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"


def addresses(pids: Iterable[int]) -> dict[str, str]:
    """Return the addresses (HOST:PORT) that the processes listen on, each with who it is."""
    listening = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS:
                listening[rest[5]] = _address(local, family)
    found = {}
    for pid in pids:
        with suppress(OSError):  # it has ended
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(handle)
                if target.startswith("socket:[") and target[8:-1] in listening:
                    name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:60]
                    found[listening[target[8:-1]]] = name
    return found


def _address(text: str, family: socket.AddressFamily) -> str:
    host, _, port = text.partition(":")
    words = struct.unpack(f">{len(host) // 8}I", bytes.fromhex(host))  # each in the machine's order
    return f"{socket.inet_ntop(family, struct.pack(f'={len(words)}I', *words))}:{int(port, 16)}"


def is_loopback(address: str) -> bool:
    """Whether nobody else can reach it."""
    host = address.rpartition(":")[0]
    return host.removeprefix("::ffff:").startswith("127.") or host == "::1"
