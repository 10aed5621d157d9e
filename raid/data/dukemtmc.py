"""DukeMTMC-reID (Zheng et al., ICCV 2017; methods.md 1.1), which its makers withdrew in 2019.

It is read for those who must check numbers that were published with it. Folders as in
`raid.data.bounding_boxes`; there is no junk, and identities of the gallery that no query has are distractors.
"""

import logging
from pathlib import Path

from raid.data import counts
from raid.data.bounding_boxes import find_base, numbered_cameras, read_splits
from raid.data.samples import OnError, Samples

logger = logging.getLogger(__name__)

ARCHIVE = "DukeMTMC-reID"


def load(root: Path, *, on_error: OnError = "fail") -> Samples:
    """Read DukeMTMC-reID, and warn that it must not be used.

    Args:
        root: the folder that holds bounding_box_train, or its parent as unpacked.
        on_error: an unreadable image stops, or is left out with a count.

    Raises:
        InputError: a folder is missing or empty, or a name is not `IDENTITY_cCAMERA...jpg`.
    """
    base = find_base(root, ARCHIVE)
    logger.warning(
        "%s: DukeMTMC-reID was withdrawn by its authors in 2019, for want of the consent of those in it: it "
        "must not be used; train on another set",
        base,
    )
    records = read_splits(base)
    samples = Samples.scan(
        base,
        records,
        name="dukemtmc",
        on_error=on_error,
        camera_names=numbered_cameras(records),
        facts={"set": "DukeMTMC-reID", "protocol": "standard"},
    )
    counts.warn_of_differences(samples, counts.DUKEMTMC)
    return samples
