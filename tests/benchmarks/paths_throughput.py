"""Images a second of extraction, against torch's defaults in the same run (ResNet-50, 256 x 128)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from benchmarks.floor import forward_flops, product_rate
from benchmarks.measure import limit, measured
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import resnet50

from raid.data.augment import Augmentation, normalize
from raid.distributed.group import Group
from raid.extract import extract
from raid.models.backbone import Autocast, Backbone, build
from raid.models.batch_norm import norm_factory

HEIGHT, WIDTH = 256, 128
NUM_IMAGES, BATCH = 64, 32
REPEATS = 3  # the least of which counts: neighbours on the machine only add
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Pixels:
    """Images in memory."""

    content: Tensor
    height: int = HEIGHT
    width: int = WIDTH

    def __len__(self) -> int:
        return len(self.content)

    def gather(self, rows: Rows) -> Tensor:
        """Copy rows."""
        return self.content[torch.from_numpy(rows)]

    def take(self, rows: Rows) -> "Pixels":
        """Keep rows."""
        return Pixels(self.gather(rows))


def bench_extraction_stride_2(num_rows: int, threads: int) -> dict[str, Any]:
    """A ResNet-50 as torchvision has it: 5.34 GFLOP an image."""
    return _extraction(2, threads)


def bench_extraction_stride_1(num_rows: int, threads: int) -> dict[str, Any]:
    """ICSR's: the last map is twice as large, 8.11 GFLOP an image."""
    return _extraction(1, threads)


def bench_extraction_bfloat16(num_rows: int, threads: int) -> dict[str, Any]:
    """The same in bfloat16, beside the peer in float32."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return {"path": "extraction_bfloat16", "n": NUM_IMAGES, "skipped": "needs a CPU with bfloat16"}
    return {**_extraction(1, threads, "bfloat16"), "path": "extraction_bfloat16"}


def _extraction(last_stride: int, threads: int, autocast: Autocast = "none") -> dict[str, Any]:
    limit(threads)
    images = simulated(NUM_IMAGES)
    model = network(last_stride)
    model.autocast = autocast
    eager = as_torchvision(model, last_stride)
    dtype = torch.float32 if autocast == "none" else torch.bfloat16
    found, ours = least(lambda: _extracted(model, images))
    expected, theirs = least(lambda: _eager_features(eager, model, images))
    return {
        "path": f"extraction_stride_{last_stride}",
        "n": NUM_IMAGES,
        "threads": threads,
        **ours,
        "images_per_cpu_second": NUM_IMAGES / ours["cpu_seconds"],
        "reference": "torchvision's network in eager mode",
        "reference_cpu_seconds": theirs["cpu_seconds"],
        "ratio": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "images_per_s_floor": product_rate(torch.device("cpu"), dtype) / forward_flops(model, HEIGHT, WIDTH),
        "least_cosine": float((found * expected).sum(1).min()),
    }


def simulated(number: int) -> Pixels:
    """Images of noise: a network's time does not depend on what it sees."""
    draw = torch.Generator().manual_seed(0)
    return Pixels(torch.randint(256, (number, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=draw))


def network(last_stride: int, mode: str = "ghost") -> Backbone:
    norm = norm_factory(mode, group_size=16, all_reduce_sum=Group.solo().all_reduce_sum)
    return build("resnet50", norm=norm, seed=0, last_stride=last_stride, pool="average", neck=False)


def as_torchvision(model: Backbone, last_stride: int) -> torch.nn.Module:
    """Torch's own network and norms, with the same weights."""
    made = resnet50(weights=None)
    made.layer4[0].conv2.stride = made.layer4[0].downsample[0].stride = (last_stride, last_stride)
    made.fc = torch.nn.Identity()
    weights = {name.removeprefix("body."): value for name, value in model.state_dict().items()}
    made.load_state_dict(weights, strict=False)
    return made.eval()


def _extracted(model: Backbone, images: Pixels) -> Tensor:
    return extract(
        model,
        images,
        group=Group.solo(),
        batch_size=BATCH,
        augmentation=Augmentation(),
        device=torch.device("cpu"),
    )


def _eager_features(eager: torch.nn.Module, model: Backbone, images: Pixels) -> Tensor:
    with torch.no_grad():
        parts = [
            eager(normalize(part, Augmentation(), dtype=torch.float32))
            for part in images.content.split(BATCH)
        ]
    return torch.nn.functional.normalize(torch.cat(parts))


def least(work: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """What `work` gives, and the cheapest of some measurements of it."""
    work()
    made = [measured(work) for _ in range(REPEATS)]
    return min(made, key=lambda one: one[1]["cpu_seconds"])
