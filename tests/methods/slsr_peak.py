"""The peaks of SLSR's memory in a process of its own: `python slsr_peak.py IMAGES DIM PLANE_DIM PEOPLE`.

Prints bytes above what was there before: of k-means and of the silhouettes of (IMAGES, DIM) features, of the
plane of PLANE_DIM dimensions, of a GAN's step, of the labels of PEOPLE and of their classifier.
"""

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from raid.config import load
from raid.data.streams import stream
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.dcgan_state import Dcgan
from raid.methods.slsr.probe import head_step
from raid.methods.slsr.targets import of_real, with_generated
from raid.ops.kmeans import kmeans
from raid.ops.silhouettes import principal_plane, silhouettes


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak(work: Callable[[], object]) -> int:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def rows(num_images: int, dimensions: int) -> np.ndarray:
    return stream(1).standard_normal((num_images, dimensions), dtype=np.float32)


def clustering(config: SlsrConfig, num_images: int, dimensions: int, of_plane: int) -> dict[str, int]:
    features, wide = rows(num_images, dimensions), rows(50, of_plane)
    chosen = config.clusters
    labels = [np.arange(num_images) % number for number in chosen.silhouettes]
    number = max(chosen.silhouettes)
    return {
        "kmeans": peak(lambda: kmeans(features, num_clusters=number, seed=1, restarts=chosen.restarts)),
        "silhouettes": peak(lambda: silhouettes(features, labels)),
        "plane": peak(lambda: principal_plane(wide)),
    }


def gan_step(config: SlsrConfig) -> None:
    networks = Dcgan(config.gan, (1, 2), torch.device("cpu"))
    for _ in range(2):
        pictures = torch.zeros(config.gan.batch_size, 3, config.gan.height, config.gan.width)
        networks.step(pictures, torch.rand(config.gan.batch_size, config.gan.num_latent))


def labels(config: SlsrConfig, people: int) -> None:
    sets = np.ones((config.clusters.num_clusters, people), dtype=bool)
    made_from = np.zeros(10, dtype=np.int64)
    real = np.arange(people)
    of_real(real, people, 0.0)
    with_generated(real, people, 0.0, made_from, sets, config.generated, 1)


def classifier(config: SlsrConfig, people: int) -> None:
    step = head_step(config, config.finetuning, 64, people)
    step()
    step()


def main() -> None:
    images, dimensions, of_plane, people, *overrides = sys.argv[1:]
    config = load(SlsrConfig, overrides=["data.root=x", "model.weights=none", "run.device=cpu", *overrides])
    torch.set_num_threads(1)
    small = replace(config, gan=replace(config.gan, height=16, width=16, channels=2))
    clustering(config, 64, 300, 20)  # compiles and loads what there is
    gan_step(small)
    classifier(config, 5)
    found = clustering(config, int(images), int(dimensions), int(of_plane))
    found["gan"] = peak(lambda: gan_step(config))
    found["labels"] = peak(lambda: labels(config, int(people)))
    found["classifier"] = peak(lambda: classifier(config, int(people)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
