"""What stands beside an exported graph: all that a program needs to use it."""

import hashlib
from typing import Any

from raid import __version__
from raid.data.statistics import Statistics
from raid.methods.export.parity import BATCHES
from raid.methods.export.threshold import Threshold
from raid.methods.trained import Trained
from raid.models.onnx_graph import BATCH, INPUT, OPSET, OUTPUT

_FORMAT = 1  # raised when a key changes its meaning or goes


def sidecar(
    trained: Trained,
    *,
    file: str,
    graph: bytes,
    model: str,
    dimension: int,
    flip: bool,
    threshold: Threshold | None,
    difference: float,
) -> dict[str, Any]:
    """Return the record.

    Args:
        trained: the checkpoint.
        file: name of the ONNX file.
        graph: its bytes.
        model: fingerprint of the weights.
        dimension: D.
        flip: whether the graph adds mirror images.
        threshold: if there is one.
        difference: the largest between the graph's features and torch's.
    """
    data = trained.config.data
    return {
        "format": _FORMAT,
        "raid": __version__,
        "onnx": {"file": file, "sha256": hashlib.sha256(graph).hexdigest(), "opset": OPSET},
        "model": model,
        "method": trained.method,
        "backbone": trained.config.model.backbone,
        "input": {"name": INPUT, "shape": [BATCH, 3, data.height, data.width], "dtype": "uint8"},
        "output": {"name": OUTPUT, "shape": [BATCH, dimension], "dtype": "float32", "unit_rows": True},
        "preprocessing": _preprocessing(data.height, data.width, trained.statistics),
        "dimension": dimension,
        "metric": "cosine",
        "flip": flip,
        "threshold": None if threshold is None else threshold.similarity,
        "far": None if threshold is None else threshold.far,
        "parity": {"largest_difference": difference, "batches": list(BATCHES)},
    }


def _preprocessing(height: int, width: int, statistics: Statistics) -> dict[str, Any]:
    """Return what becomes of a picture: what is not `in_graph` is left to whoever feeds the graph."""
    return {
        "height": height,
        "width": width,
        "resize": "PIL.Image.Resampling.BICUBIC",  # smooth where it shrinks, as OpenCV's is not
        "colours": "RGB",
        "range": [0, 255],
        "in_graph": {"divide_by": 255, "mean": list(statistics.mean), "std": list(statistics.std)},
    }
