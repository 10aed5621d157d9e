"""A network for evaluation alone: the same features, computed faster.

In evaluation a batch norm is one affine map a channel. Where it is all that reads a convolution, the
convolution can do it: its filters are scaled, and the rest becomes its bias. On CPUs (and on GPUs whose
matrix units work on half precision) convolutions are fastest with the channels last in memory.
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import fx, nn

from raid.models.backbone import Backbone
from raid.models.batch_norm import BatchNorm
from raid.models.fused import fused

M = TypeVar("M", bound=nn.Module)


def for_evaluation(network: Backbone) -> Backbone:
    """Return a network in evaluation mode with the same features up to rounding (cosine above 0.9999).

    Its convolutions have taken in the norms (`folded`, where more is said), and what else follows them that
    they can do (`fused`): it has no gradients. What this has returned, it returns as it is.
    """
    if isinstance(network.body, fx.GraphModule):
        return network
    result = folded(network)
    result.body = fused(result.body, _Tracer().trace(result.body))
    return result


def folded(network: Backbone) -> Backbone:
    """Return a network in evaluation mode of torch's own layers, the norms in the convolutions before them.

    Args:
        network: is left as it is. What is not folded shares its parameters, and follows when it is trained:
            the result is for features of one epoch.

    Memory: the filters of the convolutions, once more.
    """
    copy = _copied(network)
    with torch.no_grad():
        for convolution, norm, place in list(_pairs(copy)):
            _fold(convolution, norm)
            copy.set_submodule(place, nn.Identity())
        for module in copy.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(weight, requires_grad=False)
    return copy.eval()


def _copied(module: M) -> M:
    """Return a module of the same class with copies of its children and the very same parameters.

    `copy.deepcopy` would copy what layers know besides, such as the workers of a synchronised batch norm.
    """
    copy = module.__class__.__new__(module.__class__)
    copy.__dict__ = {
        name: dict(value) if isinstance(value, dict) else value for name, value in module.__dict__.items()
    }
    copy.__dict__["_modules"] = {
        name: None if child is None else _copied(child) for name, child in module._modules.items()
    }
    return copy


class _Tracer(fx.Tracer):
    """Follows a network's tensors down to its layers, of which the norms are our own."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is taken as it is."""
        return isinstance(m, BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _pairs(network: Backbone) -> Iterator[tuple[nn.Conv2d, BatchNorm, str]]:
    """Yield the convolutions that a batch norm, and nothing else, reads, with the norm and its name."""
    modules = dict(network.body.named_modules())
    for node in _Tracer().trace(network.body).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], BatchNorm):
            continue
        (read,) = node.all_input_nodes
        if read.op == "call_module" and isinstance(modules[read.target], nn.Conv2d) and len(read.users) == 1:
            yield modules[read.target], modules[node.target], f"body.{node.target}"


def _fold(convolution: nn.Conv2d, norm: BatchNorm) -> None:
    """Put what the norm does in evaluation into the convolution's filters and bias."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = torch.zeros_like(scale) if convolution.bias is None else convolution.bias
    folded = convolution.weight * scale.view(-1, 1, 1, 1)
    convolution.weight = nn.Parameter(folded, requires_grad=False)
    convolution.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias, requires_grad=False)
