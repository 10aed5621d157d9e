"""What a sweep will do, from what its user says: every trial that is known is checked before the first."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeAlias

from raid.config import loads, parse_overrides
from raid.errors import InputError
from raid.methods import known
from raid.methods.known import MethodConfig
from raid.methods.sweeps.definition import Sweep
from raid.methods.sweeps.points import Point, chosen, drawn, grid, legal
from raid.methods.sweeps.trial import Base
from raid.sweep_folder import SweepFolder, SweepRecord

Planned: TypeAlias = dict[int, tuple[Point, int]]  # point and seed by the trial's number
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user of a script says.

    Attributes:
        file: the run file.
        overrides: `a.b=c` texts.
        objective: by name.
        search: how points are chosen.
        scheduler: what stops trials early.
        num_samples: points of random and optuna.
        max_concurrent: trials at a time; None: as many as there is room for.
        num_seeds: of the training, from `seed` on.
        axes: names of the axes that are searched; None: all.
        values: lists in place of an axis' own, by name.
        grace: epochs before ASHA may stop a trial; None: a ninth.
        demo: render the people of the method's demonstration first.
        how: begin a sweep, go on with the one in the folder, or start it over.
    """

    file: Path
    overrides: tuple[str, ...]
    objective: str
    search: Literal["grid", "random", "optuna"]
    scheduler: Literal["none", "asha"]
    num_samples: int
    max_concurrent: int | None
    num_seeds: int
    axes: tuple[str, ...] | None
    values: Mapping[str, Any]
    grace: int | None
    demo: bool
    how: Literal["begin", "resume", "fresh"]


def planned(sweep: Sweep, options: Options) -> tuple[Base, MethodConfig, Planned]:
    """Return what all trials have in common, the run file's own configuration, and the trials.

    Of Optuna's, which are drawn as the search goes on, there are none yet.

    Raises:
        InputError: something of it cannot be run.
    """
    overrides = parse_overrides(options.overrides)
    axes = chosen(sweep.axes, options.axes, options.values, overrides)
    text = _text(options.file)
    config = loads(known.config_of(sweep.method), text, str(options.file), overrides)
    if options.search == "optuna" and find_spec("optuna") is None:
        raise InputError("--search optuna: is not installed; pip install optuna, or search otherwise")
    if options.search == "optuna" and options.num_seeds > 1:
        raise InputError("--seeds: optuna learns from one value of a point; use one seed, or --search random")
    record = SweepRecord(
        name=sweep.name,
        method=sweep.method,
        file=str(options.file),
        overrides=options.overrides,
        axes=axes,
        objective=sweep.objective(options.objective),
        search=options.search,
        scheduler=options.scheduler,
        num_samples=0 if options.search == "grid" else options.num_samples,
        seeds=tuple(range(config.seed, config.seed + options.num_seeds)),
        seed=config.seed,
    )
    folder = SweepFolder(config.run.folder.absolute())
    absolute = {"run.folder": str(folder.path), "data.cache_folder": str(config.data.cache_folder.absolute())}
    base = Base(folder, record, text, {**overrides, **absolute}, shares=1)
    trials = dict(enumerate(product(_points(base, options), record.seeds)))
    counted = replace(record, num_trials=len(trials) or record.num_samples)
    return replace(base, record=counted), config, trials


def every_point(base: Base, trials: Planned, paths: Collection[str]) -> Iterator[tuple[Point, int]]:
    """Yield points and seeds among which are all that differ in what trials share.

    Args:
        base: of the trials.
        trials: those that are known. Of Optuna's none is: then all combinations of the values at `paths`, and
            the values of every other axis one after the other.
        paths: whose values tell what is shared apart.
    """
    if trials:
        yield from trials.values()
        return
    axes = base.record.axes
    first = {axis.path: axis.values[0] for axis in axes}
    for point in grid([axis for axis in axes if axis.path in paths]):
        yield {**first, **point}, base.record.seeds[0]
        for axis in axes:
            for value in axis.values[1:] if axis.path not in paths else ():
                yield {**first, **point, axis.path: value}, base.record.seeds[0]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot read this configuration file: {error}") from error


def _check(base: Base) -> Any:
    def check(point: Point) -> None:
        base.config(point, base.record.seeds[0])

    return check


def _points(base: Base, options: Options) -> list[Point]:
    axes, check = base.record.axes, _check(base)
    if options.search == "optuna":  # one that cannot be run fails when it is drawn
        return []
    if options.search == "random":
        points = drawn(axes, options.num_samples, base.record.seed, check)
        if len(points) < options.num_samples:
            logger.warning("--num-samples: there are but %d different points", len(points))
        return points
    points, refused = legal(grid(axes), check)
    if not points:
        raise InputError(refused[0])
    if refused:
        logger.warning("%d points of the grid are left out, for example: %s", len(refused), refused[0])
    return points
