"""Infomap in a process of its own: run as a script, with links on stdin and modules on stdout.

Infomap and faiss are both wrapped by SWIG, which keeps one table of types for all such packages of a process:
with faiss loaded, Infomap's results come through faiss's iterator and the process crashes.
"""

import io
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def partition(num_nodes: int, sources: Ints, targets: Ints, weights: NDArray[np.float64], seed: int) -> Ints:
    """Return the module of every node (num_nodes,), -1 = in none, of a directed graph of L links.

    Args:
        num_nodes: N.
        sources: (L,) nodes.
        targets: (L,) nodes.
        weights: (L,) above 0.
        seed: of Infomap's search.

    Raises:
        RuntimeError: Infomap failed; holds its last line.
    """
    sent = io.BytesIO()
    np.savez(sent, num_nodes=num_nodes, sources=sources, targets=targets, weights=weights, seed=seed)
    command = [sys.executable, "-P", __file__]  # -P: modules beside this one are not to be found by name
    done = subprocess.run(command, input=sent.getvalue(), capture_output=True)
    if done.returncode:
        told = done.stderr.decode(errors="replace").splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"infomap: {told[-1]}")
    modules: Ints = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return modules


def _main() -> None:
    from infomap import Infomap

    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as given:
        network = Infomap(silent=True, two_level=True, directed=True, seed=int(given["seed"]))
        modules = np.full(int(given["num_nodes"]), -1, dtype=np.int64)
        for node in range(len(modules)):
            network.add_node(node)
        links = (given[name].tolist() for name in ("sources", "targets", "weights"))
        for source, target, weight in zip(*links, strict=True):
            network.add_link(source, target, weight)
    found: dict[int, int] = network.run().modules()
    for node, module in found.items():
        modules[node] = module
    np.save(sys.stdout.buffer, modules, allow_pickle=False)


if __name__ == "__main__":
    _main()
