"""The report of a run, or of a sweep, that is there already, written anew."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from raid.config import load
from raid.errors import InputError
from raid.evaluate import RetrievalSet, load_record
from raid.methods.icsr.config import IcsrConfig
from raid.methods.inputs import open_inputs
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import open_mar_inputs
from raid.methods.sections import Data
from raid.methods.slsr.config import SlsrConfig
from raid.report import TrainingSets, write_report, write_sweep_report
from raid.run_folder import RunFolder
from raid.sweep_folder import SweepFolder

logger = logging.getLogger(__name__)
T = TypeVar("T")
Pictures = tuple[RetrievalSet | None, TrainingSets | None]

# Sections that may be overridden, for images that have moved.
_IMAGES = {"icsr": ("data",), "mar": ("data", "source"), "slsr": ("data",)}


def rewrite_report(path: Path, overrides: Sequence[str] = (), *, blur: bool = False) -> Path:
    """Write the report of the run, or of the sweep, in `path` from its records; return the page's path.

    Images that cannot be opened, or that are not those of the run, are a warning, and a page without
    pictures: a run outlives its images where these must be deleted.

    Args:
        path: folder of a run or a sweep.
        overrides: `a.b=c` texts that go before the run's configuration, for images that have moved; none of
            a sweep.
        blur: show every picture blurred; the page of a sweep has none.

    Raises:
        InputError: there is no such folder, it holds no run, no epoch of it has been recorded (or no trial
            of it has begun), or an override is not of the sections that say where the images are.
    """
    sweep = SweepFolder(path)
    if sweep.record.exists():
        if overrides:
            raise InputError(
                f"{overrides[0]}: the report of a sweep shows no images, and takes no fields; leave it out "
                f"(the report of one trial takes them: raid report {sweep.path / 'trials' / 'NNN'} a.b=c)"
            )
        return write_sweep_report(sweep)
    folder = RunFolder(path)
    recorded = folder.recorded()
    sections = _IMAGES.get(recorded["method"], ())
    for text in overrides:
        if not text.startswith(tuple(f"{name}." for name in sections)):
            raise InputError(
                f"{text}: a report takes fields of section {' and '.join(sections)} alone; the rest is done"
            )
    return write_report(folder, *_pictures(folder, recorded, overrides), blur=blur)


def _pictures(folder: RunFolder, recorded: dict[str, Any], overrides: Sequence[str]) -> Pictures:
    """Load the configuration that a method's run was made with, and open the images that its page shows.

    Raises:
        InputError: the configuration is not one of the method's.
    """
    fingerprint = recorded["data"]
    match recorded["method"]:
        case "icsr":
            config = load(IcsrConfig, folder.config, overrides)
            of_images = fingerprint if isinstance(fingerprint, str) else fingerprint["data.root"]
            return _lists(folder, config.data, of_images), None
        case "mar":
            of_mar = load(MarConfig, folder.config, overrides)
            if not (_shows_lists(folder) or folder.mining() or folder.multilabels.exists()):
                return None, None
            return _or_warned(partial(_of_both_sets, of_mar, fingerprint)) or (None, None)
        case "slsr":
            of_slsr = load(SlsrConfig, folder.config, overrides)
            return _lists(folder, of_slsr.data, fingerprint["data.root"]), None
    return None, None


def _lists(folder: RunFolder, data: Data, fingerprint: str) -> RetrievalSet | None:
    """Open query and gallery where the page shows ranked lists."""
    if not _shows_lists(folder):
        return None
    return _or_warned(partial(_retrieval, data, fingerprint))


def _shows_lists(folder: RunFolder) -> bool:
    return folder.evaluation.exists() and "shown_rows" in load_record(folder.evaluation)


def _or_warned(opened: Callable[[], T]) -> T | None:
    """Return what is opened; None with a warning where it cannot be."""
    try:
        return opened()
    except (InputError, OSError) as error:
        logger.warning("the report is without pictures: %s", error)
        return None


def _retrieval(data: Data, fingerprint: str) -> RetrievalSet | None:
    """Open query and gallery; only the few images that are shown are decoded, and no cache is left."""
    inputs = open_inputs(replace(data, cache_limit_gib=0.0))
    if inputs.fingerprint != fingerprint:
        raise InputError(f"data.root: {data.root}: not the images that the run was made with")
    return inputs.retrieval


def _of_both_sets(config: MarConfig, fingerprint: dict[str, str]) -> Pictures:
    """Open query, gallery and what MAR trained on, without a cache as well."""
    inputs = open_mar_inputs(replace(config, data=replace(config.data, cache_limit_gib=0.0)))
    if inputs.fingerprint(config) != fingerprint:
        raise InputError(
            f"data.root, source.root: {config.data.root}, {config.source.root}: not the images (or "
            "pretraining.checkpoint: not the file) that the run was made with"
        )
    return inputs.target.retrieval, inputs.shown
