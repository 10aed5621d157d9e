"""How fast this machine is at what the runs of all methods do: seconds of real work, to make a plan from."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from raid.data import synthetic
from raid.methods.encoder import Encoder
from raid.ops.ranking import rank

T = TypeVar("T")
Ints = NDArray[np.int64]
_QUERIES = 512  # of the evaluation that is measured
_CPU_BATCH = 16  # a processor takes so many images, or more, at one pace
_COPIES = {"adam": 4, "sgd": 3}  # of the weights: themselves, gradients, and the optimiser's moments


@dataclass(frozen=True)
class EncoderSpeed:
    """Of one process; seconds and bytes an image.

    Attributes:
        device: where it was measured, or what it was reckoned for.
        dimensions: D of the features.
        extract: seconds an image.
        train: seconds an image of a training step, without its loss.
        activations: bytes an image of a training step.
        weights: bytes of the network alone.
        fixed: bytes of weights, gradients and the optimiser's moments.
    """

    device: str
    dimensions: int
    extract: float
    train: float
    activations: float
    weights: float
    fixed: float

    @property
    def on_gpu(self) -> bool:
        """Whether it was measured on a GPU, whose memory is its own."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class RandomImages:
    """Pictures of nothing, as large as the run's."""

    number: int
    height: int
    width: int

    def __len__(self) -> int:
        return self.number

    def gather(self, rows: Ints) -> Tensor:
        """Return the images `rows`, anew."""
        return torch.randint(0, 256, (len(rows), 3, self.height, self.width), dtype=torch.uint8)

    def take(self, rows: Ints) -> "RandomImages":
        """Return as many as `rows`."""
        return replace(self, number=len(rows))


def probed_batch(on_gpu: int, device: torch.device) -> int:
    """Return the images of the batches that a probe takes; `on_gpu` of them where it is one."""
    return on_gpu if device.type == "cuda" else _CPU_BATCH


def probe_encoder(
    encoder: Encoder,
    images: RandomImages,
    step: Callable[[Tensor], None],
    *,
    optimizer: Literal["adam", "sgd"],
    tflops: float | None,
) -> EncoderSpeed:
    """Extract and train on random images for a moment.

    Args:
        encoder: of the run, in batches of the images.
        images: one batch.
        step: trains on the images, given their features.
        optimizer: of the run.
        tflops: of a processor that is not here: seconds are reckoned from the operations then.
    """
    size, device = len(images), encoder.device
    state = encoder.model.state_dict().values()
    weights = float(sum(value.numel() * value.element_size() for value in state))
    with FlopCounterMode(display=False) as counter:
        encoder.extract(images.take(np.arange(1)))
    features, extract = timed_again(lambda: encoder.extract(images), device)
    before = peak(device)
    _, train = timed_again(lambda: step(features), device)
    activations = max(0.0, peak(device) - before) / size
    speed = EncoderSpeed(
        str(device),
        features.shape[1],
        extract / size,
        train / size,
        activations,
        weights,
        _COPIES[optimizer] * weights,
    )
    if tflops is None:
        return speed
    forward = counter.get_total_flops() / (tflops * 1e12)
    # A backward pass is two forward ones.
    return replace(speed, device=f"{tflops:g} TFLOP/s", extract=forward, train=3 * forward)


def probe_ranking(simulated: synthetic.SimulatedFeatures) -> float:
    """Return the seconds of an evaluation for each pair of a query and a gallery image."""
    rows, identities, cameras = simulated.features, simulated.identities, simulated.cameras
    few = slice(min(_QUERIES, len(rows)))

    def ranked() -> None:
        rank(rows[few], identities[few], cameras[few], rows, identities, cameras)

    _, seconds = timed_again(ranked, torch.device("cpu"))  # the first call compiles
    return seconds / (few.stop * len(rows))


def seconds_of(step: Callable[[], None], device: torch.device, tflops: float | None) -> float:
    """Return the seconds of a step on `device`, or on a processor of `tflops` that is not here."""
    if tflops is None:
        return timed_again(step, device)[1]
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops() / (tflops * 1e12))


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result and the seconds of a call."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def timed_again(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result and the seconds of the second of two calls: the first one allocates."""

    def done() -> T:
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return result

    done()
    return timed(done)


def peak(device: torch.device) -> float:
    """Return the largest number of bytes so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
