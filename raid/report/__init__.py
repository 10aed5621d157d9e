"""A run, or a sweep, as one page: a file that needs no network, no other file, and no script to be read."""

from collections.abc import Callable, Iterator
from pathlib import Path

from raid.evaluate import RetrievalSet
from raid.report import (
    clusters,
    finetuning,
    generators,
    image_clusters,
    mining,
    outcome,
    pairs,
    records,
    training,
)
from raid.report.document import document, write_page
from raid.report.header import header, title
from raid.report.markup import Html
from raid.report.pictures import TrainingSets
from raid.report.run import Run
from raid.report.sweep import write_sweep_report
from raid.run_folder import RunFolder

__all__ = ["TrainingSets", "write_report", "write_sweep_report"]

_FOOTER = (
    "Written by raid. This page may hold pictures of people: it is kept and deleted as they are. A rank "
    "is not an identification."
)
_Section = tuple[str, str, Callable[[Run], Iterator[Html]]]
_ALARMS: _Section = ("alarms", "Alarms", training.alarms)
_OUTCOME: tuple[_Section, ...] = (
    ("cameras", "Cameras", outcome.cameras),
    ("lists", "Ranked lists", outcome.lists),
    ("times", "Time", records.times),
    ("figures", "All figures", records.figures),
    ("configuration", "Configuration", records.configuration),
)
_ICSR: tuple[_Section, ...] = (
    _ALARMS,
    ("labels", "Labels", clusters.labels),
    ("clusters", "Clusters", clusters.clusters),
    ("fit", "Loss and retrieval", training.fit),
    *_OUTCOME,
)
_MAR: tuple[_Section, ...] = (
    _ALARMS,
    ("pretraining", "Pretraining", mining.pretraining),
    ("losses", "Losses and retrieval", mining.losses),
    ("mining", "Mining", mining.mining),
    ("agents", "Reference agents", pairs.agents),
    ("pairs", "Mined pairs", pairs.pairs),
    *_OUTCOME,
)
_SLSR: tuple[_Section, ...] = (
    _ALARMS,
    ("baseline", "Baseline", finetuning.baseline),
    ("clusters", "Clusters", image_clusters.clusters),
    ("generators", "Generators", generators.generators),
    ("generated", "Generated images", generators.images),
    ("finetuning", "Fine-tuning", finetuning.finetuning),
    *_OUTCOME,
)
_SECTIONS = {"icsr": _ICSR, "mar": _MAR, "slsr": _SLSR}


def write_report(
    folder: RunFolder,
    retrieval: RetrievalSet | None,
    training: TrainingSets | None = None,
    *,
    blur: bool = False,
) -> Path:
    """Write `report.html` of what a run has recorded up to here, and return its path.

    The same files give the same page, byte for byte.

    Args:
        folder: of a run, finished or not, with at least one epoch.
        retrieval: the query and gallery that it was evaluated on, for the pictures; None: without.
        training: the sets that MAR was trained on, for the pictures; None: without.
        blur: show every picture blurred, as a run with run.blur does anyway.

    Raises:
        InputError: the folder holds no run or no epoch, a record in it is damaged, or the page cannot be
            written.
    """
    run = Run.read(folder, retrieval, training, blur=blur)
    sections = [(anchor, name, content(run)) for anchor, name, content in _SECTIONS[run.method]]
    return write_page(folder.report, document(title(run), header(run), sections, _FOOTER))
