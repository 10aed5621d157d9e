"""The peak of MAR's memory, in a process of its own: `python mar_peak.py WHAT IMAGES PEOPLE DIM [a.b=c]`.

WHAT is start: the look at all target images; or losses: those of a step, with their gradients.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn import functional

from raid.config import load
from raid.data.streams import stream
from raid.methods.mar import start as mar_start
from raid.methods.mar.config import MarConfig
from raid.methods.mar.probe import loss_step


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def look(config: MarConfig, num_images: int, num_people: int, dimensions: int) -> None:
    """Look at features that are there already; all images are of one camera."""
    rows = torch.from_numpy(stream(1, num_images).normal(size=(num_images + num_people, dimensions)))
    rows = functional.normalize(rows).to(config.encoder().dtype)
    features, agents = rows[:num_images], rows[num_images:]
    begin()
    mar_start._look(features, agents, torch.zeros(num_images), 30.0, config, map)


def step(config: MarConfig, num_images: int, num_people: int, dimensions: int) -> None:
    """Compute the losses of a batch whose rows and agents are there already."""
    work = loss_step(config, num_people, dimensions, 6)
    begin()
    for _ in range(3):  # once in a while a block is freed early enough to be taken again
        work()


before = 0


def begin() -> None:
    """Let the peak start from here."""
    global before
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")


def main() -> None:
    what, images, people, dimensions, *overrides = sys.argv[1:]
    config = load(MarConfig, overrides=["data.root=x", "source.root=y", "run.device=cpu", *overrides])
    torch.set_num_threads(1)
    work = look if what == "start" else step
    work(config, int(images) // 2, 10, 8)  # compiles and loads what there is
    work(config, int(images), int(people), int(dimensions))
    print(json.dumps({"peak": status("VmHWM") - before}))


if __name__ == "__main__":
    main()
