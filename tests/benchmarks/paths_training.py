"""Images a second of training: of the step alone, of the training part of an epoch, and of the peers' way.

A ResNet-50 on images of 256 x 128, as ICSR trains it. The peers' way is that of the published programs: PIL
and torchvision's transforms in a DataLoader's processes, torch's own batch norm, optimiser and network.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.floor import BACKWARD, forward_flops, product_rate
from benchmarks.measure import limit
from benchmarks.paths_throughput import HEIGHT, WIDTH, as_torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raid.config import load
from raid.data.augment import IMAGENET_MEAN, IMAGENET_STD
from raid.data.images import Images
from raid.distributed.group import Group
from raid.losses.cluster_nce import ClusterMemory
from raid.methods.encoder import build_model, device_of
from raid.methods.icsr.config import IcsrConfig
from raid.methods.icsr.contrastive import ContrastiveEncoder
from raid.methods.inputs import open_inputs
from raid.models.backbone import Autocast

INSTANCES = 4
NUM_CLUSTERS = 80
# Of a batch, and steps that are timed: a CPU takes a second for three images.
IDENTITIES = {"cpu": (4,), "cuda": (64, 16)}
STEPS = {"cpu": 6, "cuda": 50}
PATTERN = r"(?P<split>train)/(?P<identity>\d+)_c(?P<camera>\d+)_"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What is trained on."""

    config: IcsrConfig
    images: Images
    labels: Ints
    device: torch.device

    @property
    def batch(self) -> int:
        return self.config.sampler.batch_size

    @property
    def steps(self) -> int:
        return STEPS[self.device.type]


def bench_training(num_rows: int, threads: int) -> list[dict[str, Any]]:
    """The training of an epoch against its step on resident data, the kinds of batch norm, and the peers."""
    limit(threads)
    lines = []
    for identities in IDENTITIES[device_of("auto").type]:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(_line(_setting(Path(folder), threads, identities), threads))
    return lines


def _line(setting: Setting, threads: int) -> dict[str, Any]:
    resident = {mode: _resident(setting, mode) for mode in ("ghost", "sync", "local")}
    half = _half(setting)
    epoch, peers, floor = _epoch(setting), _peers(setting, threads), _floor(setting)
    return {
        "path": "training",
        "device": str(setting.device),
        "batch": setting.batch,
        "threads": threads,
        "images_per_s_resident": resident["ghost"],
        "images_per_s_epoch": epoch,
        "epoch_over_resident": epoch / resident["ghost"],
        "images_per_s_peers_way": peers,
        "over_peers_way": epoch / peers,
        "ghost_over_local": resident["ghost"] / resident["local"],
        "sync_over_local": resident["sync"] / resident["local"],
        **({} if half is None else {"bfloat16_over_float32": half / resident["ghost"]}),
        "images_per_s_floor": floor,
        "epoch_of_floor": epoch / floor,
    }


def _setting(folder: Path, threads: int, identities: int) -> Setting:
    """JPEG files of noise, decoded into a cache."""
    device = device_of("auto")
    draw = np.random.default_rng(0)
    (folder / "images" / "train").mkdir(parents=True)
    for number in range(NUM_CLUSTERS * INSTANCES):
        pixels = draw.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((WIDTH, HEIGHT))
        image.save(folder / "images" / "train" / f"{number // INSTANCES:04d}_c1_{number:05d}.jpg")
    config = load(
        IcsrConfig,
        overrides={
            "data.layout": "folder", "data.pattern": PATTERN, "data.root": str(folder / "images"),
            "data.height": HEIGHT, "data.width": WIDTH, "data.cache_folder": str(folder / "cache"),
            "model.weights": "none", "sampler.identities": identities,
            "sampler.instances": INSTANCES, "numerics.threads": threads,
        },
    )  # fmt: skip
    inputs = open_inputs(config.data)
    labels = np.asarray(inputs.train.identities)
    return Setting(config, inputs.train_images, labels, device)


def _encoder(setting: Setting, mode: str = "ghost") -> tuple[ContrastiveEncoder, ClusterMemory]:
    training = setting.config.training
    settings = replace(training.encoder, model=replace(training.encoder.model, batch_norm=mode))
    weights = build_model(settings, Group.solo()).state_dict()
    encoder = ContrastiveEncoder(replace(training, encoder=settings), weights, Group.solo(), setting.device)
    centres = torch.randn(
        NUM_CLUSTERS, encoder.model.num_features, generator=torch.Generator().manual_seed(0)
    )
    return encoder, ClusterMemory(nn.functional.normalize(centres).to(setting.device), momentum=0.1)


def _half(setting: Setting) -> float | None:
    """Images a second of the step in bfloat16 on a CPU that has it; a GPU's are in it anyway."""
    if setting.device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return _resident(setting, "ghost", "bfloat16")


def _resident(setting: Setting, mode: str, autocast: Autocast = "auto") -> float:
    encoder, memory = _encoder(setting, mode)
    encoder.model.autocast = autocast
    rows = np.arange(setting.batch)
    inputs = encoder.augmented(setting.images, rows, setting.batch, (0,))
    visits = memory.visits(torch.from_numpy(setting.labels[rows])).to(setting.device)
    return _pace(setting, lambda: encoder._step(inputs, visits, memory))


def _epoch(setting: Setting) -> float:
    encoder, memory = _encoder(setting)
    steps = encoder.train_steps(
        setting.images, setting.labels, None, memory, key=(2, 0), num_steps=1 + setting.steps
    )
    return _pace(setting, lambda: next(steps))


def _floor(setting: Setting) -> float:
    """Images a second if a step were its products alone."""
    network = build_model(setting.config.training.encoder, Group.solo())
    dtype = torch.bfloat16 if setting.device.type == "cuda" else torch.float32
    flops = (1 + BACKWARD) * forward_flops(network, HEIGHT, WIDTH)
    return product_rate(setting.device, dtype) / flops


def _peers(setting: Setting, threads: int) -> float:
    model = as_torchvision(build_model(setting.config.training.encoder, Group.solo()), 1).train()
    model.to(setting.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3.5e-4, weight_decay=5e-4)
    centres = torch.randn(NUM_CLUSTERS, 2048).to(setting.device)
    batches = iter(_loader(setting, threads))

    def step() -> None:
        images, labels = (part.to(setting.device) for part in next(batches))
        features = nn.functional.normalize(model(images))
        loss = nn.functional.cross_entropy(features @ nn.functional.normalize(centres).T / 0.05, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # they print it

    return _pace(setting, step)


class _Files(Dataset[tuple[Tensor, int]]):
    """Image files, opened and transformed one by one."""

    def __init__(self, setting: Setting) -> None:
        root = setting.config.data.root
        self.files = sorted(Path(root).rglob("*.jpg"))
        self.number = (2 + setting.steps) * setting.batch
        self.transform = transforms.Compose(
            [
                transforms.Resize((HEIGHT, WIDTH), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.Pad(10),
                transforms.RandomCrop((HEIGHT, WIDTH)),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                transforms.RandomErasing(),
            ]
        )

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = index % len(self.files)
        return self.transform(Image.open(self.files[number]).convert("RGB")), number // INSTANCES


def _loader(setting: Setting, threads: int) -> Iterator[list[Tensor]]:
    """On all cores where the network is on a GPU; on a CPU, on as many as it has itself."""
    workers = (os.cpu_count() or 1) if setting.device.type == "cuda" else threads
    pinned = setting.device.type == "cuda"
    return iter(DataLoader(_Files(setting), setting.batch, num_workers=workers, pin_memory=pinned))


def _pace(setting: Setting, step: Callable[[], Any]) -> float:
    """Images a second of some steps, after a first one."""

    def settled() -> float:
        if setting.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    step()
    begun = settled()
    for _ in range(setting.steps):
        step()
    return setting.steps * setting.batch / (settled() - begun)
