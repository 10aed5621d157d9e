"""Finds what makes the host of a GPU wait: values that are read, and shapes that depend on values.

On a CPU: which operations do that is known, whatever the device.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import raid

# `.item()`, `float(tensor)`, `if tensor:`; and what has to count before it knows its own shape.
_OPERATIONS = {
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"),
    *("aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount"),
}
# That on a CPU are none.
_METHODS = {Tensor.cpu, Tensor.numpy, Tensor.tolist}
# Where what is looked at has been on its way for a step.
_ALLOWED = "data/fetched.py"


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in _OPERATIONS or _has_mask(name, args):
            self.found.append(f"{name} at {_place()}")
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            self.found.append(f"{func.__name__} at {_place()}")
        return func(*args, **(kwargs or {}))


def _has_mask(name: str, args: Any) -> bool:
    """Whether an indexing is by a mask, whose true elements are counted first."""
    if not name.startswith(("aten::index", "aten::_index_put", "aten::_unsafe_index")) or len(args) < 2:
        return False
    indices = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


def _place() -> str:
    """Return the line of raid that is being run."""
    root = Path(raid.__file__).parent
    frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(root)]
    return (
        f"{Path(frames[-1].filename).relative_to(root)}:{frames[-1].lineno}" if frames else "no line of raid"
    )


@contextmanager
def nobody_waits() -> Iterator[None]:
    """Fail where the block, on a GPU, would wait for a value."""
    found: list[str] = []
    with _Methods(found), _Operations(found):
        yield
    waits = sorted({line for line in found if _ALLOWED not in line})
    assert not waits, "\n".join(waits)
