"""A model that a run of any method ended with, read back from its file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raid import __version__
from raid.config import config_hash, loads
from raid.data.samples import content_hash
from raid.data.statistics import IMAGENET, Statistics
from raid.errors import InputError
from raid.files import read_tensors
from raid.methods.encoder import EncoderSettings, network_of
from raid.methods.known import MethodConfig, config_of
from raid.models.backbone import Backbone


@dataclass(frozen=True)
class Trained:
    """A file that a training wrote (`model.pt`, or MAR's `pretrained.pt`).

    Attributes:
        path: of the file.
        method: of the training.
        weights: state dict of the backbone.
        config: that they came of.
        statistics: colours that the model's images are normalised by: MAR's are those of its target.
        source: fingerprint of the images of MAR's reference persons; None for a method without.
    """

    path: Path
    method: str
    weights: dict[str, Tensor]
    config: MethodConfig
    statistics: Statistics
    source: str | None

    @staticmethod
    def read(path: Path) -> "Trained":
        """Read a model, or that of a run folder; nothing in it is executed.

        Raises:
            InputError: there is none, or the file is no model that raid wrote.
        """
        if path.is_dir():
            path = path / "model.pt"
            if not path.exists():
                raise InputError(f"{path}: there is no such file: not a run folder, or its run has not ended")
        elif not path.exists():
            raise InputError(f"{path}: there is no such file: give a run's model.pt or its folder")
        content = read_tensors(path)
        if not isinstance(content, dict) or not isinstance(content.get("config"), str):
            raise InputError(f"{path}: not a model that a run of raid ended with: it has no configuration")
        method = content.get("method", "icsr")  # whose files do not say
        try:
            schema = config_of(method)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return Trained(
            path,
            method,
            content.get("model", {}),
            loads(schema, content["config"], str(path)),
            _statistics(path, content),
            content.get("source"),
        )

    @property
    def has_own_colours(self) -> bool:
        """Whether images are normalised by other statistics than ImageNet's."""
        return self.statistics != IMAGENET

    def network(self, settings: EncoderSettings) -> Backbone:
        """Build the network of `settings` with the weights.

        Raises:
            InputError: they do not fit it.
        """
        misfit = f"{self.path}: its weights do not fit {settings.model.backbone}"
        return network_of(settings, self.weights, misfit)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights' names, shapes and numbers, hexadecimal: wherever the file is."""
        found = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return what says which model it is, and by which colours it sees."""
        return {
            "path": str(self.path),
            "method": self.method,
            "content": content_hash(self.path.read_bytes()),
            "config_hash": config_hash(self.config),
            "mean": list(self.statistics.mean),
            "std": list(self.statistics.std),
            "raid": __version__,
        }


def _statistics(path: Path, content: dict[str, Any]) -> Statistics:
    if "mean" not in content:
        return IMAGENET
    try:
        (red, green, blue), deviations = map(float, content["mean"]), map(float, content["std"])
        first, second, third = deviations
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: mean and std are not three numbers each: the file is damaged") from error
    return Statistics((red, green, blue), (first, second, third))
