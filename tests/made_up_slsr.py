"""Runs of SLSR whose records are made up, to be reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from made_up import record_of
from numpy.typing import NDArray
from PIL import Image

from raid.config import load
from raid.evaluate import RetrievalSet, save_record
from raid.methods.slsr.config import SlsrConfig
from raid.run_folder import RunFolder

SECTIONS = [
    "alarms", "baseline", "clusters", "generators", "generated", "finetuning", "cameras", "lists", "times",
    "figures", "configuration",
]  # fmt: skip
FACTS = {"set": "Made-up", "version": "V2", "protocol": "standard"}
BASELINE, GAN, FINETUNING, STEPS = 3, 6, 4, 5
EPOCHS = BASELINE + GAN + FINETUNING
CLUSTERS, IDENTITIES = 3, 7
SIZES = (45, 30, 15)  # images of the clusters
HEIGHT, WIDTH = 32, 16  # of the GANs


def config(root: Path, folder: Path, **overrides: Any) -> SlsrConfig:
    """The configuration of the run that is made up; overrides are written `section__field=value`."""
    values = {
        "data.layout": "folder",
        "data.pattern": tiny.PATTERN,
        "data.root": str(root),
        "data.height": tiny.HEIGHT,
        "data.width": tiny.WIDTH,
        "data.cache_folder": str(root / "cache"),
        "model.backbone": "resnet10",
        "model.weights": "none",
        "model.ghost_size": 4,
        "augment.pad": 2,
        "augment.input_size": None,
        "baseline.epochs": BASELINE,
        "clusters.num_clusters": CLUSTERS,
        "gan.height": HEIGHT,
        "gan.width": WIDTH,
        "gan.epochs": GAN,
        "gan.grid_epochs": 2,
        "finetuning.epochs": FINETUNING,
        "generated.count": 120,
        "run.folder": str(folder),
        "run.device": "cpu",
        "track.enabled": False,
    }
    given = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(SlsrConfig, overrides={**values, **given})


def epochs(
    *, gans: bool = True, finetuning: int = FINETUNING, evaluated: bool = True, generated: bool = True
) -> list[dict[str, Any]]:
    """The figures of all epochs, all different."""
    parts = [baseline_figures(epoch, evaluated and epoch == BASELINE - 1) for epoch in range(BASELINE)]
    parts += [gan_figures(epoch) for epoch in range(GAN)] if gans else []
    parts += [finetuning_figures(epoch, evaluated, generated) for epoch in range(finetuning)]
    return [{"epoch": epoch, **figures} for epoch, figures in enumerate(parts)]


def baseline_figures(epoch: int, evaluated: bool) -> dict[str, float]:
    found = {"baseline/loss": 5.0 / (1 + epoch), "baseline/accuracy": 0.3 + 0.2 * epoch}
    found |= {"train/learning_rate": 0.01, "time/train_s": 9.0 + epoch, "time/data_wait_s": 1.5}
    return found | (retrieval(0.4) if evaluated else {}) | ({"time/prepare_s": 40.0} if epoch == 0 else {})


def gan_figures(epoch: int) -> dict[str, float]:
    found = {"time/gans_s": 20.0 + epoch}
    if epoch == 0:
        found |= {"clusters/num": 3.0, "clusters/silhouette": 0.4, "time/cluster_s": 5.0}
        found |= {"clusters/size_min": 15.0, "clusters/size_max": 45.0}
    for cluster in range(CLUSTERS):
        line = gan_epoch(cluster, epoch)
        found |= {f"gan/cluster_{cluster}/{key}": value for key, value in line.items() if key != "epoch"}
    return found


def finetuning_figures(epoch: int, evaluated: bool, generated: bool) -> dict[str, float]:
    rng = np.random.default_rng(50 + epoch)
    found = {"train/loss": 4.0 / (1 + epoch), "train/loss_real": 3.0 / (1 + epoch)}
    found |= {"train/accuracy": 0.2 + 0.15 * epoch + rng.uniform(0, 0.1), "train/learning_rate": 0.01}
    if generated:
        found |= {"train/loss_generated": 5.0 - 0.3 * epoch, "train/accuracy_generated": rng.uniform(0.6, 1)}
    found |= {"time/train_s": 15.0 + epoch, "time/data_wait_s": 1.0}
    return found | (retrieval(0.45 + 0.02 * epoch) if evaluated else {})


def retrieval(low: float) -> dict[str, float]:
    found = {"eval/mAP": low, "eval/rank1": low + 0.2, "eval/rank5": low + 0.3, "eval/rank10": low + 0.35}
    return found | {"eval/mINP": low / 2, "time/evaluate_s": 1.5}


def gan_epoch(cluster: int, epoch: int) -> dict[str, float]:
    """A line of epochs.jsonl; -1 is the parent."""
    rng = np.random.default_rng((10 + cluster, epoch))
    return {
        "epoch": epoch,
        "real": rng.uniform(0.4, 0.6),
        "fake": rng.uniform(0.5, 0.7),
        "generator": rng.uniform(1.0, 2.0),
        "variance_ratio": 0.8 * (1 - 0.5 ** (1 + epoch)) + 0.02 * cluster,
    }


def image_clusters(sizes: tuple[int, ...] = SIZES, identities: int = IDENTITIES) -> dict[str, NDArray[Any]]:
    """Clusters of blobs in the plane; an identity is in one or two clusters."""
    rng = np.random.default_rng(3)
    clusters = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    turns = 2 * np.pi * clusters / len(sizes)
    middles = 8 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    labels = (clusters * 2 + rng.integers(0, 3, len(clusters))) % identities
    return {
        "clusters": clusters,
        "labels": labels,
        "plane": (middles + rng.normal(0, 2.5, (len(clusters), 2))).astype(np.float32),
        "numbers": np.array([2, 3, 4, 5]),
        "silhouette_features": np.array([0.31, 0.4012, 0.35, 0.28]),
        "silhouette_plane": np.array([0.5175, 0.7003, 0.6849, 0.6176]),
        "silhouette": np.array(0.4012),
    }


def quality(cluster: int) -> dict[str, Any]:
    return {
        "cluster": cluster,
        "samples": 40,
        "variance_ratio": gan_epoch(cluster, GAN - 1)["variance_ratio"],
        "frechet": 12.5 + cluster,
        "nearest_real": 21.25 + cluster,
        "real_nearest": 9.5 + cluster,
        "copies": 0,
    }


def grid(seed: int, sharp: float, *, height: int = HEIGHT, width: int = WIDTH, count: int = 4) -> Image.Image:
    """Pictures of `count` x `count` people in blocks of colour; the less sharp, the more noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(40, 215, (count, count, 4, 2, 3))
    one = blocks.repeat(height // 4, axis=2).repeat(width // 2, axis=3)
    pixels = one.transpose(0, 2, 1, 3, 4).reshape(count * height, count * width, 3)
    noise = rng.normal(0, 60, pixels.shape)
    return Image.fromarray((sharp * pixels + (1 - sharp) * (128 + noise)).clip(0, 255).astype(np.uint8))


def draw_gan(
    folder: RunFolder,
    cluster: int,
    *,
    done: int = GAN,
    of: int = GAN,
    every: int = 2,
    alarms: tuple[str, ...] = (),
    **size: int,
) -> Path:
    """Leave what the GAN of a cluster (-1: the parent) leaves after `done` of `of` epochs."""
    path = folder.gans / ("parent" if cluster < 0 else f"cluster_{cluster:02d}")
    path.mkdir(parents=True)
    lines = [json.dumps(gan_epoch(cluster, epoch)) + "\n" for epoch in range(done)]
    (path / "epochs.jsonl").write_text("".join(lines))
    grid(100 + cluster, 1.0, **size).save(path / "real.png")
    for epoch in range(1, done + 1):
        if epoch % every == 0 or epoch == of:
            sharp = 0.8 * epoch / of
            grid(10 * cluster + 500, sharp, **size).save(path / f"grid_{epoch:05d}.png")
    if done == of:
        ratio = gan_epoch(cluster, of - 1)["variance_ratio"]
        result = {"cluster": cluster, "images": 30, "epochs": of, "steps": 40, "started": 1.0, "ended": 9.0}
        result |= {"variance_ratio": ratio, "alarms": list(alarms)}
        (path / "result.json").write_text(json.dumps(result))
        (path / "generator.pt").write_text("weights")
    return path


def opened(config: SlsrConfig, epochs: list[dict[str, Any]], fingerprint: str = "images") -> RunFolder:
    """A run of these epochs without what belongs to SLSR alone."""
    folder = RunFolder.open(
        config.run.folder, config, fingerprint, method="slsr", facts=FACTS, resume=False, fresh=False
    )
    for epoch in epochs:
        mean = epoch.get("baseline/loss", epoch.get("train/loss"))
        losses = [] if mean is None else (mean + np.linspace(-0.5, 0.5, STEPS)).tolist()
        folder.record_epoch(epoch, losses)
    return folder


def recorded(
    config: SlsrConfig,
    epochs: list[dict[str, Any]],
    *,
    fingerprint: str = "images",
    retrieval: RetrievalSet | None = None,
) -> RunFolder:
    """A finished run of these epochs, with an evaluation where a set to evaluate is given."""
    folder = opened(config, epochs, fingerprint)
    save_record(folder.clusters, image_clusters())
    for cluster in range(CLUSTERS):
        draw_gan(folder, cluster)
    facts = {"counts": [40] * CLUSTERS, "height": HEIGHT, "width": WIDTH}
    facts |= {"own_cluster": 0.725, "own_cluster_real": 0.81}
    facts["quality"] = [quality(cluster) for cluster in range(CLUSTERS)]
    folder.generated_facts.write_text(json.dumps(facts))
    if retrieval is not None:
        save_record(folder.evaluation, record_of(retrieval))
    folder.model.write_text("a model")
    return folder
