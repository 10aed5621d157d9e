"""Convolutions that rectify what they compute, or add to it, while it is in the processor's cache.

By itself a ReLU reads and writes a whole map, and so does the sum at the end of a residual block: a fifth of
a ResNet-50's time on a CPU. oneDNN does either where the convolution writes its map.
"""

import itertools
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

_ADDITIONS = (torch.add, operator.add, operator.iadd)
# oneDNN's ReLU makes 0 of a NaN, and nobody would see that a training has diverged. Its leaky one keeps it,
# and with this slope the rest differs by less than a sum of float32 holds.
_SLOPE = 1e-30


class FusedConvolution(nn.Module):
    """A convolution with a ReLU after it, or with something added to it; has no gradient.

    On a CPU, in float32 or under autocast in bfloat16, it is one operation of oneDNN's, else torch's, one
    after the other.

    Args:
        convolution: see `takes`; its parameters are not trained any more.
        rectified: whether there is a ReLU.
    """

    def __init__(self, convolution: nn.Conv2d, *, rectified: bool) -> None:
        super().__init__()
        self.convolution, self.rectified = convolution, rectified
        self._in_half: tuple[Tensor, Tensor | None] | None = None

    @staticmethod
    def takes(convolution: nn.Conv2d) -> bool:
        """Return whether oneDNN can do a convolution, which does nothing besides."""
        plain = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        return plain and not convolution._forward_pre_hooks and not convolution._forward_hooks

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        """Return what is made of `maps` (B, C, H, W), in the memory of `added` (of its shape) where given."""
        layer, dtype = self.convolution, _dtype_of_onednn(maps)
        if dtype is None or (added is not None and added.dtype != dtype):
            result: Tensor = layer(maps)
            result = result if added is None else result.add_(added)
            return result.relu_() if self.rectified else result
        parameters = (layer.weight, layer.bias) if dtype == layer.weight.dtype else self._rounded()
        how = (*parameters, layer.padding, layer.stride, layer.dilation, layer.groups)
        maps = maps.to(dtype)
        operations: Any = torch.ops.mkldnn  # those that torch's own compiler writes
        if added is None:
            result = operations._convolution_pointwise(maps, *how, "leaky_relu", [_SLOPE], "")
        else:
            result = operations._convolution_pointwise_.binary(added, maps, *how, "add", 1.0, None, [], "")
        return result

    def _rounded(self) -> tuple[Tensor, Tensor | None]:
        """Return the parameters in bfloat16, which are made once."""
        if self._in_half is None:
            layer = self.convolution
            self._in_half = layer.weight.bfloat16(), None if layer.bias is None else layer.bias.bfloat16()
        return self._in_half


def _dtype_of_onednn(maps: Tensor) -> torch.dtype | None:
    """Return what oneDNN computes a convolution of `maps` in; None: that is left to torch."""
    if maps.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if maps.dtype == torch.float32 else None
    half = torch.get_autocast_dtype("cpu") == torch.bfloat16 and maps.dtype != torch.float64
    return torch.bfloat16 if half and torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


def fused(body: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return a module that computes what `body` does, with ReLUs and sums in the convolutions before them.

    Args:
        body: in evaluation mode; the result has its layers, and no gradients.
        graph: of `body`, down to its layers; is changed.
    """
    layers = dict(body.named_modules())
    for node in list(graph.nodes):
        if isinstance(_called(node, layers), nn.Identity):
            _replace(graph, node, node.args[0])
    for node in list(graph.nodes):
        convolution = _called(node, layers)
        if isinstance(convolution, nn.Conv2d) and FusedConvolution.takes(convolution):
            rectified = _take_in_relu(graph, node, layers)
            if rectified or _take_in_sum(graph, node, layers):
                node.target = f"fused_{node.name}"  # by the node, for a layer may be called twice
                layers[node.target] = FusedConvolution(convolution, rectified=rectified)
    return fx.GraphModule(layers, graph).eval()


def _take_in_relu(graph: fx.Graph, node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    """Take away the ReLU that alone reads a convolution's result; return whether there was one."""
    reader = _only_reader(node)
    if reader is None or not isinstance(_called(reader, layers), nn.ReLU):
        return False
    _replace(graph, reader, node)
    return True


def _take_in_sum(graph: fx.Graph, node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    """Let a convolution add what a sum, the only reader of its result, adds to it, in the memory of that.

    Returns:
        Whether that is so: what is added must be there before the convolution, and wanted by nobody after it.
    """
    total = _only_reader(node)
    if total is None or total.target not in _ADDITIONS or len(total.all_input_nodes) != 2 or total.kwargs:
        return False
    other = next(one for one in total.all_input_nodes if one is not node)
    before = set(itertools.takewhile(lambda one: one is not node, graph.nodes))
    if other not in before or not _owns_memory(other, layers):
        return False
    readers = set(other.users) - {total}
    if not readers <= before or not all(_makes_new(_called(one, layers)) for one in readers):
        return False
    node.args = (*node.args, other)
    _replace(graph, total, node)
    return True


def _owns_memory(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    """Return whether what is in the memory of a node's value is read under no other name."""
    layer = _called(node, layers)
    if isinstance(layer, nn.ReLU):  # in place, perhaps
        read = node.all_input_nodes[0]
        return _only_reader(read) is node and _owns_memory(read, layers)
    return _makes_new(layer)


def _makes_new(layer: nn.Module | None) -> bool:
    return isinstance(layer, (nn.Conv2d, nn.MaxPool2d, FusedConvolution))


def _called(node: fx.Node, layers: dict[str, nn.Module]) -> nn.Module | None:
    """Return the layer that a node calls, if it calls one."""
    return layers[str(node.target)] if node.op == "call_module" else None


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _replace(graph: fx.Graph, node: fx.Node, other: Any) -> None:
    node.replace_all_uses_with(other)
    graph.erase_node(node)
