"""Folders and buckets as one kind of place, through `pyarrow.fs`: what fails is tried again, none hangs."""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast, get_args
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from raid.data.reading import READ_TIMEOUT_S, within
from raid.errors import InputError
from raid.files import atomic_path

logger = logging.getLogger(__name__)

T = TypeVar("T")
Scheme = Literal["file", "s3", "gs"]

_CHUNK = 8 * 2**20  # bytes that come, or do not, at once
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # before S3 is asked again
_CONNECT_S = 10.0
_SILENCE_S = 30.0  # after which a connection is given up, and another made
_GCS_RETRIES_S = 15  # its client goes on for 15 minutes by itself
# What an answer may say that another may not: connections, overload, faults of the server.
_PASSING = re.compile(
    r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTL|cut short"
    r"|HTTP status 50\d|HTTP code 50\d"
)
_ADVICE = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT|AUTHENTICATION|HTTP status 40[13]"
    "|PERMISSION_DENIED|UNAUTHENTICATED": "the storage refuses the credentials of this process's environment "
    "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS), or there "
    "are none",
    "MOVED_PERMANENTLY|PERMANENT_REDIRECT|HTTP status 30": "the bucket is in another region: set AWS_REGION",
    "access token": "no credentials of Google Cloud, or no connection (GOOGLE_APPLICATION_CREDENTIALS)",
    "NETWORK_CONNECTION|UNAVAILABLE": "no connection to the storage (AWS_ENDPOINT_URL, AWS_REGION and the "
    "network say where it is)",
}


@dataclass(frozen=True)
class Place:
    """A folder (`path` absolute), or what lies below `path` (bucket/prefix) in object storage."""

    scheme: Scheme
    path: str

    def __str__(self) -> str:
        return self.path if self.scheme == "file" else f"{self.scheme}://{self.path}"

    def resolved(self) -> "Place":
        """Return the place without the links that lead to it."""
        return Place("file", os.path.realpath(self.path)) if self.scheme == "file" else self

    def key(self, name: str) -> str:
        """Return what the file `name` of this place is called in a message."""
        return f"{self}/{name}"


def is_uri(text: object) -> bool:
    """Whether a text says where something is by a URI, `scheme://...`."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def place_of(root: Path | str) -> Place:
    """Return the place that a path or a URI names.

    Raises:
        InputError: a URI is of none of the schemes, names no bucket, or holds more than bucket and prefix.
    """
    text = str(root)
    if not is_uri(text):
        return Place("file", Path(text).expanduser().absolute().as_posix())
    scheme, _, rest = text.partition("://")
    if "@" in rest.partition("/")[0]:
        # Not shown: it would stand in logs and in the files of runs.
        raise InputError(
            f"{scheme}://...: credentials do not belong into a URI: put them into the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        )
    if scheme not in get_args(Scheme):
        raise InputError(f"{text}: {scheme}:// cannot be read; s3://, gs:// and file:// can, and folders")
    if scheme == "file":
        return _of_file_uri(text, rest)
    parts = rest.rstrip("/").split("/")
    if "?" in rest or "#" in rest or not all(parts) or {".", ".."} & set(parts):
        raise InputError(
            f"{text}: not a place: wanted {scheme}://BUCKET/PREFIX; region and endpoint are read from the "
            "environment (AWS_REGION, AWS_ENDPOINT_URL)"
        )
    return Place(cast(Scheme, scheme), "/".join(parts))


def read_file(place: Place, name: str, timeout_s: float = READ_TIMEOUT_S) -> bytes | None:
    """Return the whole file `name`, None where there is none.

    Raises:
        InputError: it cannot be read, or does not come within `timeout_s`.
    """
    try:
        return b"".join(chunks(place, name, timeout_s))
    except FileNotFoundError:
        _check_bucket(place, timeout_s)
        return None


def chunks(place: Place, name: str, timeout_s: float = READ_TIMEOUT_S) -> Iterator[bytes]:
    """Yield the content of the file `name` piece by piece; a piece that fails is asked for again.

    Args:
        place: it is in.
        name: of it.
        timeout_s: to wait for a piece.

    Raises:
        InputError: a piece cannot be read, or does not come in time.
        FileNotFoundError: there is no such file.
    """
    read = partial(_tried, place, name, timeout_s)
    file, size = read(partial(_open, place, name, timeout_s))
    with file:
        for start in range(0, size, _CHUNK):
            yield read(partial(_piece, file, start, min(_CHUNK, size - start)))


def names(place: Place, timeout_s: float = READ_TIMEOUT_S) -> list[str]:
    """Return the names of what is in a place, sorted; none where it does not exist.

    Raises:
        InputError: it cannot be read.
    """

    def listed() -> list[str]:
        selector = fs.FileSelector(place.path, allow_not_found=True)
        return sorted(
            info.base_name
            for info in _filesystem(place.scheme, timeout_s, os.getpid()).get_file_info(selector)
        )

    return _tried(place, "", timeout_s, listed)


def put(place: Place, name: str, file: Path, timeout_s: float = READ_TIMEOUT_S) -> None:
    """Copy a file of this machine to `name`, where it is whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    if place.scheme == "file":
        try:
            with atomic_path(Path(place.path) / name) as temporary:
                shutil.copyfile(file, temporary)
        except OSError as error:
            raise InputError(f"{place.key(name)}: cannot be written: {error.strerror or error}") from error
        return

    def sent() -> None:
        system = _filesystem(place.scheme, timeout_s, os.getpid())
        with file.open("rb") as source, system.open_output_stream(f"{place.path}/{name}") as stream:
            while piece := source.read(_CHUNK):
                stream.write(piece)

    try:
        _tried(place, name, timeout_s, sent)
    except FileNotFoundError as error:
        raise InputError(f"{place.key(name)}: cannot be written: there is no such bucket") from error


def remove(place: Place, name: str, timeout_s: float = READ_TIMEOUT_S) -> None:
    """Delete a file.

    Raises:
        InputError: it cannot be deleted.
    """
    system = _filesystem(place.scheme, timeout_s, os.getpid())
    _tried(place, name, timeout_s, lambda: system.delete_file(f"{place.path}/{name}"))


def _of_file_uri(text: str, rest: str) -> Place:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{text}: wanted file:///FOLDER, with three slashes, or the folder itself")
    return Place("file", Path(unquote(slash + path)).as_posix())


def _open(place: Place, name: str, timeout_s: float) -> tuple[BinaryIO, int]:
    file: Any = _filesystem(place.scheme, timeout_s, os.getpid()).open_input_file(f"{place.path}/{name}")
    return file, int(file.size())


def _piece(file: Any, start: int, size: int) -> bytes:
    piece = bytes(file.read_at(size, start))
    if len(piece) < size:
        raise OSError(f"the answer is cut short: {len(piece)} of {size} bytes from {start}")
    return piece


def _tried(place: Place, name: str, timeout_s: float, action: Callable[[], T]) -> T:
    """Return `action()`, several times where the connection fails."""
    key = place.key(name).rstrip("/")
    for pause_s in (*(_PAUSES_S if place.scheme == "s3" else ()), None):
        try:
            return within(timeout_s, action, key)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if pause_s is None or not _PASSING.search(str(error)):
                raise InputError(f"{key}: {_reason(error)}") from error
            logger.warning("%s: %s; asked again in %g s", key, _reason(error), pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last pause is None")


def _reason(error: BaseException) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    said = " ".join(said.split())
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, said):
            return f"{advice}: {said[:300]}"
    return said[:300]


def _check_bucket(place: Place, timeout_s: float) -> None:
    if place.scheme == "file":
        return
    bucket = place.path.partition("/")[0]
    system = _filesystem(place.scheme, timeout_s, os.getpid())
    info = _tried(place, "", timeout_s, lambda: system.get_file_info(bucket))
    if info.type == fs.FileType.NotFound:
        raise InputError(f"{place}: there is no bucket {bucket}")


@lru_cache(maxsize=8)
def _filesystem(scheme: Scheme, timeout_s: float, process: int) -> fs.FileSystem:
    """Return this process's connections; `process` in the key, for a fork inherits none that work."""
    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_GCS_RETRIES_S))
    return fs.S3FileSystem(
        # Which pyarrow does not look for by itself.
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        connect_timeout=_CONNECT_S,
        # Soon after we do: the interpreter does not end before the last request.
        request_timeout=min(timeout_s + 1.0, _SILENCE_S),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),  # `_tried` has its own
    )
