"""What an extraction has done so far: a folder of parts, from which a killed one goes on."""

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raid.data.feature_file import Features
from raid.data.images import Failures
from raid.errors import InputError
from raid.files import atomic_path, write_json

_KEY = "extraction.json"


class Part(NamedTuple):
    """Features of consecutive images.

    Attributes:
        features: (B, D) float32 of those that could be decoded, in their order.
        failures: why the others could not, by row of the whole set.
    """

    features: Features
    failures: Failures


@dataclass(frozen=True)
class Parts:
    """The folder `OUT.parts` beside the file that the parts become.

    Attributes:
        path: of the folder.
        key: what decides the bits of a part.
    """

    path: Path
    key: Mapping[str, Any]

    def open(self, *, fresh: bool) -> None:
        """Make the folder, or see that the parts in it are of this extraction.

        Args:
            fresh: throw away the parts that are there.

        Raises:
            InputError: they are of another extraction, or the folder is of something else.
        """
        if self.path.exists():
            before = self._key_there()
            if not fresh:
                self._check(before)
            elif before is not None:
                shutil.rmtree(self.path)
        if not (self.path / _KEY).exists():
            write_json(self.path / _KEY, self.key)

    def has(self, number: int) -> bool:
        """Whether a part is there."""
        return self._file(number).exists()

    def write(self, number: int, part: Part) -> None:
        """Write a part, whole or not at all."""
        failures = {str(row): reason for row, reason in part.failures.items()}
        with atomic_path(self._file(number)) as temporary:
            np.savez(temporary, features=part.features, failures=np.array(json.dumps(failures)))

    def read(self, number: int) -> Part:
        """Read a part.

        Raises:
            InputError: it is damaged.
        """
        return Part(self._array(number, "features"), self.failures(number))

    def failures(self, number: int) -> Failures:
        """Read why images of a part could not be decoded, but not its features.

        Raises:
            InputError: it is damaged.
        """
        failures = json.loads(str(self._array(number, "failures")))
        return {int(row): str(reason) for row, reason in failures.items()}

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:06d}.npz"

    def _array(self, number: int, name: str) -> NDArray[Any]:
        try:
            with np.load(self._file(number), allow_pickle=False) as arrays:
                found: NDArray[Any] = arrays[name]
                return found
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise InputError(f"{self._file(number)}: is damaged; start over with --fresh") from error

    def _key_there(self) -> Mapping[str, Any] | None:
        """Return the key of the parts in the folder; None where nothing is in it.

        Raises:
            InputError: what is in it is not an extraction's.
        """
        if self.path.is_dir() and not any(self.path.iterdir()):
            return None
        try:
            return dict(json.loads((self.path / _KEY).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.path}: holds no parts of an extraction; remove it, or choose another OUT"
            ) from error

    def _check(self, before: Mapping[str, Any] | None) -> None:
        key = json.loads(json.dumps(self.key))
        if before is None or before == key:
            return
        changed = [name for name in key if before.get(name) != key[name]] or ["raid"]
        raise InputError(
            f"{self.path}: holds parts of another extraction ({', '.join(changed)} differ); --fresh throws "
            "them away, or choose another OUT"
        )
