"""How two trainings are compared: what they ended with, and what their folders hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raid.run_folder import RunFolder


def flat(tensors: list[Tensor]) -> Tensor:
    """Return all numbers in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def difference(ours: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the reference's largest entry (its norm, for a gradient)."""
    return float((ours - reference).abs().max() / reference.abs().max())


def differences(
    ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: Mapping[str, float]
) -> dict[str, float]:
    """Return how far apart the two are in what `tolerance` names."""
    return {key: difference(ours[key], reference[key]) for key in tolerance}


def assert_within(
    ours: Mapping[str, Tensor], reference: Mapping[str, Tensor], tolerance: Mapping[str, float]
):
    """Fail where they are further apart than `tolerance` allows."""
    apart = differences(ours, reference, tolerance)
    assert all(apart[key] <= tolerance[key] for key in tolerance), apart


def losses(path: Path) -> np.ndarray:
    """Return the losses of all steps of the run in a folder."""
    return np.array([step["loss"] for step in RunFolder(path).steps()])


def timeless(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the figures of all epochs but for the seconds they took."""
    return [{key: value for key, value in epoch.items() if "time/" not in key} for epoch in folder.metrics()]


def weights(file: Path) -> dict[str, Tensor]:
    """Return what a model file holds of an encoder and, of MAR, of its agents."""
    content = torch.load(file, weights_only=True)
    return content["model"] | {key: value for key, value in content.items() if key == "agents"}


def assert_same_bits(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """Fail when tensors differ by a bit."""
    assert ours.keys() == reference.keys()
    for key, value in reference.items():
        assert torch.equal(ours[key], value), key
