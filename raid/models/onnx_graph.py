"""The extraction network as an ONNX graph: pixels in, unit rows out.

The normalisation is part of it, and its input is uint8: whoever feeds pixels of 0 to 1 is told of the wrong
type, instead of getting wrong features.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raid.models.backbone import Backbone
from raid.models.inference import folded

INPUT, OUTPUT, BATCH = "images", "features", "batch"
OPSET = 18  # the first that the exporter writes without converting, and what older runtimes read

Triple = tuple[float, float, float]


class PixelsToFeatures(nn.Module):
    """RGB pixels (N, 3, H, W) uint8 -> features (N, D) float32, unit rows.

    Args:
        network: float32.
        mean: of the red, green and blue values, scaled to 0..1.
        std: their deviation.
        flip: the pooled features of an image and of its mirror image are added, before the sum is made a
            unit row.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Backbone, mean: Triple, std: Triple, *, flip: bool) -> None:
        super().__init__()
        plain = folded(network)
        # Not the network itself: its autocast would be a part of the graph.
        self.layers = nn.Sequential(plain.body, plain.pool, plain.neck)
        self.flip = flip
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of `pixels`."""
        images = (pixels.to(self.mean.dtype) / 255 - self.mean) / self.std
        if not self.flip:
            return functional.normalize(self.layers(images))
        # In one pass, so that the graph has every layer once.
        both: Tensor = self.layers(torch.cat([images, images.flip(-1)]))
        return functional.normalize(both.unflatten(0, (2, -1)).sum(0))


def graph_of(network: Backbone, mean: Triple, std: Triple, *, height: int, width: int, flip: bool) -> bytes:
    """Return the ONNX file of a network; its batch dimension is free, the others are fixed.

    Args:
        network: float32, on the CPU; it is left as it is.
        mean: see `PixelsToFeatures`, as is all else.
        std: deviation.
        height: of the images in pixels.
        width: of the images in pixels.
        flip: whether mirror images are added.

    Memory: the weights, three times.
    """
    pixels = torch.zeros((2, 3, height, width), dtype=torch.uint8)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            PixelsToFeatures(network, mean, std, flip=flip).eval(),
            (pixels,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"pixels": {0: torch.export.Dim(BATCH)}},
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return _without_origins(program.model_proto).SerializeToString()  # type: ignore[no-any-return]


def _without_origins(model: Any) -> Any:
    """Return the model without what the exporter tells of its source: lines of code, paths."""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from telling of its own insides, by warnings and by logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
