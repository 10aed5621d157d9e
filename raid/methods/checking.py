"""Which set `raid data check` is asked to look at."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from raid.config import load
from raid.data.check import Report, check
from raid.data.samples import NUM_THREADS
from raid.methods.inputs import load_samples
from raid.methods.sections import Data

_OF_SUFFIX = {".parquet": "manifest", ".csv": "table"}
# What tells a layout: a path below the root, the layout that reads it, the version that it is.
_MARKS: tuple[tuple[str, str | None, str | None], ...] = (
    ("mask_train_v2", None, "MSMT17 V2"),
    ("list_train.txt", None, "MSMT17 V1"),
    ("bounding_box_train/*_c15_*", "market1501", "MSMT17 repacked"),
    ("bounding_box_train", "market1501", None),
    ("Market-1501-v15.09.15/bounding_box_train", "market1501", None),
)


def check_set(arguments: Sequence[str], *, num_threads: int | None = None) -> Report:
    """Check the set that the command line names.

    Args:
        arguments: a path, fields of section data (`a=b`), or a path and fields.
        num_threads: files read at a time; None: as many as elsewhere.

    Raises:
        InputError: nothing is there, or it is not of the layout.
    """
    data, found = _data(arguments)
    # A value that no run may have: the loaders only list the files, for the check to read each once.
    samples = load_samples(replace(data, on_error=cast(Any, "unread")))
    report = check(samples, num_threads=num_threads or NUM_THREADS)
    return replace(report, facts={**found, **report.facts})


def _data(arguments: Sequence[str]) -> tuple[Data, dict[str, str]]:
    """Return the section, and what the paths alone tell of the set."""
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
    layout, version = _recognised(path)
    found = {"layout": layout or "not recognised: all images below the folder, no identities, no cameras"}
    fields += [f"layout={layout}"] if layout else ["layout=folder", "pattern=."]  # which every path has
    return load(Data, overrides=fields), found | ({"version": version} if version else {})


def _recognised(path: Path) -> tuple[str | None, str | None]:
    """Return the layout and the version of what is at `path`, None where they cannot be told."""
    if not path.is_dir():
        return _OF_SUFFIX.get(path.suffix.lower(), "manifest"), None
    for mark, layout, version in _MARKS:
        if next(path.glob(mark), None) is not None:
            return layout, version
    return None, None
