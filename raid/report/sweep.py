"""The sweep as one page, in the look of a run's: also in the middle of it."""

from pathlib import Path

from raid.report.document import document, write_page
from raid.report.style import HEAT_STEPS
from raid.report.sweep_coordinates import coordinates
from raid.report.sweep_curves import curves
from raid.report.sweep_effects import effects
from raid.report.sweep_header import best, header, title
from raid.report.sweep_importance import importance, measured
from raid.report.sweep_reading import Sweep
from raid.report.sweep_tables import configuration, points, trials
from raid.sweep_folder import SweepFolder

_FOOTER = "Written by raid. What was selected among many is better by chance too: train it again to know."
# Lines answer the pointer within a few pixels, and then stand out.
_RULES = """
.grid.large{grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr))}
.cards.best{max-width:none}
.cards.best b{font-size:1.3rem}
.cards.best .value{font-size:1.05rem;overflow-wrap:anywhere}
svg.parallel{display:block}
svg .name,svg .figure{fill:var(--text)}
.halo{stroke:var(--card);stroke-width:3;paint-order:stroke;stroke-linejoin:round}
.line.strong{stroke-width:3.5}
.edge.line{stroke:var(--card);stroke-width:6}
.trial .line{stroke-width:1.5}
.trial .line.strong{stroke-width:3.5}
.trial .edge.line{stroke-width:6}
.reach{fill:none;stroke:transparent;stroke-width:9;pointer-events:stroke}
.trial:hover .line:not(.edge){stroke:var(--text);stroke-width:3}
.dot:hover .mark{stroke:var(--text);stroke-width:3}
td .reason{display:inline-block;max-width:32rem;min-width:20rem;white-space:normal;text-align:left;
 overflow-wrap:anywhere}
pre.box{white-space:pre-wrap;overflow-wrap:anywhere}
""" + "".join(f".line.h{step}{{stroke:var(--h{step})}}" for step in range(HEAT_STEPS))


def write_sweep_report(folder: SweepFolder) -> Path:
    """Write `report.html` of what a sweep has recorded up to here, and return its path.

    The same files give the same page, byte for byte.

    Args:
        folder: of a sweep, finished or not, with at least one trial that has begun.

    Raises:
        InputError: the folder holds no sweep, or none of which a trial has begun, a record in it is damaged,
            or the page cannot be written.
    """
    sweep = Sweep.read(folder)
    influence = measured(sweep)
    sections = [
        ("best", "Best", best(sweep)),
        ("points", "Points", points(sweep)),
        ("effects", "By axis", effects(sweep)),
        ("coordinates", "Parallel coordinates", coordinates(sweep)),
        ("importance", "Importance", importance(sweep, influence)),
        ("curves", "Curves", curves(sweep, influence)),
        ("trials", "All trials", trials(sweep)),
        ("configuration", "Configuration", configuration(sweep)),
    ]
    return write_page(folder.report, document(title(sweep), header(sweep), sections, _FOOTER, rules=_RULES))
