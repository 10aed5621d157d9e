"""`raid data import-mot`: crops out of what a tracker wrote."""

import argparse
import math
from pathlib import Path

from raid.commands.arguments import Commands, positive
from raid.files import writing

MOST_CAMERAS = 10_000


def add_import_mot(data: Commands) -> None:
    """Add `raid data import-mot`."""
    parser = data.add_parser(
        "import-mot",
        help="cut the boxes of a tracker (MOT format) out of a video's frames, and write their manifest",
        description="Write a crop of every box to OUT, and OUT/manifest.parquet. A SEQUENCE is a folder with "
        "the frames (img1/000001.jpg, ...) and the boxes (gt/gt.txt or det/det.txt: "
        "frame,id,left,top,width,height,confidence,x,y,z); seqinfo.ini may say where the frames are. Every "
        "sequence is a camera. The ids of one are its identities, those of several are numbered anew. Boxes "
        "that a ground truth marks as not to be considered are left out, unless --min-confidence is given.",
    )
    parser.add_argument("sequences", nargs="+", type=Path, metavar="SEQUENCE", help="folder of a sequence")
    parser.add_argument("out", type=Path, metavar="OUT", help="the new folder")
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE", help="in the sequence's folder, or anywhere for one sequence"
    )
    parser.add_argument(
        "--frames", type=Path, metavar="FOLDER", help="in the sequence's folder, or anywhere for one sequence"
    )
    parser.add_argument(
        "--camera", type=_camera, default=0, metavar="N", help="of the first sequence, from 0 (0)"
    )
    parser.add_argument(
        "--every", type=positive, default=1, metavar="K", help="frames 1, 1 + K, 1 + 2K, ... alone (1)"
    )
    parser.add_argument(
        "--min-height", type=positive, default=1, metavar="PIXELS", help="of what is in the frame (1)"
    )
    parser.add_argument("--min-confidence", type=_finite, metavar="C", help="of the box (any)")
    parser.add_argument("--min-visibility", type=_finite, metavar="V", help="0 to 1, of a ground truth (any)")
    parser.add_argument(
        "--classes", type=_classes, default=frozenset(), metavar="A,B", help="of a ground truth"
    )
    parser.add_argument(
        "--format", choices=["jpeg", "png"], default="jpeg", help="of the crops; png keeps every bit (jpeg)"
    )
    parser.add_argument("--quality", type=_quality, default=95, metavar="N", help="of a JPEG, 1 to 100 (95)")
    parser.set_defaults(run=_import_mot)


def _import_mot(options: argparse.Namespace) -> None:
    from raid import log
    from raid.data.mot import Wanted
    from raid.data.mot_crops import Form, import_mot

    log.configure()
    wanted = Wanted(
        every=options.every,
        min_height=options.min_height,
        min_confidence=options.min_confidence,
        min_visibility=options.min_visibility,
        classes=options.classes,
    )
    with writing(options.out):
        imported = import_mot(
            options.sequences,
            options.out,
            wanted,
            boxes=options.boxes,
            frames=options.frames,
            camera=options.camera,
            form=Form(kind=options.format, quality=options.quality),
        )
    print(imported)


def _camera(text: str) -> int:
    return _whole(text, 0, MOST_CAMERAS)


def _quality(text: str) -> int:
    return _whole(text, 1, 100)


def _classes(text: str) -> frozenset[int]:
    return frozenset(_whole(part, 0, 10_000) for part in text.split(","))


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)
