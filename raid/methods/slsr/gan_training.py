"""SLSR stage 3: the training of one DCGAN on the images of one cluster, which the pool does for each.

Everything random is drawn from (seed, cluster, what for, epoch, step): on CPUs with one number of threads a
GAN is the same bytes wherever, and beside whatever, it is trained, interrupted or not. Its images are not
flipped, as in the paper.
"""

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.ahead import Ahead
from raid.data.sampler import shuffled_batches
from raid.distributed.checkpoint import write_tensors
from raid.errors import InputError
from raid.files import atomic_path, read_tensors
from raid.methods.encoder import device_of
from raid.methods.slsr.config import Gan
from raid.methods.slsr.dcgan_state import Dcgan
from raid.methods.slsr.gan_job import PARENT, GanJob, GanResult, named, read_result
from raid.methods.slsr.grids import write_grid
from raid.methods.slsr.images import resized_array
from raid.models.dcgan import to_unit
from raid.models.gan_step import GanLosses
from raid.ops.diversity import pixel_variance

Bytes = NDArray[np.uint8]

SAMPLES = 128  # of fixed noise, whose variance is followed
_SHOWN = 64  # pictures of a grid
_BATCHES, _NOISE, _FIXED, _WEIGHTS, _REAL = range(5)  # what random numbers are for
logger = logging.getLogger(__name__)


def train_gan(cluster: int, job: GanJob) -> GanResult:
    """Train the GAN of `cluster`, or go on from its checkpoint; return the result of one that is done.

    Memory: the cluster's images, once more, at the GAN's size: N * 3 * height * width bytes (0.6 GB for the
    12,936 of Market-1501 at 128 x 128).

    Raises:
        InputError: the training has diverged.
    """
    started, place = time.time(), job.place(cluster)
    if job.is_done(cluster):  # by a process that died before it could say so
        return read_result(place)
    real = resized_array(job.images.take(job.rows(cluster)), job.gan.height, job.gan.width)
    shown = real[job.random(cluster, _REAL).permutation(len(real))[:_SHOWN]]
    write_grid(place / "real.png", shown, blur=job.blur)
    variance = float(pixel_variance(real).mean())
    networks, lines = _start(cluster, job)
    for epoch in range(len(lines), job.gan.epochs):
        losses = _train_epoch(networks, real, cluster, epoch, job)
        samples = networks.generate(_noise(job, cluster, SAMPLES, _FIXED))
        varied = float(pixel_variance(samples).mean()) / variance if variance > 0 else None
        lines.append({"epoch": epoch, **losses, "variance_ratio": varied})
        _record(place, networks, lines, samples, job)
        _tell(cluster, lines[-1], job.gan.epochs)
    steps = job.gan.epochs * job.gan.num_steps(len(real))
    last = lines[-1]["variance_ratio"]
    alarms = _alarms(cluster, last, job.gan)
    result = GanResult(cluster, len(real), job.gan.epochs, steps, started, time.time(), last, alarms)
    _finish(place, networks, lines, result)
    return result


def _start(cluster: int, job: GanJob) -> tuple[Dcgan, list[dict[str, Any]]]:
    """Return the networks and the lines of the epochs that are done."""
    seeds = job.random(cluster, _WEIGHTS).integers(2**63, size=2)
    networks = Dcgan(job.gan, (int(seeds[0]), int(seeds[1])), device_of(job.device))
    checkpoint = job.place(cluster) / "checkpoint.pt"
    if checkpoint.exists():
        state = read_tensors(checkpoint)
        networks.load_state(state["networks"])
        return networks, list(state["lines"])
    if job.gan.parent == "all_images" and cluster != PARENT:
        networks.load_weights(job.place(PARENT))
    return networks, []


def _train_epoch(networks: Dcgan, real: Bytes, cluster: int, epoch: int, job: GanJob) -> dict[str, float]:
    """Train for an epoch; return the mean losses over its steps.

    Raises:
        InputError: a loss or a weight is not finite.
    """
    gan, num_steps = job.gan, job.gan.num_steps(len(real))
    batches = shuffled_batches(
        len(real),
        min(gan.batch_size, len(real)),
        first=epoch * num_steps,
        num_batches=num_steps,
        stream_of=lambda number: job.random(cluster, _BATCHES, number),
    )

    def made(_: int, step: int) -> tuple[Tensor, Tensor]:
        rows = batches[step]
        noise = _noise(job, cluster, len(rows), _NOISE, epoch, step)
        return to_unit(torch.from_numpy(real[rows]).to(networks.device)), noise.to(networks.device)

    ahead = Ahead(made, num_steps, networks.device)
    losses: list[GanLosses] = [networks.step(*ahead.take(0, step)) for step in range(num_steps)]
    table = torch.stack([torch.stack([loss.real, loss.fake, loss.generator]) for loss in losses])
    means = table.double().mean(dim=0).tolist()
    if not np.isfinite(means).all() or not networks.are_finite():
        raise InputError(
            f"gan.learning_rate: the GAN of {named(cluster)} has diverged in epoch {epoch + 1}: a loss or a "
            f"weight is not finite; lower it"
        )
    return dict(zip(("real", "fake", "generator"), means, strict=True))


def _noise(job: GanJob, cluster: int, count: int, *key: int) -> Tensor:
    """Draw (count, num_latent) uniform in -1..1, on the CPU."""
    numbers = job.random(cluster, *key).uniform(-1, 1, (count, job.gan.num_latent))
    return torch.from_numpy(numbers.astype(np.float32))


def _record(place: Path, networks: Dcgan, lines: list[dict[str, Any]], samples: Bytes, job: GanJob) -> None:
    """Write what an epoch leaves: a grid now and then, the full state, and the lines so far."""
    done = len(lines)
    if done % job.gan.grid_epochs == 0 or done == job.gan.epochs:
        write_grid(place / f"grid_{done:05d}.png", samples[:_SHOWN], blur=job.blur)
    write_tensors(place / "checkpoint.pt", {"networks": networks.state(), "lines": lines})
    _write_lines(place, lines)


def _finish(place: Path, networks: Dcgan, lines: list[dict[str, Any]], result: GanResult) -> None:
    """Write the results, generator.pt last: it says that the others are there."""
    _write_lines(place, lines)
    with atomic_path(place / "result.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=1) + "\n")
    networks.write(place, with_discriminator=result.cluster == PARENT)
    (place / "checkpoint.pt").unlink(missing_ok=True)


def _write_lines(place: Path, lines: list[dict[str, Any]]) -> None:
    with atomic_path(place / "epochs.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _alarms(cluster: int, ratio: float | None, gan: Gan) -> tuple[str, ...]:
    if ratio is None or ratio >= gan.collapse:
        return ()
    return (
        f"the GAN of {named(cluster)} has collapsed: its samples vary {ratio:.3f} times as much as the real "
        f"images, less than gan.collapse={gan.collapse}; train it longer, or with another gan.learning_rate",
    )


def _tell(cluster: int, line: dict[str, Any], epochs: int) -> None:
    logger.info(
        "GAN of %s, epoch %d/%d | real %.3f | fake %.3f | generator %.3f | variance ratio %s",
        named(cluster),
        line["epoch"] + 1,
        epochs,
        line["real"],
        line["fake"],
        line["generator"],
        "-" if line["variance_ratio"] is None else f"{line['variance_ratio']:.3f}",
    )
