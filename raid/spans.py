"""Where time goes: seconds by name, added up until they are taken; and how fast steps are.

What the first worker spent on an epoch is recorded as `time/NAME_s`:

prepare, statistics, intra_camera   what came before the workers: images opened, colours, ICSR's stage 1
startup                             from asking for the workers until they work
initialise                          MAR: the first look at the target
extract                             features of the training images
cluster                             labels of all images: the first worker's, for which the others wait
train                               the steps, with their three parts
    data_wait                       a step's images: gathered, put on the device, augmented
    collective                      gathering rows, summing gradients: see `CollectiveClock`
    the rest                        forward, backward, optimiser
evaluate                            query and gallery
checkpoint                          that of the epoch before

The parts of `train` are not to be added to it; `step` is `train` by its number of steps.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Measured inside another, or not a stage at all.
PART_OF = {"data_wait": "train", "collective": "train"}
NOT_STAGES = ("step", "images_per", "data_wait_share", "epoch", "total")


class Spans:
    """Adds up the time that named pieces of work take."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's time under `name`; a span inside another counts in both."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count `seconds` under `name`."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """Return {"time/NAME_s": seconds} and start from nothing."""
        taken = {f"time/{name}_s": seconds for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken


def pace(spans: Mapping[str, float], num_steps: int, batch_size: int) -> dict[str, float]:
    """Return seconds of a step, images a second, what was waited for included, and the share of that wait.

    Args:
        spans: of the epoch, by their keys.
        num_steps: of them; 0 where a run goes on behind the last step of an epoch.
        batch_size: images of a step, of all workers.
    """
    train_s = spans["time/train_s"]
    return {
        "time/step_s": train_s / max(1, num_steps),
        "time/images_per_s": num_steps * batch_size / train_s,
        "time/data_wait_share": spans.get("time/data_wait_s", 0.0) / train_s,
    }
