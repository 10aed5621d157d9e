"""Files that are either whole or absent, and files of tensors that are read without executing anything."""

import json
import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raid.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there, flushed to disk, when the block succeeds.

    A reader (or a run that is killed) sees the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; move it there, flushed to disk, when the block succeeds.

    Raises:
        OSError: it cannot be written, or something (of another process, say) is at `path` by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        os.sync()  # thousands of files: once for all
        temporary.chmod(0o777 & ~_umask())
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what goes wrong with writing `out` into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}; choose another") from error


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_tensors(path: Path) -> Any:
    """Read what `torch.save` wrote, onto the CPU: tensors and plain values; nothing in it is executed.

    Raises:
        InputError: the file is missing, damaged, or holds other objects.
    """
    import torch  # here, for the commands that only write files start without it

    try:
        with warnings.catch_warnings(action="ignore"):  # of how it was pickled, where it is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to read the file unsafely
        reason = "it is damaged or holds other objects, which are not executed"
        cause: Exception = error
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        cause = error
    raise InputError(f"{path}: not a file of tensors and plain values: {reason}") from cause


def _umask() -> int:
    """Read the kernel's record: to ask `os.umask` is to set it, which another thread may see."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
