"""Which cells of the papers' tables a run belongs into, and what it came to there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import raid
from raid.errors import InputError
from raid.methods.papers.filling import TABLES, Filled, LeftOut, Measured
from raid.methods.papers.runs import Differences, TableRun, Wanted
from raid.methods.papers.tables import SEED, Cell

_NUM_FIELDS = 6


def fill(paths: Sequence[Path], jobs: Path | None = None) -> Filled:
    """Read runs, and put each into the cells whose configuration and set it has.

    Args:
        paths: run folders; what is no run, or has not ended, is left out with the reason.
        jobs: folder of the run files; None: that of raid's sources, or else the working directory's.

    Raises:
        InputError: there is no such path, or no such folder of run files.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: there is no such folder")
    left_out = [LeftOut(path, "is no folder") for path in paths if not path.is_dir()]
    runs = []
    for path in filter(Path.is_dir, paths):
        try:
            runs.append(TableRun.read(path))
        except InputError as error:
            left_out.append(LeftOut(path, str(error).removeprefix(f"{path}: ")))
    places: dict[Cell, list[TableRun]] = {}
    wanted = list(_wanted({run.method for run in runs}, _jobs(jobs))) if runs else []
    for run in runs:
        left_out += _placed(run, wanted, places)
    measured = {cell: _measured(cell, found) for cell, found in places.items()}
    return Filled(measured, left_out)


def _wanted(methods: set[str], jobs: Path) -> Iterator[tuple[str, Wanted]]:
    """Yield every cell of some methods with its name."""
    for table in TABLES:
        for cell in table.cells:
            if cell.job.method in methods:
                yield f"{table.name}, {cell.block}, {cell.row}", Wanted.of(cell, jobs)


def _placed(
    run: TableRun, wanted: Sequence[tuple[str, Wanted]], places: dict[Cell, list[TableRun]]
) -> Iterator[LeftOut]:
    """Put a run into its places; yield why it is not in one that it could have."""
    found = [
        (name, each, each.differences(run)) for name, each in wanted if each.cell.job.method == run.method
    ]
    if all(differences for _, _, differences in found):
        yield LeftOut(run.path, _nearest(run, found))
        return
    reasons: dict[str, list[str]] = {}
    for name, each, differences in found:
        others = places.get(each.cell, [])
        reason = _in_words(differences) or _refusal(each.cell, run, others)
        if not reason:
            places[each.cell] = [*others, run]
        elif all(key.startswith("evaluate.") for key in differences):
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield LeftOut(run.path, f"{reason} ({'; '.join(names)})")


def _refusal(cell: Cell, run: TableRun, others: Sequence[TableRun]) -> str:
    """Return why a run that fits a cell is not counted there; nothing where it is."""
    try:
        run.figures(cell)
    except InputError as error:
        return str(error)
    for other in others:
        same = [key for key in cell.varying if run.fields[key] == other.fields[key]]
        if len(same) == len(cell.varying):
            return f"has configuration and seed of {other.path}, which is counted"
        if {SEED, *same} == set(cell.varying) and run.images != other.images:
            return f"is of other images than {other.path}, which is counted: their fingerprints differ"
    return ""


def _nearest(run: TableRun, found: Sequence[tuple[str, Wanted, Differences]]) -> str:
    """Return the cell that a run differs from in the fewest things, and in which."""
    if all("set" in differences for _, _, differences in found):
        known = (
            f"the set {run.facts['set']}" if "set" in run.facts else "a set that its run.json does not name"
        )
        return f"is of {known}, which no table of {run.method.upper()} has"
    name, nearest, differing = min(found, key=lambda each: len(each[2]))
    return f"nearest is {name} (jobs/{nearest.cell.job.file}): {_in_words(differing)}"


def _in_words(differences: Differences) -> str:
    pairs = list(differences.items())
    shown = [f"{key} is {value}, there {wanted}" for key, (value, wanted) in pairs[:_NUM_FIELDS]]
    more = [f"and {len(pairs) - _NUM_FIELDS} more"] if len(pairs) > _NUM_FIELDS else []
    return "; ".join([*shown, *more])


def _measured(cell: Cell, runs: Sequence[TableRun]) -> Measured:
    varying = {run: {key: run.fields[key] for key in cell.varying} for run in runs}
    ordered = sorted(runs, key=lambda run: tuple(varying[run].values()))
    each = [run.figures(cell) for run in ordered]
    figures = {label: np.array([of[label] for of in each]) for label in cell.figures}
    return Measured(tuple((run.path, varying[run]) for run in ordered), figures)


def _jobs(given: Path | None) -> Path:
    """Return the folder of the run files."""
    own = Path(raid.__file__).parents[1] / "jobs"
    known = TABLES[0].cells[0].job.file
    folder = given or (own if (own / known).is_file() else Path("jobs"))
    if not (folder / known).is_file():
        raise InputError(
            f"{folder}: holds no run files of the tables ({known}); give jobs/ of raid's sources by --jobs"
        )
    return folder
