"""The crops that an exported graph is compared with the network on."""

from pathlib import Path

import numpy as np

from raid.config import load
from raid.data.images import Images, decoded_when_asked
from raid.data.samples import Samples
from raid.errors import InputError
from raid.methods.checking import data_of
from raid.methods.inputs import load_samples
from raid.methods.sections import Data
from raid.methods.trained import Trained

_ASK = "give pictures to compare on: --crops FOLDER, or --samples SET"


def find_crops(trained: Trained, samples: str | None, folder: Path | None, count: int) -> Images:
    """Return `count` pictures spread over a set, to be decoded as in the training; a smaller one's repeated.

    Args:
        trained: whose size they have, and whose own set is taken where neither is given.
        samples: a set as `raid data check` takes it: a manifest, a pack, ...
        folder: with pictures in it, or below.
        count: how many.

    Raises:
        InputError: there is no picture, or of the training's own set one cannot be decoded.
    """
    if samples is not None:
        data, _ = data_of([samples])
        return _some(load_samples(data, on_error="unread"), trained.config.data, count)
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"--crops: {folder}: there is no such folder")
        return _some(_read(layout="folder", pattern=".", root=str(folder)), trained.config.data, count)
    try:
        own = load_samples(trained.config.data, on_error="unread")
        found = _some(own, trained.config.data, count)
        found.gather(np.arange(count))  # its pictures may be gone where its manifest is not
    except InputError as error:
        raise InputError(
            f"{trained.path}: the training's own set cannot be read ({error}); {_ASK}"
        ) from error
    return found


def _read(**fields: str) -> Samples:
    return load_samples(load(Data, overrides=fields), on_error="unread")


def _some(samples: Samples, data: Data, count: int) -> Images:
    images = decoded_when_asked(samples, data.height, data.width, read_timeout_s=data.read_timeout_s)
    if len(images) < count:
        return images.take(np.arange(count) % len(images))
    return images.take(np.linspace(0, len(images) - 1, count).astype(np.int64))
