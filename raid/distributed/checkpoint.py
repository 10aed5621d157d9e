"""Full-state checkpoints: tensors and plain values only, whole or absent.

A checkpoint is one file that `torch.load(weights_only=True)` reads; nothing in it is executed. Its name
says the epoch and the step that come next, so the latest is the greatest name.
"""

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raid.errors import InputError
from raid.files import atomic_path, read_tensors

FORMAT = 1
_NAME = re.compile(r"epoch_(\d+)_step_(\d+)\.pt")

State = dict[str, Any]


def save(folder: Path, state: State, *, epoch: int, step: int, keep: int) -> Path:
    """Write `state` under the position it resumes at; keep the latest `keep` checkpoints.

    Args:
        folder: of the checkpoints; made when absent.
        state: nested dictionaries and lists of tensors and plain values.
        epoch: the epoch that a resumed run goes on in.
        step: the step of that epoch that a resumed run starts with.
        keep: older ones are deleted once the new one is on disk.
    """
    path = folder / f"epoch_{epoch:05d}_step_{step:07d}.pt"
    write_tensors(path, {**state, "format": FORMAT, "epoch": epoch, "step": step})
    for old in _all(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def write_tensors(path: Path, content: State) -> None:
    """Write `content` to one file; the same content gives the same bytes."""
    # Through a handle: given a path, torch puts its (temporary) name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def latest(folder: Path) -> Path | None:
    """Return the checkpoint that is furthest on, or None."""
    return next(reversed(_all(folder)), None)


def load(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: the file is no checkpoint of this format.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not a checkpoint of raid's format {FORMAT}")
    return state


def random_state() -> State:
    """Return the state of every ambient random generator of this process.

    The methods draw from counter-based generators keyed by (seed, epoch, step) and need none of these;
    they are kept so that nothing a library draws can differ after a resume.
    """
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": _listed(random.getstate()),
    }


def set_random_state(state: State) -> None:
    """Put every ambient random generator back to `state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("epoch_*.pt") if _NAME.fullmatch(path.name))
