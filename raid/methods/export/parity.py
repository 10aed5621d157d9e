"""Whether an exported graph has the features of the network that it was made of."""

import numpy as np
from numpy.typing import NDArray

from raid.errors import InputError
from raid.models.onnx_graph import INPUT, OUTPUT

BATCHES = (1, 2, 17)  # alone, the size that it was traced with, and an odd one
NUM_CROPS = sum(BATCHES)
TOLERANCE = 1e-4


def largest_difference(
    graph: bytes, pixels: NDArray[np.uint8], features: NDArray[np.floating], *, num_threads: int
) -> float:
    """Return how far the graph's features are from the network's, at most, in batches of 1, 2 and 17.

    Args:
        graph: the ONNX file.
        pixels: (20, 3, H, W) crops.
        features: (20, D) that the network has of them.
        num_threads: of the runtime.

    Raises:
        InputError: it is more than TOLERANCE, or a feature is not finite.
    """
    if not np.isfinite(features).all():
        raise InputError("the features of the checkpoint are not finite: its training has diverged")
    found = _run(graph, pixels, num_threads)
    if not all(np.isfinite(part).all() for part in found):
        raise InputError("the exported graph has features that are not finite: it is not kept")
    difference = float(np.abs(np.concatenate(found) - features).max())
    if difference > TOLERANCE:
        raise InputError(
            f"the features of the exported graph differ from torch's by up to {difference:.2g}, more than "
            f"{TOLERANCE:g}: it is not kept"
        )
    return difference


def _run(graph: bytes, pixels: NDArray[np.uint8], num_threads: int) -> list[NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    stops = np.cumsum(BATCHES)
    parts = zip([0, *stops[:-1]], stops, strict=True)
    return [session.run([OUTPUT], {INPUT: pixels[start:stop]})[0] for start, stop in parts]
