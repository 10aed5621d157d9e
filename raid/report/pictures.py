"""Images of a set or of the run folder in the page, and the sets that they are of."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from raid.data.blurring import BlurredImages, blurred_sheet
from raid.data.images import Images
from raid.data.samples import Samples
from raid.errors import InputError
from raid.evaluate import RetrievalSet
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


def blurred_retrieval(of: RetrievalSet) -> RetrievalSet:
    """Return query and gallery of which a page can show no face."""
    return replace(
        of, query_images=BlurredImages(of.query_images), gallery_images=BlurredImages(of.gallery_images)
    )


def blurred_training(of: TrainingSets) -> TrainingSets:
    """Return target and source of which a page can show no face."""
    return replace(
        of, target_images=BlurredImages(of.target_images), source_images=BlurredImages(of.source_images)
    )


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
    return jpeg_uri(shown, 88)


@dataclass(frozen=True)
class SheetSize:
    """Pixels of each picture of a stored sheet, and between two."""

    height: int
    width: int
    gap: int


def stored_picture(path: Path, what: str, *, most_pixels: int, blur: SheetSize | None = None) -> Html:
    """Return a picture of the run folder, re-encoded where it is large: the page is to stay small.

    Args:
        path: of the picture.
        what: it shows, for who cannot see it.
        most_pixels: a larger one is reduced to about so many.
        blur: blur the pictures of this size that it is made of; None: show it as it is.

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
    if blur is not None:
        sheet = blurred_sheet(np.asarray(shown), blur.height, blur.width, blur.gap)
        source = jpeg_uri(_reduced(Image.fromarray(sheet), most_pixels), 80)
    elif len(content) <= _SMALL_FILE:
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    else:
        source = jpeg_uri(_reduced(shown, most_pixels), 80)
    return element("img", src=source, alt=what, style=f"aspect-ratio:{ratio}")


def _reduced(shown: Image.Image, most_pixels: int) -> Image.Image:
    scale = min(1.0, (most_pixels / (shown.width * shown.height)) ** 0.5)
    size = max(1, round(shown.width * scale)), max(1, round(shown.height * scale))
    return shown.resize(size, Image.Resampling.LANCZOS)


def jpeg_uri(shown: Image.Image, quality: int) -> str:
    """Return a picture as an address that holds it, without what its file said of it."""
    file = BytesIO()
    shown.save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
