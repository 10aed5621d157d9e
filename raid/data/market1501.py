"""Market-1501 (Zheng et al., ICCV 2015; methods.md 1.1), with its multi-queries and its 500,000 distractors.

Folders as in `raid.data.bounding_boxes`. Identity 0 (0000) is nobody's picture, a negative of every query;
-1 is junk, which a ranking drops.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from raid.data import counts
from raid.data.bounding_boxes import (
    find_base,
    image_names,
    numbered_cameras,
    parse_name,
    read_folder,
    read_splits,
)
from raid.data.render import SETTINGS_FILE
from raid.data.samples import OnError, Record, Samples

ARCHIVE = "Market-1501-v15.09.15"
SET = "Market-1501"
MULTI_QUERY_FOLDER, DISTRACTORS_FOLDER = "gt_bbox", "images"
UNKNOWN_CAMERA = "unknown"


def load(
    root: Path, *, multi_query: bool = False, distractors: bool = False, on_error: OnError = "fail"
) -> Samples:
    """Read a set in Market-1501's layout.

    Identity -1 (junk) stays in the gallery as -1, for a ranking to drop, and is left out of the training
    images; 0000 (distractors) is identity 0. Cameras become 0-based.

    Args:
        root: the folder that holds bounding_box_train, or its parent as unpacked.
        multi_query: read gt_bbox too: the pictures of a query's person by the query's camera.
        distractors: read the 500,000 pictures of `images` into the gallery, whatever they are called, as
            identity 0. Where a name says no camera of the set, the picture gets a camera of its own, which
            is called unknown: that no query was taken by it is known, and the same-camera rule stays.
        on_error: an unreadable image stops, or is left out with a count.

    Raises:
        InputError: a folder is missing or empty, or a name is not `IDENTITY_cCAMERA...jpg`.
    """
    base = find_base(root, ARCHIVE)
    records = read_splits(base)
    camera_names = list(numbered_cameras(records))
    if multi_query:
        records += _multi_query(base, records)
    if distractors:
        records += _distractors(base, camera_names)
    rendered = (base / SETTINGS_FILE).exists()  # by `raid data synth`, which has counts of its own
    samples = Samples.scan(
        base,
        records,
        name="market1501",
        on_error=on_error,
        camera_names=camera_names,
        facts={"set": "rendered" if rendered else SET, "protocol": "standard"},
    )
    if not rendered:
        own = [not path.startswith(f"{DISTRACTORS_FOLDER}/") for path in samples.paths]
        counts.warn_of_differences(samples.take(np.flatnonzero(own)), counts.MARKET1501)
    return samples


def _multi_query(base: Path, records: Sequence[Record]) -> list[Record]:
    found = list(read_folder(base, MULTI_QUERY_FOLDER, "multi_query"))
    identities = {record.identity for record in found}
    for what, number, published in (
        (f"images in {MULTI_QUERY_FOLDER}", len(found), 25_259),
        (f"identities in {MULTI_QUERY_FOLDER}", len(identities), 1_501),
    ):
        counts.warn_unless_equal(base, SET, what, number, published)
    queries = {(record.identity, record.camera) for record in records if record.split == "query"}
    return [record for record in found if (record.identity, record.camera) in queries]


def _distractors(base: Path, camera_names: list[str]) -> Iterator[Record]:
    """Yield the distractors; a camera for those without one is added to `camera_names`."""
    known = len(camera_names)
    for name in image_names(base, DISTRACTORS_FOLDER, "distractor"):
        _, camera = parse_name(name) or (0, known)
        if camera >= known:
            camera = known
            camera_names[known:] = [UNKNOWN_CAMERA]
        yield Record(f"{DISTRACTORS_FOLDER}/{name}", 0, camera, "gallery")
