"""The shards of packs on this node's disk: fetched once for all its processes, the least recently used go."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from raid.data.storage import Place, chunks
from raid.errors import InputError
from raid.files import atomic_path

logger = logging.getLogger(__name__)

_GIB = 2**30
_LOCK = "lock"


@dataclass(frozen=True)
class Shard:
    """A file of a pack, as its index describes it."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardCache:
    """A folder of shards, by their SHA-256.

    Attributes:
        folder: on this node; the same path on all of them.
        limit: bytes that the shards take at most.
        timeout_s: to wait for a piece of a shard.
    """

    folder: Path
    limit: int
    timeout_s: float

    def open(self, place: Place, shard: Shard) -> BinaryIO:
        """Open the shard, which is fetched where this node has it not, or not whole.

        Of several processes one fetches, and the others wait for it. What is open stays readable when it is
        evicted.

        Raises:
            InputError: it cannot be fetched, is not what the index says, or there is no room for it.
        """
        try:
            return self._opened(shard) or self._fetched(place, shard)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"data.cache_folder: {self.folder}: {reason}; choose another") from error

    def drop(self, shard: Shard) -> None:
        """Forget what this node has of a shard."""
        self._file(shard).unlink(missing_ok=True)

    def _file(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.parquet"

    def _opened(self, shard: Shard) -> BinaryIO | None:
        try:
            file = self._file(shard).open("rb")
        except FileNotFoundError:
            return None
        if os.fstat(file.fileno()).st_size != shard.bytes:
            file.close()
            return None
        os.utime(file.fileno())  # when it was last used
        return file

    def _fetched(self, place: Place, shard: Shard) -> BinaryIO:
        with self._locked():
            file = self._opened(shard)  # by another process meanwhile
            if file is None:
                self.drop(shard)
                self._make_room(shard.bytes)
                self._fetch(place, shard)
                file = self._file(shard).open("rb")  # before anybody can evict it
            return file

    def _fetch(self, place: Place, shard: Shard) -> None:
        with atomic_path(self._file(shard)) as temporary:
            wrong = self._copied(place, shard, temporary)
            if wrong is not None:
                logger.warning("%s: %s; fetched once more", place.key(shard.name), wrong)
                wrong = self._copied(place, shard, temporary)
            if wrong is not None:
                raise InputError(
                    f"{place.key(shard.name)}: {wrong}; copy the shard anew, or pack the set again"
                )

    def _copied(self, place: Place, shard: Shard, to: Path) -> str | None:
        """Copy the shard; return what is wrong with it."""
        digest, size = hashlib.sha256(), 0
        try:
            with to.open("wb") as file:
                for piece in chunks(place, shard.name, self.timeout_s):
                    size += len(piece)
                    if size > shard.bytes:  # which there is room for
                        return f"has more bytes than the {shard.bytes} of the pack's index"
                    digest.update(piece)
                    file.write(piece)
        except FileNotFoundError as error:
            raise InputError(
                f"{place.key(shard.name)}: there is no such file: the pack is not whole"
            ) from error
        if size < shard.bytes:
            return f"is truncated: {size} of {shard.bytes} bytes"
        if digest.hexdigest() != shard.sha256:
            return "is damaged: its SHA-256 is not that of the pack's index"
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go by a process that is killed, too
            yield

    def _make_room(self, needed: int) -> None:
        """Delete what was not used for longest until `needed` bytes fit below the limit; under the lock."""
        shards = []
        for file in self.folder.glob("*.parquet"):
            if file.name.startswith("."):  # of a process that was killed: there is one lock
                file.unlink(missing_ok=True)
            else:
                stat = file.stat()
                shards.append((stat.st_mtime_ns, stat.st_size, file))
        used = sum(size for _, size, _ in shards)
        for _, size, file in sorted(shards):
            if used + needed <= self.limit:
                break
            file.unlink()
            used -= size
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"data.cache_folder: {self.folder} has {free / _GIB:.1f} GiB free and a shard takes "
                f"{needed / _GIB:.1f}; choose another, or pack smaller shards (--shard-mib)"
            )
