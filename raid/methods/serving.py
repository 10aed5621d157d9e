"""A trained model as other programs use it: picture files in, features out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raid.data.pixels import decode
from raid.data.samples import NUM_THREADS
from raid.distributed.group import Group
from raid.errors import InputError, one_line
from raid.extract import block_size, extract
from raid.methods.encoder import device_of
from raid.methods.trained import Trained


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """The bytes of picture files, decoded whenever they are asked for (`raid.data.images.Images`)."""

    files: tuple[bytes, ...]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.files)

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Decode the pictures `rows` (B,) in threads: (B, 3, H, W) uint8.

        Raises:
            InputError: one cannot be decoded.
        """
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, rows.tolist()))))

    def take(self, rows: NDArray[np.int64]) -> "EncodedImages":
        """Return the pictures `rows`."""
        return replace(self, files=tuple(self.files[row] for row in rows))

    def _decode(self, row: int) -> NDArray[np.uint8]:
        try:
            return decode(self.files[row], self.height, self.width)
        except Exception as error:  # damaged bytes make the decoders raise nearly anything
            raise InputError(f"picture {row} (from 0): {one_line(error)}") from error


class Served:
    """A model that makes features as its training's evaluation did: same size, colours and mirror images.

    Args:
        trained: read from its file.
        device: auto: a GPU where there is one.

    Raises:
        InputError: the weights do not fit the configuration in the file.
    """

    def __init__(self, trained: Trained, device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        self._config = trained.config
        self._settings = trained.config.encoder(trained.statistics)
        self._device = device_of(device)
        self._model = trained.network(self._settings).to(self._device)

    @staticmethod
    def read(path: Path, device: Literal["auto", "cpu", "cuda"] = "auto") -> "Served":
        """Read a model's file; nothing in it is executed.

        Raises:
            InputError: it is no model that raid wrote.
        """
        return Served(Trained.read(path), device)

    @property
    def num_features(self) -> int:
        """Return D."""
        return self._model.num_features

    def features(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the features of pictures of any size: (N, D) unit rows.

        Args:
            files: N pictures, each the bytes of a JPEG, PNG or whatever Pillow reads.

        Raises:
            InputError: a picture cannot be decoded.
        """
        found = extract(
            self._model,
            EncodedImages(tuple(files), self._config.data.height, self._config.data.width),
            group=Group.solo(),
            batch_size=block_size(self._config.numerics.extract_batch),  # no request tries a GPU's memory
            augmentation=self._settings.augmentation,
            device=self._device,
            dtype=self._settings.dtype,
            flip=self._config.evaluate.flip,
        )
        return found.numpy().astype(np.float32, copy=False)
