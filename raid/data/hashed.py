"""Identities in a manifest as keyed codes, and pictures under names that do not tell them.

A code is the HMAC-SHA256 of the identity, cut to 53 bits: the same key gives the same codes in every set, so
that sets can still be joined, and without it a code can neither be computed nor turned back. 53 bits, because
readers of JSON and float64 hold no more exactly; two identities of one code are an error.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from raid.data.folder import SUFFIXES
from raid.data.image_files import read_unchanged
from raid.data.samples import Samples, progress
from raid.errors import InputError
from raid.files import atomic_folder

logger = logging.getLogger(__name__)

_BITS = 53
_LEAST_KEY, _MOST_KEY = 16, 4096  # bytes
_JUNK = -1


def fresh_key() -> bytes:
    """Return a random key: what is hashed with it cannot be joined with anything, ever."""
    return secrets.token_bytes(32)


def read_key(file: Path) -> bytes:
    """Read a key; line ends at its end do not count.

    Raises:
        InputError: it cannot be read, or is too short or too long.
    """
    try:
        with file.open("rb") as opened:
            key = opened.read(_MOST_KEY + 1)
    except OSError as error:
        raise InputError(
            f"--identity-key: {file} cannot be read: {error.strerror or error}; make one: "
            f"head -c 32 /dev/urandom > {file}"
        ) from error
    if len(key) > _MOST_KEY or len(key.rstrip(b"\r\n")) < _LEAST_KEY:
        raise InputError(f"--identity-key: {file} is no key: wanted {_LEAST_KEY} to {_MOST_KEY} random bytes")
    return key.rstrip(b"\r\n")


def hashed_set(samples: Samples, key: bytes, folder: Path | None) -> Samples:
    """Return the samples with codes for identities, and their images in `folder`, if that is given.

    Without, a warning says that the paths are left, which tell the identities of most sets.

    Raises:
        InputError: see `hash_identities` and `copy_renamed`.
        OSError: see `copy_renamed`.
    """
    hashed = hash_identities(samples, key)
    if folder is not None:
        return copy_renamed(hashed, folder)
    logger.warning(
        "%s: the identities are hashed, the paths are not, such as %s; --copy FOLDER copies the images under "
        "names that do not tell who is seen",
        samples.name,
        samples.paths[0],
    )
    return hashed


def hash_identities(samples: Samples, key: bytes) -> Samples:
    """Return the samples with codes for identities, in the same order; junk (-1) and null stay.

    Args:
        samples: of any set.
        key: secret.

    Raises:
        InputError: two identities have the same code.
    """
    column = samples.table["identity"]
    known = [of for of in column.unique().to_pylist() if of not in (None, _JUNK)]
    codes = {of: _code(of, key) for of in known}
    if len(set(codes.values())) < len(codes):
        raise InputError("two identities have the same code; hash them with another key (--identity-key)")
    codes |= {_JUNK: _JUNK}
    values = pa.array([None if of is None else codes[of] for of in column.to_pylist()], pa.int64())
    place = samples.table.column_names.index("identity")
    return replace(
        samples, table=samples.table.set_column(place, samples.table.schema.field("identity"), values)
    )


def copy_renamed(samples: Samples, folder: Path) -> Samples:
    """Copy the images to `folder`, all or none, under names of their content; return the samples there.

    They are sorted by content, so that neither the names nor the rows tell in which order they were.

    Args:
        samples: of any set.
        folder: the new folder; an empty one may be there.

    Raises:
        InputError: the folder is not empty, or an image is gone or has changed.
        OSError: the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--copy: {folder}: is there and not empty; choose another folder")
    ordered = samples.take(_by_content(samples))
    names = list(_names(ordered))
    contents = [str(content) for content in ordered.table["content"].to_pylist()]
    with atomic_folder(folder) as temporary:
        for row, name in progress(enumerate(names), len(names), "copying"):
            (temporary / name).write_bytes(read_unchanged(ordered.root, ordered.paths[row], contents[row]))
    place = ordered.table.column_names.index("path")
    table = ordered.table.set_column(place, ordered.table.schema.field("path"), pa.array(names))
    return replace(ordered, root=folder.absolute(), table=table)


def _code(identity: int, key: bytes) -> int:
    digest = hmac.new(key, f"raid identity {identity}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest) >> (8 * len(digest) - _BITS)


def _by_content(samples: Samples) -> list[int]:
    """Return the rows in an order that has nothing to do with theirs."""
    columns = [samples.table[name].to_pylist() for name in ("content", "split", "camera", "identity")]
    keys = [tuple(map(str, values)) for values in zip(*columns, strict=True)]  # as texts: some are null
    return sorted(range(len(keys)), key=keys.__getitem__)


def _names(samples: Samples) -> Iterator[str]:
    """Yield a name for every row, in the order of the rows; of a picture that is there twice, two."""
    contents = samples.table["content"].to_pylist()
    for row, (path, content) in enumerate(zip(samples.paths, contents, strict=True)):
        suffix = Path(path).suffix.lower()
        yield f"{content}_{row:07d}{suffix if suffix in SUFFIXES else ''}"
