"""The benchmarks: a JSON line a path, each measured in a process of its own, against a peer in the same run.

    python tests/benchmarks/run.py                 12,936 rows (Market-1501's training set), about 15 minutes
    python tests/benchmarks/run.py --large         32,621 rows (MSMT17's), one million, and the large peers
    python tests/benchmarks/run.py --only linkage  the paths whose name holds the text
    python tests/benchmarks/run.py --table FILE    the README's tables from the lines of an earlier run

`ratio` is the peer's CPU-seconds over ours: higher is better. Processors and their neighbours differ, so
compare ratios, not seconds. `extrapolated` peers were measured on fewer rows and scaled. Published programs
are peers too where an environment variable names a checkout of theirs: see peers.py.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKET, MSMT17, MILLION = 12_936, 32_621, 1_000_000
FOR_MANY = ("large_set",)  # what a million rows are for
Line = dict[str, Any]
sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` is found, however this is run


def paths() -> dict[str, Any]:
    """Every benchmark by its name, without those of checkouts that no variable names."""
    from benchmarks import (
        paths_checkouts,
        paths_clustering,
        paths_epoch,
        paths_large,
        paths_multilabel,
        paths_neighbors,
        paths_ranking,
        paths_step,
        paths_sweep,
        paths_throughput,
        paths_training,
        peers,
    )

    found, unset = {}, peers.unset()
    for module in (
        paths_neighbors,
        paths_clustering,
        paths_ranking,
        paths_step,
        paths_sweep,
        paths_large,
        paths_multilabel,
        paths_throughput,
        paths_training,
        paths_epoch,
        paths_checkouts,
    ):
        found |= {name: path for name, path in vars(module).items() if name.startswith("bench_")}
    found = {name.removeprefix("bench_"): path for name, path in found.items()}
    return {name: path for name, path in found.items() if paths_checkouts.NEEDS.get(name) not in unset}


def plan(large: bool) -> list[tuple[str, int, int]]:
    """(path, rows, threads) of what is run."""
    usual = [name for name in paths() if name not in FOR_MANY]
    if not large:
        return [(name, MARKET, 1) for name in usual]
    return [(name, MSMT17, 1) for name in usual] + [
        (name, rows, 2) for rows in (10_000, 100_000, MILLION) for name in FOR_MANY
    ]


def measured(name: str, rows: int, threads: int) -> list[Line]:
    """The lines that a path's process printed; its failure is a line too."""
    command = [sys.executable, __file__, "--path", name, "--rows", str(rows), "--threads", str(threads)]
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    done = subprocess.run(command, env={**os.environ, **limits}, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        lines.append({"path": name, "n": rows, "error": f"exit status {done.returncode}"})
    return lines


def with_growth(line: Line, before: list[Line]) -> Line:
    """The line with the power of N that its CPU time has grown with since the last smaller set."""
    smaller = [one for one in before if one["path"] == line["path"] and one.get("large_set")]
    if not line.get("large_set") or not smaller:
        return line
    rows, seconds = (line[field] / smaller[-1][field] for field in ("n", "cpu_seconds"))
    return line | {"growth": math.log(seconds) / math.log(rows)}


def tables(file: Path) -> Iterator[str]:
    """The README's tables: against the peers, and of the large sets."""
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]
    yield "| path | rows | ours, CPU-s | peak above the input, GiB | peer | peer, CPU-s | ratio |"
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: |"
    for line in lines:
        if "ratio" in line:
            about = "about " if line.get("extrapolated") else ""
            peer = f"{about}{line['reference_cpu_seconds']:.1f} | {about}{line['ratio']:.1f}"
            ours = f"{line['cpu_seconds']:.2f} | {line['peak_rss_gib']:.2f} | {line['reference']}"
            yield f"| {line['path']} | {line['n']:,} | {ours} | {peer} |"
    yield ""
    yield "| path | rows | seconds | CPU-s | grows with the power | anonymous, GiB | held before it, GiB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for line in lines:
        if line.get("large_set"):
            growth = f"{line['growth']:.2f}" if "growth" in line else ""
            time = f"{line['seconds']:.1f} | {line['cpu_seconds']:.1f} | {growth}"
            memory = f"{line['anonymous_gib']:.2f} | {line['held_gib']:.2f}"
            yield f"| {line['path']} | {line['n']:,} | {time} | {memory} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--large", action="store_true", help="32,621 rows, one million, the large peers")
    parser.add_argument("--only", default="", metavar="TEXT", help="paths whose name holds it")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print the README's tables of a run's lines"
    )
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print("\n".join(tables(options.table)))
        return 0
    if options.path:
        import torch

        torch.set_num_threads(options.threads)
        made = paths()[options.path](options.rows, options.threads)
        for line in made if isinstance(made, list) else [made]:
            print(json.dumps(line))
        return 0
    from benchmarks import peers

    try:
        peers.check()
    except FileNotFoundError as error:
        sys.exit(str(error))
    if peers.unset():
        print("Checkouts named by", ", ".join(peers.unset()), "would be compared with too.", file=sys.stderr)
    lines: list[Line] = []
    for name, rows, threads in plan(options.large):
        if options.only in name:
            for line in measured(name, rows, threads):
                lines.append(with_growth(line, lines))
                print(json.dumps(lines[-1]), flush=True)
    return int(any("error" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
