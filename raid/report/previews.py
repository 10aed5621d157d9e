"""Small pictures of files in a page: each as an address that holds it."""

import functools
import logging
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from raid.data.blurring import blurred
from raid.data.image_files import Root, read_image
from raid.data.pixels import decode, upright_size
from raid.report.pictures import jpeg_uri

logger = logging.getLogger(__name__)

_HEIGHT, _LEAST_WIDTH, _MOST_WIDTH = 128, 32, 256
_QUALITY = 78
_LARGEST = 2**27  # bytes of a file that is read
_KEPT = 8192  # pictures: a gallery's image is in many lists


@dataclass
class Previews:
    """Pictures of files as they are asked for.

    Attributes:
        blur: whether all are blurred.
        gone: files that could not be shown.
    """

    blur: bool
    gone: set[str] = field(default_factory=set)

    def of(self, root: Root, path: str) -> tuple[str, str] | None:
        """Return address and ratio (W/H) of a picture; None where the file is gone, or none."""
        found = _preview(root, path, self.blur)
        if found is None:
            self.gone.add(f"{root}/{path}")
        return found


@functools.lru_cache(maxsize=_KEPT)
def _preview(root: Root, path: str, blur: bool) -> tuple[str, str] | None:
    try:
        if isinstance(root, Path):
            file = root / path
            if not file.is_file() or file.stat().st_size > _LARGEST:
                raise ValueError("no file, or too large a one")
        data = read_image(root, path)
        with Image.open(BytesIO(data)) as image:
            width, height = upright_size(image)
        wide = min(max(round(_HEIGHT * width / height), _LEAST_WIDTH), _MOST_WIDTH)
        pixels = decode(data, _HEIGHT, wide).transpose(1, 2, 0)
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        logger.debug("%s/%s: no preview: %s", root, path, error)
        return None
    shown = blurred(pixels) if blur else np.ascontiguousarray(pixels)
    return jpeg_uri(Image.fromarray(shown), _QUALITY), f"{wide}/{_HEIGHT}"
