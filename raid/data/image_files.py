"""How the bytes of an image are had, wherever its set is: below a folder, or in a pack."""

from pathlib import Path
from typing import TypeAlias

from raid.data.packed import Pack
from raid.data.reading import READ_TIMEOUT_S, read_bytes
from raid.data.samples import content_hash
from raid.errors import InputError

Root: TypeAlias = Path | Pack  # of a set: its images' paths are relative to it


def read_image(root: Root, path: str, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """Return the bytes of the image `path` as they were on disk.

    Raises:
        InputError: they did not come in time, or the pack is damaged.
        OSError: the file cannot be read.
    """
    return root.read(path) if isinstance(root, Pack) else read_bytes(root / path, timeout_s)


def read_unchanged(root: Root, path: str, content: str, timeout_s: float = READ_TIMEOUT_S) -> bytes:
    """Return the bytes of the image `path`, which have the hash `content`.

    Raises:
        InputError: they cannot be read, or have changed since the manifest was made.
    """
    file = f"{root}/{path}"
    try:
        data = read_image(root, path, timeout_s)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}, though the manifest lists it; make it anew") from error
    if content_hash(data) != content:
        raise InputError(f"{file}: has changed since the manifest was made; make it anew")
    return data


def absolute(root: Root) -> Root:
    """Return a root that means the same in a process with another working directory."""
    return root if isinstance(root, Pack) else root.absolute()
