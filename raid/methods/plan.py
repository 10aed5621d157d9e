"""What a run of any method will take: memory and time of every step, reckoned before it starts.

Times are those of a short probe of this machine (see `probe`), scaled by the numbers of images, steps and
workers: a guide to a factor of two, not a promise. Memory is what the algorithms hold by their docstrings.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from raid import machine
from raid.data import counts as published
from raid.data.samples import Samples
from raid.errors import InputError
from raid.methods.inputs import load_samples
from raid.methods.probe import EncoderSpeed
from raid.methods.scaling import Scaling
from raid.methods.sections import Data

_GIB = 2**30
PUBLISHED = {
    "market1501": published.MARKET1501,
    "dukemtmc": published.DUKEMTMC,
    "msmt17": published.MSMT17,
}
PROBED = "times are a probe's, scaled: good to a factor of two."
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

    @staticmethod
    def published(numbers: published.Counts) -> "Counts":
        """Return those of a set as it was published."""
        query, gallery = (numbers.splits[split].images or 0 for split in ("query", "gallery"))
        return Counts(numbers.train_images, query, gallery)

    @staticmethod
    def shared(images: int, cameras: int, query: int, gallery: int) -> "Counts":
        """Return the counts of a set whose cameras have equally many training images, give or take one."""
        share, rest = divmod(images, cameras)
        return Counts(tuple(share + (camera < rest) for camera in range(cameras)), query, gallery)


@dataclass(frozen=True)
class Given:
    """What is known of a run beforehand.

    Attributes:
        target: images of the set, which need not be there then; None: they are counted.
        identities: of the target's training images.
        source_images: MAR's.
        source_people: on them.
        scaling: what other runs took; None: times are a probe's.
    """

    target: Counts | None = None
    identities: int | None = None
    source_images: int | None = None
    source_people: int | None = None
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        name: of the step.
        seconds: of one, on one process or on all workers together.
        times: how often it is done.
        elapsed: seconds of them all, side by side where they can be.
        processes: that are busy with it, or wait for it.
        memory: bytes of the process that does it, above those of the libraries; 0: next to nothing.
        together: bytes of all processes meanwhile.
        on_gpu: whether that is a GPU's memory.
        dense: bytes that the published, dense way would need for it; 0: it is not of that kind.
        advice: what would make it fit into so many bytes, in words; empty where nothing is known.
        span: "stage/group" of what a run records of it (`raid.methods.scaled_runs`); "cameras": a line each.
        images: that it trains on, each time.
        measured: whether its times are those of runs.
    """

    name: str
    seconds: float
    times: int
    elapsed: float
    processes: int
    memory: float = 0.0
    together: float = 0.0
    on_gpu: bool = False
    dense: float = 0.0
    advice: Callable[[float], str] = lambda available: ""
    span: str = ""
    images: int = 0
    measured: bool = False


@dataclass(frozen=True)
class Plan:
    """The steps of a run, and what they come to.

    Attributes:
        steps: in their order.
        disk: bytes of the decoded images, on every node.
        times: where its times come from, in words.
    """

    steps: tuple[Step, ...]
    disk: float
    times: tuple[str, ...] = (PROBED.capitalize(),)

    @property
    def elapsed(self) -> float:
        """Seconds of the whole run."""
        return sum(step.elapsed for step in self.steps)

    @property
    def device_hours(self) -> float:
        """Of all workers and of the pool, while they are busy."""
        return sum(step.elapsed * step.processes for step in self.steps) / 3600

    @property
    def memory(self) -> float:
        """Bytes that the processes of the busiest moment hold together, but for those of GPUs."""
        return max((step.together for step in self.steps if not step.on_gpu), default=0.0)

    @property
    def gpu_memory(self) -> float:
        """Bytes that a GPU holds at its busiest moment."""
        return max((step.memory for step in self.steps if step.on_gpu), default=0.0)


def counts_of(data: Data) -> Counts:
    """Count the images of a run's set.

    Raises:
        InputError: the set is not there, or has no training images.
    """
    return counts_in(load_samples(data), data)


def counts_in(samples: Samples, data: Data) -> Counts:
    """Count the images of a set that has been read; see `counts_of`."""
    if "train" not in samples.splits:
        raise InputError(f"data.root: {data.root} has no training images")
    rest = [len(samples.split(name)) if name in samples.splits else 0 for name in ("query", "gallery")]
    return Counts(camera_sizes(samples.split("train")), *rest)


def camera_sizes(train: Samples) -> tuple[int, ...]:
    """Return the images of every camera; one number where the cameras are not known."""
    sizes = np.unique(train.cameras, return_counts=True)[1] if train.has_cameras else [len(train)]
    return tuple(int(size) for size in sizes)


def repeated(seconds: float, times: int) -> tuple[float, int, float]:
    """Return a step's `seconds`, `times` and `elapsed`, one after the other."""
    return seconds, times, seconds * times


def training(
    name: str,
    seconds: float,
    epochs: int,
    *,
    workers: int,
    memory: float,
    on_gpu: bool,
    advice: Callable[[float], str],
    stage: str,
    images: int,
) -> Step:
    """Return the epochs of a stage, each of so many images, of which one worker takes `memory` bytes."""
    return Step(
        name,
        *repeated(seconds, epochs),
        workers,
        memory,
        together=workers * memory,
        on_gpu=on_gpu,
        advice=advice,
        span=f"{stage}/train",
        images=images,
    )


def extraction(num_images: int, times: int, encoder: EncoderSpeed, workers: int) -> Step:
    """Return the extraction of a training set's features."""
    seconds = num_images * encoder.extract / workers
    memory = encoder.weights + feature_bytes(num_images, encoder)  # all of them, on every worker
    together = workers * memory
    return Step("extract", *repeated(seconds, times), workers, memory, together, span="training/extract")


def evaluation(
    counts: Counts,
    times: int,
    encoder: EncoderSpeed,
    ranked_pair: float,
    workers: int,
    *,
    flip: bool = False,
) -> Step:
    """Return the evaluations of a run: each extracts query and gallery, and ranks them.

    Args:
        counts: of the images.
        times: evaluations.
        encoder: its speed.
        ranked_pair: seconds of a pair of a query and a gallery image.
        workers: that extract.
        flip: evaluate.flip: every image is looked at twice.
    """
    images = counts.query + counts.gallery
    seconds = (1 + flip) * images * encoder.extract / workers + ranked_pair * counts.query * counts.gallery
    features, ranked = feature_bytes(images, encoder), 4.0 * _RANKED_ROWS * counts.gallery
    return Step(
        "evaluate",
        *repeated(seconds, times),
        workers,
        features + ranked,
        together=workers * features + ranked,
        dense=4.0 * counts.query * counts.gallery,
        span="training/evaluate",
    )


def feature_bytes(num_images: int, encoder: EncoderSpeed) -> float:
    """Return what the features of a set take, in float32."""
    return 4.0 * num_images * encoder.dimensions


def image_bytes(num_images: int, data: Data) -> float:
    """Return what the images of a set take on disk once they are decoded."""
    return 3.0 * data.height * data.width * num_images


def misfits(plan: Plan, available: float, on_gpu: float = math.inf) -> Iterator[str]:
    """Yield, for each step of which one process needs more memory than there is, what to do about it.

    Args:
        plan: of the run.
        available: bytes of this machine.
        on_gpu: bytes of a GPU.
    """
    for step in plan.steps:
        limit = on_gpu if step.on_gpu else available
        if step.memory > limit:
            where = "its GPU" if step.on_gpu else "this machine"
            line = f"{step.name}: one process takes {step.memory / _GIB:.1f} GiB, and {where} has "
            advice = step.advice(limit)
            yield f"{line}{limit / _GIB:.1f}{f'; {advice}' if advice else ''}"


def misfits_here(plan: Plan) -> list[str]:
    """Return `misfits` for this machine and its first GPU, if it has one."""
    on_gpu = math.inf
    if torch.cuda.is_available():
        on_gpu = torch.cuda.get_device_properties(0).total_memory
    return list(misfits(plan, machine.memory_bytes(), on_gpu))
