"""What is wrong, or worth knowing, with an image set whose files have been inspected."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from raid.data.inspection import Inspection

Severity = Literal["error", "warning", "info"]
Found = Iterator[tuple[str, str]]  # name of the kind, example

EXAMPLES = 1000  # kept of a finding
TEST = ("query", "gallery")


class Row(NamedTuple):
    """An image: what the set says of it, and what its file is like."""

    path: str
    identity: int | None  # None: unlabelled; -1: junk
    camera: int | None
    split: str
    content: str  # hash that the manifest has; empty: there is no manifest
    file: Inspection


@dataclass(frozen=True)
class Kind:
    """What a finding means and what to do about it."""

    severity: Severity
    meaning: str
    advice: str  # empty: nothing


@dataclass(frozen=True)
class Finding:
    """How often something was found, with up to EXAMPLES of it."""

    name: str  # a key of KINDS
    count: int
    examples: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """What it means."""
        return KINDS[self.name]


_LEAVE_OUT = "mend them, or leave them out with data.on_error=skip"
KINDS = {
    "unreadable": Kind("error", "files that cannot be read as images", _LEAVE_OUT),
    "empty": Kind("error", "files of zero bytes", _LEAVE_OUT),
    "truncated": Kind(
        "error",
        "images that cannot be decoded to the end, cut off or damaged",
        "copy them anew; " + _LEAVE_OUT,
    ),
    "changed": Kind("error", "files with another content than the manifest says", "make the manifest anew"),
    "label_conflict": Kind(
        "error", "pictures that are filed under two identities or more", "find out who it is; keep one file"
    ),
    "query_gallery_overlap": Kind(
        "error", "pictures that are both query and gallery", "take them out of one: they find themselves"
    ),
    "train_test_identities": Kind(
        "error",
        "identities both in train and in query or gallery",
        "number train and test apart, or move the images: the figures would be those of known identities",
    ),
    "train_test_duplicates": Kind(
        "warning", "pictures both in train and in query or gallery", "take them out of train"
    ),
    "duplicates": Kind("warning", "pictures that are in a split more than once", "keep one of each"),
    "wrong_suffix": Kind(
        "warning", "files whose suffix is another format's", "rename them; raid goes by content"
    ),
    "no_match": Kind(
        "warning",
        "queries without an image of their identity in the gallery (at another camera)",
        "nothing, when few: the evaluation passes over them",
    ),
    "one_camera_train": Kind(
        "warning",
        "identities of train seen by one camera only",
        "expect nothing to be learnt across cameras from them",
    ),
    "single_camera": Kind(
        "warning", "a set seen by one camera only", "capture the camera, or use refine.enabled=false"
    ),
    "some_cameras": Kind(
        "warning", "images without a camera, beside others with one", "mend the pattern or the table"
    ),
    "grey_coded": Kind(
        "warning",
        "images with three equal channels",
        "nothing, where cameras see at night; else find the colours",
    ),
    "grey_saved": Kind(
        "warning",
        "images saved without colours",
        "nothing, where cameras see at night; else find the colours",
    ),
    "no_cameras": Kind(
        "info", "images without a camera: none has one", "for ICSR, capture it; the baseline needs none"
    ),
    "unlabelled": Kind("info", "images of train without an identity", "nothing: training needs none"),
    "one_camera_query": Kind("info", "identities of query seen by one camera only", ""),
    "one_camera_gallery": Kind("info", "identities of gallery seen by one camera only", ""),
    "rotated": Kind(
        "info", "images that their EXIF orientation turns", "nothing: raid turns them; other programs may not"
    ),
    "transparent": Kind("info", "images with transparency", "nothing: raid puts them over black"),
    "palette": Kind("info", "images with a palette", "nothing: raid converts them"),
    "cmyk": Kind("info", "images in CMYK", "nothing: raid converts them, without a colour profile"),
    "sixteen_bit": Kind(
        "info", "grey images of 16 bits", "see that they use all 16: raid keeps the high byte"
    ),
    "more_frames": Kind("info", "files of several frames", "nothing, if the first is meant"),
}
"""Every kind of finding, worst first."""


def find(rows: Sequence[Row]) -> list[Finding]:
    """Return what is found in a set, worst first."""
    examples: dict[str, list[str]] = {name: [] for name in KINDS}
    counts = dict.fromkeys(KINDS, 0)
    for part in (_files, _contents, _identities, _cameras):
        for name, example in part(rows):
            counts[name] += 1
            if counts[name] <= EXAMPLES:
                examples[name].append(example)
    return [Finding(name, counts[name], tuple(examples[name])) for name in KINDS if counts[name]]


def _files(rows: Sequence[Row]) -> Found:
    for path, *_, content, file in rows:
        if file.fault is not None:
            yield file.fault, f"{path}: {file.reason}"
            continue
        if content not in ("", file.content):
            yield "changed", path
        if file.wrong_suffix:
            yield "wrong_suffix", f"{path} is {file.format}"
        if file.grey is not None:
            yield f"grey_{file.grey}", path
        for name, holds in (
            ("rotated", file.rotated),
            ("transparent", file.transparent),
            ("palette", file.mode in ("P", "PA")),
            ("cmyk", file.mode == "CMYK"),
            ("sixteen_bit", file.mode.startswith("I")),
            ("more_frames", file.frames),
        ):
            if holds:
                yield name, path


def _contents(rows: Sequence[Row]) -> Found:
    """Compare the images of equal bytes."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.file.fault is None:
            groups[row.file.content].append(row)
    for group in groups.values():
        if len(group) == 1:
            continue
        equal = " = ".join(row.path for row in group[:3]) + (" = ..." if len(group) > 3 else "")
        identities = {row.identity for row in group} - {None, -1}
        if len(identities) > 1:
            yield "label_conflict", f"{equal} ({len(identities)} identities)"
        splits = [row.split for row in group]
        if {"query", "gallery"} <= set(splits):
            yield "query_gallery_overlap", equal
        if "train" in splits and not set(splits).isdisjoint(TEST):
            yield "train_test_duplicates", equal
        if len(set(splits)) < len(splits):
            yield "duplicates", equal


def _identities(rows: Sequence[Row]) -> Found:
    of: dict[str, dict[int, list[Row]]] = {
        split: defaultdict(list) for split in ("train", *TEST, "multi_query")
    }
    for row in rows:
        if row.identity is not None and row.identity >= 0:
            of[row.split][row.identity].append(row)
        elif row.identity is None and row.split == "train":
            yield "unlabelled", row.path
    for identity, (first, *_) in sorted(of["train"].items()):
        others = [of[split][identity][0] for split in TEST if identity in of[split]]
        if others:
            yield "train_test_identities", f"identity {identity}: {first.path} and {others[0].path}"
    for split in ("train", *TEST):
        for identity, group in sorted(of[split].items()):
            cameras = {row.camera for row in group}
            if len(cameras) == 1 and None not in cameras:
                yield f"one_camera_{split}", f"identity {identity}: {group[0].path}"
    yield from _queries(rows, of["gallery"])


def _queries(rows: Sequence[Row], gallery: dict[int, list[Row]]) -> Found:
    test = [row for row in rows if row.split in TEST]
    with_cameras = all(row.camera is not None for row in test)
    cameras = {identity: {row.camera for row in group} for identity, group in gallery.items()}
    for row in test:
        seen = cameras.get(-1 if row.identity is None else row.identity, set())
        if row.split == "query" and not (seen - {row.camera} if with_cameras else seen):
            yield "no_match", row.path


def _cameras(rows: Sequence[Row]) -> Found:
    without = [row.path for row in rows if row.camera is None]
    for path in without:
        yield "no_cameras" if len(without) == len(rows) else "some_cameras", path
    if not without and len({row.camera for row in rows}) == 1:
        yield "single_camera", f"all {len(rows)} images"
