"""Which set `raid data check` is asked to look at."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raid.config import load
from raid.data import cuhk03, dukemtmc, market1501, msmt17, viper
from raid.data.check import Report, check
from raid.data.samples import NUM_THREADS
from raid.methods.inputs import load_samples
from raid.methods.sections import Data

# Folders that a root may hold the set in, as it was unpacked.
_ARCHIVES = (market1501.ARCHIVE, dukemtmc.ARCHIVE, *msmt17.ARCHIVES, cuhk03.RELEASE, viper.ARCHIVE)
_OF_SUFFIX = {".parquet": "manifest", ".csv": "table"}
# What tells a layout: a path below the root or below a folder in it.
_MARKS = (
    ("mask_train_v2", "msmt17"),
    ("list_train.txt", "msmt17"),
    ("bounding_box_train/*_c15_*", "msmt17"),
    ("cuhk-03.mat", "cuhk03"),
    ("cam_a/[0-9]*_[0-9]*.bmp", "viper"),
    ("bounding_box_train/*_c*_f*", "dukemtmc"),
    ("bounding_box_train", "market1501"),
)


def check_set(arguments: Sequence[str], *, num_threads: int | None = None) -> Report:
    """Check the set that the command line names.

    Args:
        arguments: a path, fields of section data (`a=b`), or a path and fields.
        num_threads: files read at a time; None: as many as elsewhere.

    Raises:
        InputError: nothing is there, or it is not of the layout.
    """
    data, found = data_of(arguments)
    samples = load_samples(data, on_error="unread")  # the check reads each file, once
    report = check(samples, num_threads=num_threads or NUM_THREADS)
    return replace(report, facts={**found, **report.facts})


def data_of(arguments: Sequence[str]) -> tuple[Data, dict[str, str]]:
    """Return the section of the set that a command line names, and what the paths alone tell of the set.

    Args:
        arguments: as those of `check_set`.

    Raises:
        InputError: the fields are wrong.
    """
    first, fields = arguments[0], list(arguments)
    if "=" in first and not Path(first).exists():
        data = load(Data, overrides=fields)
        return data, {"layout": data.layout}
    path = Path(first).expanduser()
    fields[0] = f"root={json.dumps(str(path))}"
    if any(field.startswith("pattern=") for field in fields):
        fields.insert(1, "layout=folder")  # unless the fields say another
    if any(field.startswith("layout=") for field in fields):
        data = load(Data, overrides=fields)
        return data, {"layout": data.layout}
    layout = _recognised(path)
    found = {"layout": layout or "not recognised: all images below the folder, no identities, no cameras"}
    fields += [f"layout={layout}"] if layout else ["layout=folder", "pattern=."]  # which every path has
    return load(Data, overrides=fields), found


def _recognised(path: Path) -> str | None:
    """Return the layout of what is at `path`, None where it cannot be told."""
    if not path.is_dir():
        return _OF_SUFFIX.get(path.suffix.lower(), "manifest")
    for mark, layout in _MARKS:
        if any(next((path / archive).glob(mark), None) is not None for archive in ("", *_ARCHIVES)):
            return layout
    return None
