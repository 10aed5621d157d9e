"""The report of a run that is there already, written anew."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raid.config import load
from raid.errors import InputError
from raid.evaluate import RetrievalSet, load_record
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import open_inputs
from raid.report import write_report
from raid.run_folder import RunFolder

logger = logging.getLogger(__name__)


def rewrite_report(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Write the report of the run in `path` from its records; return the page's path.

    Images that cannot be opened, or that are not those of the run, are a warning, and a page without
    pictures: a run outlives its images where these must be deleted.

    Args:
        path: folder of a run.
        overrides: `a.b=c` texts that go before the run's configuration, for images that have moved.

    Raises:
        InputError: there is no such folder, it holds no run, no epoch of it has been recorded, or an
            override is not of section `data`.
    """
    for text in overrides:
        if not text.startswith("data."):
            raise InputError(f"{text}: a report takes fields of section data alone; the rest is done")
    folder = RunFolder(path)
    recorded = folder.recorded()
    config = load(IcsrConfig, folder.config, overrides)
    retrieval = None
    if folder.evaluation.exists() and "shown_rows" in load_record(folder.evaluation):
        try:
            retrieval = _retrieval(config, recorded["data"])
        except InputError as error:
            logger.warning("the report is without pictures: %s", error)
    return write_report(folder, retrieval)


def _retrieval(config: IcsrConfig, fingerprint: str) -> RetrievalSet | None:
    """Open query and gallery; only the few images that are shown are decoded, and no cache is left."""
    inputs = open_inputs(replace(config.data, cache_limit_gib=0.0))
    if inputs.fingerprint != fingerprint:
        raise InputError(f"data.root: {config.data.root}: not the images that the run was made with")
    return inputs.retrieval
