"""One clustering in a process of its own, as a search without anything shared runs each of its trials.

`python sweep_trial.py FEATURES.npy ROWS K1 K2 NUM_CLUSTERS THREADS` prints a JSON line.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    import numpy as np
    from benchmarks.measure import limit, measured, memory_gib

    from raid.methods.icsr.clustering import cluster
    from raid.methods.sections import Clustering, Neighbors

    file, rows, k1, k2, num_clusters, threads = sys.argv[1], *map(int, sys.argv[2:])
    limit(threads)
    small = np.load(file, mmap_mode="r")[:500]
    cluster(small, Clustering(), 50, Neighbors(k1=k1, k2=k2), seed=0)  # compiled code is loaded

    def work():
        features = np.load(file, mmap_mode="r")
        assert len(features) == rows
        return cluster(features, Clustering(), num_clusters, Neighbors(k1=k1, k2=k2), seed=0)

    made, cost = measured(work)
    digest = hashlib.sha256(made.labels.tobytes()).hexdigest()
    told = {"labels": digest, "silhouette": made.silhouette, "anonymous_gib": memory_gib("RssAnon")}
    print(json.dumps(cost | told | {"process_cpu_seconds": time.process_time()}))


if __name__ == "__main__":
    main()
