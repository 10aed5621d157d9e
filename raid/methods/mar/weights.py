"""Weights of MAR's encoder and agents: what stage 1 starts from, and what it leaves in `pretrained.pt`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raid.data.streams import AGENTS, stream
from raid.distributed.group import Group
from raid.errors import InputError
from raid.files import read_tensors
from raid.methods import encoder
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import SourceSet


@dataclass(frozen=True)
class Weights:
    """Of encoder and agents, on the CPU.

    Attributes:
        model: state dict of the backbone.
        agents: (P, D) rows of any length.
        scale: mean product of a source image's features and its own agent, of the lengths that stage 1
            ends with; NaN before.
    """

    model: dict[str, Tensor]
    agents: Tensor
    scale: float = math.nan


def starting_weights(config: MarConfig, source: SourceSet) -> Weights:
    """Return what the run starts from, read once for all workers.

    Raises:
        InputError: the weights are missing or do not fit, or the checkpoint was pretrained on other people.
    """
    settings = config.encoder()
    if config.pretraining.checkpoint is None:
        model = encoder.starting_weights(settings)
        dimensions = encoder.build_model(settings, Group.solo()).num_features
        return Weights(model, random_agents(source.num_people, dimensions, config.seed))
    path = config.pretraining.checkpoint.expanduser()
    weights, origin = _read(path, source), f"pretraining.checkpoint: {path}"
    misfit = f"{origin} does not fit {config.model.backbone} as section model has it"
    encoder.network_of(settings, weights.model, misfit)
    encoder.check_finite((*weights.model.values(), weights.agents), origin)
    if config.multilabel.scale == "auto" and not math.isfinite(weights.scale):
        raise InputError(f"multilabel.scale: auto, and {path} says none; give a number, such as 30")
    return weights


def random_agents(num_people: int, num_features: int, seed: int) -> Tensor:
    """Return the classifier that stage 1 starts from, (P, D) float32, drawn as torch's linear layers are."""
    bound = 1 / math.sqrt(num_features)
    drawn = stream(seed, AGENTS).uniform(-bound, bound, (num_people, num_features))
    return torch.from_numpy(drawn).float()


def as_content(weights: Weights, source: SourceSet) -> dict[str, Any]:
    """Return what a file keeps of the weights, to be read by `starting_weights`."""
    return {
        "model": weights.model,
        "agents": weights.agents,
        "scale": weights.scale,
        "source": source.samples.fingerprint(),
    }


def _read(path: Path, source: SourceSet) -> Weights:
    if not path.is_file():
        raise InputError(
            f"pretraining.checkpoint: {path}: there is no such file; a run of `raid mar` leaves it as "
            "pretrained.pt in its folder"
        )
    try:
        content = read_tensors(path)
    except InputError as error:
        raise InputError(f"pretraining.checkpoint: {error}") from error
    if not isinstance(content, Mapping) or content.get("method") != "mar":
        raise InputError(f"pretraining.checkpoint: {path} is not a pretrained.pt that `raid mar` wrote")
    if content["source"] != source.samples.fingerprint():
        raise InputError(
            f"pretraining.checkpoint: {path} was pretrained on other images than those of section source and "
            "auxiliary: its agents are other people; pretrain anew, or name the set it was made with"
        )
    return Weights(dict(content["model"]), content["agents"], float(content["scale"]))
