"""Benchmarks of evaluation, re-ranking and refinement; every function stands alone and makes its own data.

`num_rows` 12,936 stands for Market-1501's queries and gallery, 32,621 for MSMT17's, another number for
a gallery of so many rows and a fifth as many queries. The published programs' CPU-seconds ("anchor") were
measured on another machine: they are beside the peers, which run in the same process.
"""

import time

import numpy as np
import torch
from benchmarks.dense_reference import cmc_ranking, rerank_dense
from benchmarks.measure import measuring

from raid.data.synthetic import features as simulated
from raid.ops.ranking import Ranking, rank, rank_blocks
from raid.ops.refine import COINS, REFEREES, refine_labels
from raid.ops.rerank import rerank

_SIZES = {12_936: (3_368, 15_913, 909, 6), 32_621: (11_659, 82_161, 3_060, 15)}
_DIM = 2048
_LOOKS = {"camera_shift": 0.5, "noise": 0.7}  # the nearest image is of the same person for nine in ten
_PEER_QUERIES = 2_000  # that a peer runs at sizes it would take too long for
_GEMM_ROWS = 1_024
_REPEATS = 4


def bench_ranking_alone(num_rows: int, threads: int) -> dict:
    """CMC/mAP from distances in memory, block by block, against a full sort a query."""
    torch.set_num_threads(threads)
    people = People(num_rows)
    ranking, ours = ranked(people)
    num_peer = people.num_peer
    labels, peer, at = people.labels(), 0.0, 0
    precisions = []
    for block in people.distances(num_peer):
        rows = slice(at, at + len(block))
        begin = time.process_time()
        precisions.append(cmc_ranking(block, labels[0][rows], labels[1][rows], *labels[2:])[2])
        peer += time.process_time() - begin
        at += len(block)
    np.testing.assert_allclose(np.concatenate(precisions), ranking.average_precisions[:num_peer], atol=1e-6)
    line = people.line("CMC/mAP, ranking alone", ours, peer * len(people.query) / num_peer, num_peer)
    return with_ratio(line, {12_936: 2.38, 32_621: 44.7}.get(num_rows), "fast-reid Cython")


def bench_ranking_fused(num_rows: int, threads: int) -> dict:
    """CMC/mAP from features, against the product of queries and gallery alone."""
    torch.set_num_threads(threads)
    people = People(num_rows)
    arguments = (people.query, *people.labels()[:2], people.gallery, *people.labels()[2:])
    rank(*(values[:300] for values in arguments))  # compiled
    runs = []
    for _ in range(_REPEATS if num_rows <= 12_936 else 1):  # a few per cent apart, on a machine with noise
        with measuring() as ours:
            rank(*arguments)
        with measuring() as product:
            for _ in people.distances():
                pass
        runs.append((ours, product))
    ours = min((ours for ours, _ in runs), key=lambda run: run["cpu_seconds"])
    ours["peak_rss_gib"] = runs[0][0]["peak_rss_gib"]  # later ones find memory that is there already
    product = min(product["cpu_seconds"] for _, product in runs)
    line = people.line("CMC/mAP, with the product", ours, product, len(people.query))
    line["reference"] = "the product alone"
    return with_ratio(line, None, "")


def bench_rerank(num_rows: int, threads: int) -> dict:
    """Re-ranking, search included, against the dense algorithm; at MSMT17's size against the product.

    There the dense algorithm would need about 168 GiB; the product of all rows is scaled from 4,096.
    """
    torch.set_num_threads(threads)
    people = People(num_rows)
    checked, ours = reranked(people.query, people.gallery)
    if num_rows > 12_936:
        line = people.line("re-ranking", ours, people.product_seconds(4_096), len(people.query))
        line |= {"reference": "the product of all rows with all", "extrapolated": True}
        line["float32_floor_cpu_seconds"] = people.floor_seconds(line["reference_cpu_seconds"])
        return with_ratio(line, None, "")
    with measuring() as peer:
        dense = rerank_dense(people.query, people.gallery)
    wrong = np.abs(sampled(dense, len(dense)) - checked) > 1e-5
    line = people.line("re-ranking", ours, peer["cpu_seconds"], len(people.query))
    # Rows whose neighbours swap by a rounding; the tests compare with one table of neighbours.
    line |= {"reference_peak_rss_gib": peer["peak_rss_gib"], "differing": float(wrong.mean())}
    line["product_cpu_seconds"] = people.product_seconds(4_096)
    line["float32_floor_cpu_seconds"] = people.floor_seconds(line["product_cpu_seconds"])
    return with_ratio(line, 85 + 9.4 if num_rows == 12_936 else None, "torchreid + distances")


def bench_refine(num_rows: int, threads: int) -> dict:
    """All readings of label refinement: 1,200 clusters and 15 cameras at MSMT17's size (800 and 6 below)."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    clusters, cameras = (1_200, 15) if num_rows > 12_936 else (800, 6)
    labels = rng.integers(0, clusters, num_rows)
    arrays = {
        "labels": labels,
        "local_labels": rng.integers(0, 4, num_rows) + 4 * labels,
        "cameras": np.minimum(rng.geometric(0.3, num_rows) - 1, cameras - 1),
        "scores": rng.random(num_rows),
        "modules": rng.integers(0, num_rows // 12, num_rows),
    }
    readings = {}
    for referee in REFEREES:
        for coin in COINS:
            with measuring() as taken:
                refine_labels(**arrays, discard_probability=0.7, seed=0, epoch=0, referee=referee, coin=coin)
            readings[f"{referee}/{coin}"] = taken["cpu_seconds"]
    total = sum(readings.values())
    return {"path": "refine, all readings", "n": num_rows, "d": 0, "cpu_seconds": total, **readings}


def ranked(people: "People") -> tuple[Ranking, dict]:
    """Our ranking of distances in memory, block by block, and what it takes without making them."""
    rank_blocks(people.distances(64), *people.labels(64))  # compiled
    clock = _Clock()
    with measuring() as cost:
        ranking = rank_blocks(clock.left_out(people.distances()), *people.labels())
    cost["seconds"] -= clock.seconds
    cost["cpu_seconds"] -= clock.cpu_seconds
    return ranking, cost


def reranked(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, dict]:
    """Our re-ranked distances, those that are `sampled`, and what all of them take."""
    for _ in rerank(query[:100], gallery[:400]):  # compiled
        pass
    with measuring() as cost:
        kept = [sampled(block, len(query)).copy() for block in rerank(query, gallery)]
    return np.concatenate(kept), cost


def sampled(distances: np.ndarray, num_queries: int) -> np.ndarray:
    """Some columns of the distances: more would be memory that is not ours."""
    return distances[:, :: 1 + num_queries // 50]


class People:
    """Simulated queries and gallery with identities and cameras."""

    def __init__(self, num_rows: int) -> None:
        sizes = _SIZES.get(num_rows, (num_rows // 5, num_rows, max(1, num_rows // 17), 6))
        self.num_queries, self.num_gallery, identities, cameras = sizes
        self.num_peer = self.num_queries if num_rows <= 12_936 else min(_PEER_QUERIES, self.num_queries)
        total = self.num_queries + self.num_gallery
        camera_sizes = np.bincount(np.arange(total) % cameras, minlength=cameras)
        people = simulated(
            0, num_identities=identities, camera_sizes=camera_sizes.tolist(), dim=_DIM, **_LOOKS
        )
        self.rows, self.identities, self.cameras = people.features, people.identities, people.cameras
        # Filled: its memory is not what is measured.
        self.buffer = np.zeros((min(_GEMM_ROWS, self.num_queries), self.num_gallery), np.float32)
        self.query, self.gallery = self.rows[: self.num_queries], self.rows[self.num_queries :]

    def labels(self, num_queries: int | None = None) -> tuple[np.ndarray, ...]:
        """Identities and cameras of the first queries and of the gallery."""
        queries, gallery = slice(num_queries or self.num_queries), slice(self.num_queries, None)
        of_queries = (self.identities[: self.num_queries][queries], self.cameras[: self.num_queries][queries])
        return (*of_queries, self.identities[gallery], self.cameras[gallery])

    def distances(self, num_queries: int | None = None):
        """Blocks of distances of the first queries, in one buffer."""
        num_queries = num_queries or self.num_queries
        for start in range(0, num_queries, _GEMM_ROWS):
            rows = -self.query[start : min(start + _GEMM_ROWS, num_queries)]
            # numpy's product: on CPUs not made by Intel twice as fast as torch's.
            yield np.matmul(rows, self.gallery.T, out=self.buffer[: len(rows)])

    def product_seconds(self, num_rows: int) -> float:
        """CPU-seconds of the product of all rows with all, from the first `num_rows`."""
        rows, height = self.rows, min(_GEMM_ROWS, len(self.rows))
        starts = range(0, min(num_rows, len(rows) - height + 1), height)
        buffer = np.empty((height, len(rows)), np.float32)
        begin = time.process_time()
        for start in starts:
            np.matmul(rows[start : start + height], rows.T, out=buffer)
        return (time.process_time() - begin) * len(rows) / (len(starts) * height)

    def floor_seconds(self, product_seconds: float) -> float:
        """CPU-seconds in float32 of the products re-ranking needs: every pair once, and the result's."""
        total = self.num_queries + self.num_gallery
        return product_seconds * (0.5 + self.num_queries * self.num_gallery / total**2)

    def line(self, path: str, ours: dict, reference: float, num_run: int) -> dict:
        """The fields of a result."""
        return {
            "path": path,
            "n": self.num_gallery,
            "queries": self.num_queries,
            "d": _DIM,
            **ours,
            "reference": "dense numpy",
            "reference_cpu_seconds": reference,
            "extrapolated": num_run < self.num_queries,
        }


def with_ratio(line: dict, anchor: float | None, name: str) -> dict:
    line["ratio"] = line["reference_cpu_seconds"] / line["cpu_seconds"]
    if anchor is not None:
        line |= {"anchor": name, "anchor_cpu_seconds": anchor, "anchor_ratio": anchor / line["cpu_seconds"]}
    return line


class _Clock:
    """What making the blocks takes: to be left out of what taking them does."""

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds = 0.0, 0.0

    def left_out(self, blocks):
        """Yield the blocks and add up the time they take to make."""
        blocks = iter(blocks)
        while True:
            begin, cpu = time.perf_counter(), time.process_time()
            block = next(blocks, None)
            self.seconds += time.perf_counter() - begin
            self.cpu_seconds += time.process_time() - cpu
            if block is None:
                return
            yield block
