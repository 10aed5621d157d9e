"""Crops of people out of a video's frames, and their manifest."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raid.data.mot import NOBODY, Video, Wanted, read_video
from raid.data.pixels import to_rgb
from raid.data.reading import read_bytes
from raid.data.samples import Record, Samples, progress
from raid.errors import InputError, one_line
from raid.files import atomic_folder

MANIFEST = "manifest.parquet"
IdentityOf = Callable[[int], int | None]


@dataclass(frozen=True, kw_only=True)
class Form:
    """How crops are written.

    Attributes:
        kind: png keeps every bit of a crop, jpeg does not.
        quality: of a JPEG, 1 to 100.
    """

    kind: Literal["jpeg", "png"] = "jpeg"
    quality: int = 95

    @property
    def suffix(self) -> str:
        """Of the files."""
        return ".jpg" if self.kind == "jpeg" else ".png"

    def write(self, crop: Image.Image, file: Path) -> None:
        """Write a crop."""
        if self.kind == "png":
            crop.save(file, "PNG")
        else:
            crop.save(file, "JPEG", quality=self.quality, subsampling=0)


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    samples: Samples
    left_out: Counter[str]

    def __str__(self) -> str:
        known = self.samples.identities
        identities, cameras = np.unique(known[known >= 0]), np.unique(self.samples.cameras)
        lines = [
            f"{self.samples.root}/{MANIFEST}: {len(known):,} crops of {len(identities):,} identities, "
            f"{len(cameras):,} cameras"
        ]
        lines += [f"left out: {count:,} {reason}" for reason, count in sorted(self.left_out.items())]
        return "\n".join(lines)


def import_mot(
    sequences: Sequence[Path],
    out: Path,
    wanted: Wanted,
    *,
    boxes: Path | None = None,
    frames: Path | None = None,
    camera: int = 0,
    form: Form | None = None,
) -> Imported:
    """Write the crops of the boxes of one sequence or several, and their manifest: all of it or nothing.

    Every sequence is a camera. The ids of one sequence are its identities; of several they are numbered
    anew, sequence after sequence: the 7 of one is not the 7 of another. All images are of split train.

    Args:
        sequences: their folders, of different names.
        out: the new folder; an empty one may be there.
        wanted: which boxes.
        boxes: see `read_video`.
        frames: see `read_video`.
        camera: of the first sequence; those behind it follow.
        form: of the crops.

    Raises:
        InputError: a sequence cannot be read, a frame is no picture, no box is left, or `out` is not empty.
        OSError: `out` cannot be written.

    Memory: the boxes (56 bytes each), a record a crop, and one frame.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there and not empty; choose another folder")
    alone = len(sequences) == 1
    videos = [read_video(folder, wanted, boxes, frames, alone=alone) for folder in sequences]
    name, times = Counter(video.name for video in videos).most_common(1)[0]
    if times > 1:
        raise InputError(f"{times} sequences are called {name}; rename their folders")
    left_out = sum((video.boxes.left_out for video in videos), Counter[str]())
    with atomic_folder(out) as temporary:
        records = []
        for number, (video, identity_of) in enumerate(zip(videos, _identities(videos), strict=True)):
            to_record = partial(_record, video, camera + number, identity_of, form or Form())
            records += list(_crops(video, wanted, temporary, form or Form(), to_record, left_out))
        if not records:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            raise InputError(
                f"{', '.join(map(str, sequences))}: no box is left: {reasons or 'there is none'}"
            )
        names = [*map(str, range(camera)), *(video.name for video in videos)]
        samples = Samples.scan(temporary, records, name=out.absolute().name, camera_names=names)
        samples = replace(samples, root=out.absolute())
        samples.write(temporary / MANIFEST)
    return Imported(samples, left_out)


def _identities(videos: Sequence[Video]) -> Iterator[IdentityOf]:
    """Yield, for every sequence, which identity an id is."""
    first = 0
    for video in videos:
        ids = np.unique(video.boxes.rows[:, 2])
        known = ids[ids != NOBODY].astype(np.int64).tolist()
        numbers = {of: of if len(videos) == 1 else first + place for place, of in enumerate(known)}
        first += len(known)
        yield numbers.get


def _record(
    video: Video, camera: int, identity_of: IdentityOf, form: Form, row: NDArray[np.float64]
) -> Record:
    line, frame, of = (int(value) for value in row[:3])
    who = "nobody" if of == NOBODY else f"id{of}"
    return Record(f"{video.name}/{frame:06d}_{who}_{line}{form.suffix}", identity_of(of), camera, "train")


def _crops(
    video: Video,
    wanted: Wanted,
    folder: Path,
    form: Form,
    to_record: Callable[[NDArray[np.float64]], Record],
    left_out: Counter[str],
) -> Iterator[Record]:
    """Write the crops of a sequence, frame by frame; yield their records."""
    (folder / video.name).mkdir()
    numbers = np.unique(video.boxes.rows[:, 1])
    for number, rows in progress(video.boxes.frames(), len(numbers), f"cropping {video.name}"):
        frame = _frame(video.frames[number])
        for row in rows:
            box = _clipped(row[3:], frame.width, frame.height)
            if box is None:
                left_out["outside the frame, or empty"] += 1
            elif box[3] - box[1] < wanted.min_height:
                left_out["below --min-height"] += 1
            else:
                record = to_record(row)
                form.write(frame.crop(box), folder / record.path)
                yield record


def _clipped(box: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return left, top, right, bottom of what of a box (left, top, width, height) is in the frame."""
    corners = np.rint([*box[:2], *(box[:2] + box[2:])])
    left, top, right, bottom = (int(value) for value in corners.clip(0, [width, height, width, height]))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _frame(file: Path) -> Image.Image:
    try:
        with Image.open(BytesIO(read_bytes(file))) as image:
            image.load()
            return to_rgb(image)
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise InputError(f"{file}: {one_line(error)}; mend the frame") from error
