"""Images of a set or of the run folder in the page, and the sets that they are of."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from raid.data.images import Images
from raid.data.samples import Samples
from raid.errors import InputError
from raid.report.markup import Html, element

_HEIGHT, _WIDTH = 160, 80  # a picture in the page has no more pixels than it needs for one of the two
_SMALL_FILE = 40_000  # bytes; a PNG of no more is shown as it is
Side = tuple[Samples, Images]
GONE = "The images were not at hand when this page was written: their numbers stand for them."


@dataclass(frozen=True)
class TrainingSets:
    """The images that MAR trains on: row i of the samples is row i of the images.

    Attributes:
        target: unlabelled, whose pairs are mined.
        target_images: of the target.
        source: labelled, whose people are the reference agents.
        source_images: of the source.
    """

    target: Samples
    target_images: Images
    source: Samples
    source_images: Images


def strip(title: str, items: Sequence[Html]) -> Html:
    """Return list items side by side, in a box that scrolls, under their title."""
    shown = element("ol", *items, class_="strip")
    scroll = element("div", shown, class_="scroll", tabindex=0, role="group", aria_label=title)
    return element("div", element("p", title, class_="muted"), scroll, class_="box")


def picture(row: int, what: str, of: Side | None) -> Html:
    """Return a picture with words for who cannot see it; its number where the images are not at hand."""
    if of is None:
        return element("span", f"image {row + 1}", class_="gone", title=what)
    samples, images = of
    words = f"{what}: {samples.table['path'][row].as_py()}"  # not .paths: a source has a hundred thousand
    try:
        source = _data_uri(images, row)
    except InputError:  # the file has gone since the training: no reason to be without a report
        return picture(row, what, None)
    ratio = f"{images.width}/{images.height}"
    return element("img", src=source, alt=words, title=words, style=f"aspect-ratio:{ratio}")


def _data_uri(images: Images, row: int) -> str:
    pixels = images.gather(np.array([row]))[0].numpy().transpose(1, 2, 0)
    shown = Image.fromarray(pixels)
    scale = max(_HEIGHT / shown.height, _WIDTH / shown.width)
    if scale < 1:
        size = round(shown.width * scale), round(shown.height * scale)
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    return _jpeg(shown, 88)


def stored_picture(path: Path, what: str, *, most_pixels: int) -> Html:
    """Return a picture of the run folder, re-encoded where it is large: the page is to stay small.

    Args:
        path: of the picture.
        what: it shows, for who cannot see it.
        most_pixels: a larger one is reduced to about so many.

    Raises:
        InputError: the file is missing, or no picture.
    """
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=["PNG"]) as opened:
            shown = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: no picture that can be read: {error}") from error
    ratio = f"{shown.width}/{shown.height}"
    if len(content) <= _SMALL_FILE:
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    else:
        source = _jpeg(_reduced(shown, most_pixels), 80)
    return element("img", src=source, alt=what, style=f"aspect-ratio:{ratio}")


def _reduced(shown: Image.Image, most_pixels: int) -> Image.Image:
    scale = min(1.0, (most_pixels / (shown.width * shown.height)) ** 0.5)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    return shown.resize(size, Image.Resampling.LANCZOS)


def _jpeg(shown: Image.Image, quality: int) -> str:
    file = BytesIO()
    shown.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
