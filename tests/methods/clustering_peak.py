"""The peak of a clustering's memory, in a process of its own: `python clustering_peak.py ROWS DIM JSON`."""

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from raid.data import synthetic
from raid.methods.icsr.clustering import cluster
from raid.methods.sections import Clustering, Neighbors
from raid.ops.jaccard import jaccard_similarity


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


class Watch(threading.Thread):
    """Keeps the most memory that was seen but for mapped files: the kernel keeps no such peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, status("RssAnon"))
            time.sleep(0.002)


def main() -> None:
    num_rows, dimensions, options = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    how, neighbors = Clustering(**options["how"]), Neighbors(**options["neighbors"])
    with tempfile.TemporaryDirectory() as scratch:
        for rows in (600, num_rows):  # the first compiles and loads what there is
            people = synthetic.features(1, num_identities=rows // 16, images_per_identity=16, dim=dimensions)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            before = {"VmHWM": status("VmRSS"), "RssAnon": status("RssAnon")}
            watch = Watch()
            cluster(people.features, how, rows // 16, neighbors, seed=1, scratch=Path(scratch))
            peak = status("VmHWM") - before["VmHWM"]
            anonymous = watch.peak - before["RssAnon"]
    k1, k2 = neighbors.of(len(people.features), num_rows // 16)
    entries = jaccard_similarity(people.features, k1=k1, k2=k2).nnz / len(people.features)
    taken = {"peak": peak, "anonymous": anonymous}
    print(json.dumps({"rows": len(people.features), "entries_per_row": entries, **taken}))


if __name__ == "__main__":
    main()
