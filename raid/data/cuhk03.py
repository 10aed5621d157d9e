"""CUHK03 (Li et al., CVPR 2014; methods.md 1.1), by either of its protocols.

new       767 people for training, 700 for the test (Zhong et al., CVPR 2017), evaluated as Market-1501
classic   1,367 people and 100, in 20 splits: the 100 people's pictures are queries and gallery at once

Boxes are those of a detector, or drawn by hand (labelled). The pictures stand in cuhk-03.mat and are
extracted once, beside it, with the names that other programs give them too.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import scipy.io

from raid.data import counts, cuhk03_mat
from raid.data.samples import OnError, Record, Samples
from raid.errors import InputError, one_line

Boxes = Literal["detected", "labelled"]
Protocol = Literal["new", "classic"]

RELEASE, MAT = "cuhk03_release", "cuhk-03.mat"
NUM_SPLITS = 20
_KEYS: dict[str, str] = {"detected": "detected", "labelled": "labeled"}  # as the release spells them
_SPLITS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}

_NAME = re.compile(r"\d+_\d+_([12])_\d+\.png", re.ASCII)


def load(
    root: Path,
    *,
    boxes: Boxes = "detected",
    protocol: Protocol = "new",
    split_number: int = 0,
    on_error: OnError = "fail",
) -> Samples:
    """Read CUHK03, extracting its pictures from cuhk-03.mat the first time.

    Cameras are 0 and 1 of each pair. By the classic protocol the test pictures are in split gallery alone,
    and facts has protocol cuhk03_classic: the evaluation takes them as queries too.

    Args:
        root: the folder that holds cuhk-03.mat, or its parent (which holds cuhk03_release).
        boxes: of a detector, or drawn by hand.
        protocol: see the module. The new one needs cuhk03_new_protocol_config_{detected,labeled}.mat, and no
            cuhk-03.mat where images_{detected,labeled} are there.
        split_number: of the classic protocol, 0 to 19.
        on_error: an unreadable or missing image stops, or is left out with a count.

    Raises:
        InputError: a file is missing or is not the release's, or the pictures cannot be extracted.
    """
    assert 0 <= split_number < NUM_SPLITS, split_number
    folders, key = (root, root / RELEASE), _KEYS[boxes]
    mat, images = _first(folders, MAT), _first(folders, f"images_{key}")
    if mat is None and images is None:
        raise InputError(
            f"no {MAT} and no images_{key} {_in(folders)}; set data.root to where cuhk03_release.zip was "
            "unpacked"
        )
    facts = {"set": "CUHK03", "protocol": "standard", "boxes": boxes}
    if protocol == "classic":
        records = _classic(_needed(mat, folders), key, split_number)
        facts |= {"protocol": "cuhk03_classic", "split_number": str(split_number)}
    else:
        records = _new(folders, key)
    if images is None:
        assert mat is not None
        images = mat.parent / f"images_{key}"
        cuhk03_mat.extract(mat, key, images)
    _check_whole(images, records, mat, on_error)
    samples = Samples.scan(
        images.parent, records, name="cuhk03", on_error=on_error, camera_names=("1", "2"), facts=facts
    )
    counts.warn_of_differences(samples, _published(boxes, protocol, split_number))
    return samples


def _needed(mat: Path | None, folders: Iterable[Path]) -> Path:
    if mat is None:
        raise InputError(
            f"no {MAT} {_in(folders)}: the classic protocol's test sets stand in it alone; set data.root to "
            "where cuhk03_release.zip was unpacked, or data.protocol=new"
        )
    return mat


def _classic(mat: Path, key: str, split_number: int) -> list[Record]:
    tested = cuhk03_mat.tested_people(mat, split_number)
    return [
        Record(
            f"images_{key}/{picture.name}",
            picture.identity,
            picture.view,
            "gallery" if picture.of in tested else "train",
        )
        for picture in cuhk03_mat.pictures(mat, key)
    ]


def _new(folders: Iterable[Path], key: str) -> list[Record]:
    name = f"cuhk03_new_protocol_config_{key}.mat"
    config = _first(folders, name)
    if config is None:
        raise InputError(
            f"no {name} {_in(folders)}, which says who is trained on by the new protocol; put it there (from "
            "github.com/zhunzhong07/person-re-ranking, folder CUHK03-NP), or set data.protocol=classic"
        )
    try:
        return _new_records(scipy.io.loadmat(config), key)
    except Exception as error:  # damaged bytes make the reader raise nearly anything
        raise InputError(
            f"{config}: is not the new protocol's file: {one_line(error)}; fetch it again"
        ) from error


def _new_records(mat: Mapping[str, Any], key: str) -> list[Record]:
    """Return the records of all three splits; indices into filelist and labels are from 1."""
    names = [PurePosixPath(str(np.ravel(cell)[0])).name for cell in np.ravel(mat["filelist"])]
    labels = np.ravel(mat["labels"]).astype(np.int64).tolist()
    if len(labels) != len(names):
        raise ValueError(f"it has {len(labels)} labels of {len(names)} names")
    records = []
    for split, indices in _SPLITS.items():
        for place in np.ravel(mat[indices]).astype(np.int64).tolist():
            if not 1 <= place <= len(names):
                raise ValueError(f"{indices} has {place}, and filelist has {len(names)} names")
            name, identity = names[place - 1], labels[place - 1]
            records.append(Record(f"images_{key}/{name}", identity, _view(name), split))
    return records


def _view(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"filelist has {name!r}, which is not PAIR_PERSON_VIEW_PICTURE.png")
    return int(match[1]) - 1


def _check_whole(images: Path, records: Collection[Record], mat: Path | None, on_error: OnError) -> None:
    """Refuse a folder that somebody extracted in part (raid's own are whole)."""
    there = set(os.listdir(images))
    missing = [record.path for record in records if PurePosixPath(record.path).name not in there]
    if missing and on_error == "fail":
        what = "remove it, and it is extracted anew" if mat else f"extract it anew, or put {MAT} beside it"
        raise InputError(
            f"{images}: lacks {len(missing)} of {len(records)} pictures, such as {min(missing)}: it is not "
            f"whole; {what}, or leave them out with data.on_error=skip"
        )


def _published(boxes: Boxes, protocol: Protocol, split_number: int) -> counts.Counts:
    if protocol == "new":
        return counts.CUHK03_NEW[boxes]
    first = boxes == "detected" and split_number == 0
    return counts.CUHK03_CLASSIC_FIRST if first else counts.CUHK03_CLASSIC[boxes]


def _first(folders: Iterable[Path], name: str) -> Path | None:
    """Return the first file or folder of that name."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _in(folders: Iterable[Path]) -> str:
    return f"in {' or '.join(map(str, folders))}"
