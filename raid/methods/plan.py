"""What a run will take: memory and time of every step, reckoned before it starts.

Times are those of a short probe of this machine (see `probe`), scaled by the numbers of images, steps and
workers: a guide to a factor of two, not a promise. Memory is what the algorithms hold by their docstrings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raid import machine
from raid.errors import InputError
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.memory import cluster_bytes, dense_bytes
from raid.methods.probe import ClusterSpeed, EncoderSpeed, probe_clustering, probe_encoder

_GIB = 2**30


@dataclass(frozen=True)
class Counts:
    """Images of every camera of the training set (one number for a set without), query and gallery."""

    cameras: tuple[int, ...]
    query: int
    gallery: int

    @property
    def train(self) -> int:
        """Training images."""
        return sum(self.cameras)


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        name: of the step.
        seconds: of one, on one process or on all workers together.
        times: how often it is done.
        elapsed: seconds of them all, side by side where they can be.
        memory: bytes of the process that does it, above those of the libraries; 0: next to nothing.
        dense: bytes that the published, dense way would need for it; 0: it is not of that kind.
    """

    name: str
    seconds: float
    times: int
    elapsed: float
    memory: float = 0.0
    dense: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The steps of a run, and what they come to.

    Attributes:
        steps: in their order.
        disk: bytes of the decoded images, on every node.
        elapsed: seconds of the whole run.
        device_hours: of all workers and of the pool, while they are busy.
        memory: bytes that the processes of the busiest moment hold together.
        largest: bytes of the process that holds most.
    """

    steps: tuple[Step, ...]
    disk: float
    elapsed: float
    device_hours: float
    memory: float
    largest: float


def counts_of(config: IcsrConfig) -> Counts:
    """Count the images of the run's set.

    Raises:
        InputError: the set is not there, or has no training images.
    """
    samples = load_samples(config.data)
    if "train" not in samples.splits:
        raise InputError(f"data.root: {config.data.root} has no training images")
    train = samples.split("train")
    sizes = np.unique(train.cameras, return_counts=True)[1] if train.has_cameras else [len(train)]
    rest = [len(samples.split(name)) if name in samples.splits else 0 for name in ("query", "gallery")]
    return Counts(tuple(int(size) for size in sizes), *rest)


def plan_run(config: IcsrConfig, counts: Counts, *, tflops: float | None = None) -> tuple[Plan, str]:
    """Probe this machine and return the plan of the run, and as text.

    Args:
        config: of the run.
        counts: of its images.
        tflops: 10^12 operations a second that a processor of the run achieves, where it is not this one's.
    """
    encoder = probe_encoder(config, tflops=tflops)
    clustering = probe_clustering(
        config, dimensions=encoder.dimensions, cluster_size=counts.train / config.inter.num_clusters
    )
    plan = make_plan(config, counts, encoder, clustering)
    return plan, describe_plan(plan, counts, config, (encoder, clustering))


def make_plan(config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed) -> Plan:
    """Reckon the run of `config` on sets of `counts` images."""
    workers = config.run.workers
    processes = config.pool.size or workers
    steps = []
    if config.refine.enabled:
        steps.append(_intra_camera(config, counts, encoder, clustering, processes))
    epochs = config.inter.epochs
    batch = config.training.sampler.batch_size
    evaluations = sum(config.evaluate.due(epoch, epochs) for epoch in range(epochs)) if counts.query else 0
    per_epoch = {
        "extract": Step(
            "extract", *_repeated(counts.train * encoder.extract / workers, epochs),
            encoder.fixed / 4 + counts.train * encoder.dimensions * 4,
        ),
        "cluster": Step(
            "cluster", *_repeated(cluster_seconds(counts.train, clustering, processes), epochs),
            _cluster_bytes(counts.train, encoder, clustering), dense_bytes(counts.train),
        ),
        "train": Step(
            "train", *_repeated(config.inter.steps * batch * encoder.train / workers, epochs),
            encoder.fixed + batch / workers * encoder.activations,
        ),
        "evaluate": Step(
            "evaluate", *_repeated(_evaluation(counts, encoder, clustering, workers), evaluations),
            (counts.query + counts.gallery) * encoder.dimensions * 4 + 256 * counts.gallery * 4,
            4.0 * counts.query * counts.gallery,
        ),
    }  # fmt: skip
    steps += per_epoch.values()
    elapsed = sum(step.elapsed for step in steps)
    busy = sum(step.elapsed * (processes if step.name.startswith("stage 1") else workers) for step in steps)
    first = per_epoch["cluster"].memory + workers * encoder.fixed
    training = workers * per_epoch["train"].memory
    stage_1 = processes * steps[0].memory if config.refine.enabled else 0.0
    largest = max(step.memory for step in steps)
    disk = 3.0 * config.data.height * config.data.width * (counts.train + counts.query + counts.gallery)
    return Plan(tuple(steps), disk, elapsed, busy / 3600, max(first, training, stage_1), largest)


def cluster_seconds(num_rows: int, speed: ClusterSpeed, processes: int) -> float:
    """Return the seconds of a clustering whose blocks of rows `processes` share."""
    entries = num_rows * speed.entries_per_row(num_rows)
    return speed.pair * num_rows**2 / processes + speed.entry * entries


def _cluster_bytes(num_rows: int, encoder: EncoderSpeed, clustering: ClusterSpeed) -> float:
    return cluster_bytes(num_rows, encoder.dimensions, clustering.entries_per_row(num_rows))


def _intra_camera(
    config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed, processes: int
) -> Step:
    intra, batch = config.intra, config.camera_training.sampler.batch_size
    training = (intra.epochs - 1) * intra.steps * batch * encoder.train
    cameras = [
        training + intra.epochs * (count * encoder.extract + cluster_seconds(count, clustering, 1))
        for count in counts.cameras
    ]
    largest = max(counts.cameras)
    memory = max(encoder.fixed + batch * encoder.activations, _cluster_bytes(largest, encoder, clustering))
    return Step(
        "stage 1, a camera",
        sum(cameras) / len(cameras),
        len(cameras),
        _longest_first(cameras, processes),
        memory,
        dense_bytes(largest),
    )


def _longest_first(seconds: Sequence[float], processes: int) -> float:
    """Return when the last of the items ends, each given to the process that is free first."""
    ends = [0.0] * processes
    for item in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += item
    return max(ends)


def _evaluation(counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed, workers: int) -> float:
    images = counts.query + counts.gallery
    return images * encoder.extract / workers + clustering.pair * counts.query * counts.gallery


def _repeated(seconds: float, times: int) -> tuple[float, int, float]:
    return seconds, times, seconds * times


def describe_plan(
    plan: Plan, counts: Counts, config: IcsrConfig, speeds: tuple[EncoderSpeed, ClusterSpeed]
) -> str:
    """Return the plan as a table and what it comes to."""
    encoder, clustering = speeds
    lines = [
        f"{counts.train:,} training images of {len(counts.cameras)} cameras, {counts.query:,} queries, "
        f"{counts.gallery:,} gallery images; {encoder.dimensions} dimensions",
        f"{config.run.workers} workers of {config.numerics.threads} threads, encoder on {encoder.device}: "
        f"{1 / encoder.extract:.1f} images/s extracted, {1 / encoder.train:.1f} trained, a process; "
        f"similarity of {clustering.entries_per_row(counts.train):,.0f} entries a row",
        "",
        f"{'':<20}{'one takes':>12}{'times':>8}{'together':>12}{'memory':>12}{'dense way':>12}",
    ]
    for step in plan.steps:
        lines.append(
            f"{step.name:<20}{_time(step.seconds):>12}{step.times:>8}{_time(step.elapsed):>12}"
            f"{_size(step.memory):>12}{_size(step.dense):>12}"
        )
    kind = "CPU" if encoder.device == "cpu" else "GPU"
    lines += [
        "",
        f"the run        {_time(plan.elapsed)}, {plan.device_hours:,.1f} {kind} hours",
        f"memory         {_size(plan.memory)} in all processes together{_machines(plan.memory)}",
        f"decoded images {_size(plan.disk)} on every node's disk",
        "Times are a probe's, scaled: good to a factor of two. Memory is above that of the libraries, about "
        "0.5 GiB a process.",
    ]
    return "\n".join(lines)


def _machines(needed: float) -> str:
    available = machine.memory_bytes()
    if needed <= available:
        return ""
    number = math.ceil(needed / available)
    return (
        f", more than this machine's {available / _GIB:.1f}: spread the processes over {number} such machines"
    )


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(number: float) -> str:
    return "" if number == 0 else f"{number / _GIB:.2f} GiB"
