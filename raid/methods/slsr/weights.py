"""Weights of SLSR's backbone and classifier: what a stage starts from, and what `baseline.pt` keeps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raid.config import to_yaml
from raid.distributed.group import Group
from raid.errors import InputError
from raid.files import read_tensors
from raid.methods import encoder
from raid.methods.encoder import EncoderSettings
from raid.methods.slsr.config import SlsrConfig, SlsrModel
from raid.models import heads
from raid.models.batch_norm import norm_factory
from raid.models.heads import Head


@dataclass(frozen=True)
class Weights:
    """On the CPU.

    Attributes:
        model: state dict of the backbone.
        head: of the classifier; None: drawn by the seed.
    """

    model: dict[str, Tensor]
    head: dict[str, Tensor] | None = None


def build_head(model: SlsrModel, num_features: int, num_outputs: int, seed: int) -> Head:
    """Build the classifier with random weights; the same seed gives the same ones.

    Every worker passes the whole batch through it, so its batch norm is that of one worker.
    """
    norm = norm_factory(
        model.batch_norm, group_size=model.ghost_size, all_reduce_sum=Group.solo().all_reduce_sum
    )
    return heads.build(
        model.noise_layer,
        num_features=num_features,
        num_classes=num_outputs,
        norm=norm,
        seed=seed,
        width=model.bottleneck_width,
    )


def put_into(head: Head, weights: dict[str, Tensor]) -> None:
    """Copy a classifier's weights into one of as many outputs or more; the others stay as they were drawn."""
    with torch.no_grad():
        for name, value in head.state_dict().items():
            known = weights[name]
            value[tuple(slice(0, size) for size in known.shape)] = known.to(value)


def starting_weights(settings: EncoderSettings) -> Weights:
    """Return the weights that `model.weights` names, and no head.

    Raises:
        InputError: they are missing or do not fit.
    """
    return Weights(encoder.starting_weights(settings))


def as_content(weights: Weights, config: SlsrConfig, train: str) -> dict[str, Any]:
    """Return what a file keeps of the weights.

    Args:
        weights: learned.
        config: whose section model is that of the network.
        train: fingerprint of the training images.
    """
    return {
        "method": "slsr",
        "model": weights.model,
        "head": weights.head,
        "train": train,
        "config": to_yaml(config),
    }


def read_baseline(path: Path, config: SlsrConfig, train: str) -> Weights:
    """Read `baseline.pt` of this run or of another one.

    Args:
        path: of the file.
        config: of the run.
        train: fingerprint of its training images.

    Raises:
        InputError: there is none, it is of other images, or does not fit the configuration.
    """
    path = path.expanduser()
    if not path.is_file():
        raise InputError(
            f"baseline.checkpoint: {path}: there is no such file; a run of `raid slsr` leaves it as "
            "baseline.pt in its folder"
        )
    try:
        content = read_tensors(path)
    except InputError as error:
        raise InputError(f"baseline.checkpoint: {error}") from error
    if not isinstance(content, Mapping) or content.get("method") != "slsr" or "head" not in content:
        raise InputError(f"baseline.checkpoint: {path} is not a baseline.pt that `raid slsr` wrote")
    if content["train"] != train:
        raise InputError(
            f"baseline.checkpoint: {path} was trained on other images than those of section data: its "
            "classes are other people; train it anew, or name the set it was made with"
        )
    weights = Weights(dict(content["model"]), dict(content["head"]))
    _check_fit(path, weights, config)
    return weights


def _check_fit(path: Path, weights: Weights, config: SlsrConfig) -> None:
    settings, origin = config.as_baseline.encoder(), f"baseline.checkpoint: {path}"
    misfit = f"{origin} does not fit {settings.model.backbone} as section model has it"
    network = encoder.network_of(settings, weights.model, misfit)
    assert weights.head is not None
    if config.finetuning.start == "baseline":
        num_outputs = len(weights.head["classifier.weight"])
        head = build_head(config.model, network.num_features, num_outputs, config.seed)
        encoder.load_into(head, weights.head, misfit)
    encoder.check_finite((*weights.model.values(), *weights.head.values()), origin)
