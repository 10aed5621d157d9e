"""What a run will take: memory and time of every step, reckoned before it starts.

Times are those of a short probe of this machine (see `probe`), scaled by the numbers of images, steps and
workers: a guide to a factor of two, not a promise. Memory is what the algorithms hold by their docstrings.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raid import machine
from raid.errors import InputError
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import load_samples
from raid.methods.memory import ClusterTask, cluster_bytes, dense_bytes, disk_bytes, what_would_fit
from raid.methods.probe import ClusterSpeed, EncoderSpeed, probe_clustering, probe_encoder

_GIB = 2**30
_RANKED_ROWS = 512  # queries of a block


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
        task: the clustering that is in it, if any; of several, the largest.
    """

    name: str
    seconds: float
    times: int
    elapsed: float
    memory: float = 0.0
    dense: float = 0.0
    task: ClusterTask | None = None


@dataclass(frozen=True)
class Plan:
    """The steps of a run, and what they come to.

    Attributes:
        steps: in their order.
        disk: bytes of the decoded images, on every node.
        similarity_disk: bytes of the similarity, on the node that clusters, while it does.
        elapsed: seconds of the whole run.
        device_hours: of all workers and of the pool, while they are busy.
        memory: bytes that the processes of the busiest moment hold together.
    """

    steps: tuple[Step, ...]
    disk: float
    similarity_disk: float
    elapsed: float
    device_hours: float
    memory: float


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


def plan_run(config: IcsrConfig, counts: Counts, *, tflops: float | None = None) -> tuple[str, list[str]]:
    """Probe this machine and return the plan of the run, and what of it does not fit on this machine.

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
    text = describe_plan(plan, counts, config, (encoder, clustering))
    return text, list(misfits(plan, clustering, machine.memory_bytes()))


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
    task = ClusterTask.inter(config, counts.train, encoder.dimensions)
    entries = clustering.expected_entries(task)
    features = 4.0 * counts.train * encoder.dimensions
    per_epoch = {
        "extract": Step(
            "extract", *_repeated(counts.train * encoder.extract / workers, epochs),
            encoder.fixed / 4 + features,
        ),
        "cluster": Step(
            "cluster", *_repeated(clustering.seconds(task, processes), epochs),
            cluster_bytes(task, entries), dense_bytes(counts.train), task,
        ),
        "train": Step(
            "train", *_repeated(config.inter.steps * batch * encoder.train / workers, epochs),
            encoder.fixed + batch / workers * encoder.activations,
        ),
        "evaluate": Step(
            "evaluate", *_repeated(_evaluation(counts, encoder, clustering, workers), evaluations),
            (counts.query + counts.gallery) * encoder.dimensions * 4 + _RANKED_ROWS * counts.gallery * 4,
            4.0 * counts.query * counts.gallery,
        ),
    }  # fmt: skip
    steps += per_epoch.values()
    elapsed = sum(step.elapsed for step in steps)
    busy = sum(step.elapsed * (processes if step.name.startswith("stage 1") else workers) for step in steps)
    # While the first worker clusters, the others hold the features as well.
    first = per_epoch["cluster"].memory + (workers - 1) * features + workers * encoder.fixed
    training = workers * per_epoch["train"].memory
    stage_1 = processes * steps[0].memory if config.refine.enabled else 0.0
    disk = 3.0 * config.data.height * config.data.width * (counts.train + counts.query + counts.gallery)
    memory = max(first, training, stage_1)
    return Plan(tuple(steps), disk, disk_bytes(task, entries), elapsed, busy / 3600, memory)


def _intra_camera(
    config: IcsrConfig, counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed, processes: int
) -> Step:
    intra, batch = config.intra, config.camera_training.sampler.batch_size
    training = (intra.epochs - 1) * intra.steps * batch * encoder.train
    largest = max(counts.cameras)
    task = ClusterTask.intra(config, largest, encoder.dimensions)
    cameras = []
    for count in counts.cameras:
        one = replace(task, num_images=count, num_clusters=intra.clusters_of(count))
        cameras.append(training + intra.epochs * (count * encoder.extract + clustering.seconds(one)))
    clustered = cluster_bytes(task, clustering.expected_entries(task))
    memory = max(encoder.fixed + batch * encoder.activations, clustered)
    return Step(
        "stage 1, a camera",
        sum(cameras) / len(cameras),
        len(cameras),
        _longest_first(cameras, processes),
        memory,
        dense_bytes(largest),
        task,
    )


def _longest_first(seconds: Sequence[float], processes: int) -> float:
    """Return when the last of the items ends, each given to the process that is free first."""
    ends = [0.0] * processes
    for item in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += item
    return max(ends)


def _evaluation(counts: Counts, encoder: EncoderSpeed, clustering: ClusterSpeed, workers: int) -> float:
    images = counts.query + counts.gallery
    return images * encoder.extract / workers + clustering.ranked_pair * counts.query * counts.gallery


def _repeated(seconds: float, times: int) -> tuple[float, int, float]:
    return seconds, times, seconds * times


def misfits(plan: Plan, speed: ClusterSpeed, available: float) -> Iterator[str]:
    """Yield, for each step of which one process needs more than `available` bytes, what to do about it."""
    for step in plan.steps:
        if step.memory <= available:
            continue
        line = f"{step.name}: one process takes {step.memory / _GIB:.1f} GiB, and this machine has "
        line += f"{available / _GIB:.1f}"
        if step.task is not None:
            entries = speed.expected_entries(step.task)
            if cluster_bytes(step.task, entries) > available:
                line += f"; {what_would_fit(step.task, entries, available)}"
        yield line


def describe_plan(
    plan: Plan, counts: Counts, config: IcsrConfig, speeds: tuple[EncoderSpeed, ClusterSpeed]
) -> str:
    """Return the plan as a table and what it comes to."""
    encoder, clustering = speeds
    clustered = next(step for step in plan.steps if step.name == "cluster")
    entries = clustering.expected_entries(ClusterTask.inter(config, counts.train, encoder.dimensions))
    lines = [
        f"{counts.train:,} training images of {len(counts.cameras)} cameras, {counts.query:,} queries, "
        f"{counts.gallery:,} gallery images; {encoder.dimensions} dimensions",
        f"{config.run.workers} workers of {config.numerics.threads} threads, encoder on {encoder.device}: "
        f"{1 / encoder.extract:.1f} images/s extracted, {1 / encoder.train:.1f} trained, a process; "
        f"similarity of {entries:,.0f} entries a row",
        "",
        f"{'':<20}{'one takes':>12}{'times':>8}{'together':>12}{'memory':>12}{'dense way':>14}",
    ]
    for step in plan.steps:
        lines.append(
            f"{step.name:<20}{_time(step.seconds):>12}{step.times:>8}{_time(step.elapsed):>12}"
            f"{_size(step.memory):>12}{_size(step.dense):>14}"
        )
    kind = "CPU" if encoder.device == "cpu" else "GPU"
    lines += [
        "",
        f"To cluster {counts.train:,} images the dense way would need {clustered.dense / _GIB:,.1f} GiB, "
        f"this one {clustered.memory / _GIB:,.1f}.",
        f"the run        {_time(plan.elapsed)}, {plan.device_hours:,.1f} {kind} hours",
        f"memory         {_size(plan.memory)} in all processes together{_machines(plan)}",
        f"disk           {_disk(plan, config)}",
        "Times are a probe's, scaled: good to a factor of two. Memory is above that of the libraries, about "
        "0.5 GiB a process.",
    ]
    return "\n".join(lines)


def _disk(plan: Plan, config: IcsrConfig) -> str:
    limit = config.data.cache_limit_gib
    if plan.disk <= limit * _GIB:
        text = f"{_size(plan.disk)} of decoded images on every node"
    else:
        text = f"no decoded images (data.cache_limit_gib={limit:g}, and they take {_size(plan.disk)})"
    if plan.similarity_disk:
        text += f"; {_size(plan.similarity_disk)} of similarity where it is clustered, while it is"
    return text


def _machines(plan: Plan) -> str:
    available = machine.memory_bytes()
    # More machines do not help where one process is too large: `misfits` says what does.
    if plan.memory <= available or any(step.memory > available for step in plan.steps):
        return ""
    number = math.ceil(plan.memory / available)
    return (
        f", more than this machine's {available / _GIB:.1f}: spread the processes over {number} such machines"
    )


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _size(number: float) -> str:
    return "" if number == 0 else f"{number / _GIB:,.2f} GiB"
