"""`raid evaluate`, `compare`, `scaling`, `tables`, `report`, `track`, `register`: what becomes of a run."""

import argparse
from pathlib import Path

from raid.commands.arguments import Commands, add_checkpoint


def add_evaluate(commands: Commands) -> None:
    """Add `raid evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model on a set, by every protocol that applies",
        description="Print and store mAP, CMC and mINP of the model on SAMPLES: manifests of `raid data "
        "prepare`, packs of `raid data pack`, or data.layout=... data.root=...; without, the set of the "
        "training. Several are averaged. evaluate.rerank=true re-ranks too; the other fields of section "
        "evaluate are in `raid config icsr`.",
    )
    add_checkpoint(parser)
    # A default, or argparse calls them required.
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="SAMPLES", help="FILE.parquet, a pack, or a.b=c"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="(evaluation_SET.json beside the checkpoint)"
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.evaluation import evaluate_checkpoint

    log.configure()
    # Not as paths, which would take a slash of s3://.
    manifests = [text for text in options.overrides if "=" not in text]
    overrides = [text for text in options.overrides if "=" in text]
    print(evaluate_checkpoint(options.checkpoint, manifests, overrides, out=options.out))


def add_compare(commands: Commands) -> None:
    """Add `raid compare`."""
    parser = commands.add_parser(
        "compare",
        help="say whether the difference between runs is real",
        description="Put the runs together that differ in their seeds alone, and compare every such setting "
        "with that of the first RUN: mean and deviation over seeds, differences paired by seed, and 95 % "
        "intervals by the bootstrap over queries, and over queries and seeds. All must have been evaluated "
        "on the same images.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all of it as JSON too")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.comparison import compare
    from raid.methods.comparison_text import as_text

    log.configure()
    comparison = compare(options.folders)
    if options.json is not None:
        comparison.write(options.json)
    print(as_text(comparison))


def add_scaling(commands: Commands) -> None:
    """Add `raid scaling`."""
    parser = commands.add_parser(
        "scaling",
        help="say what more workers bring, from the times of runs",
        description="Print what an epoch took on the workers of each run, what it was spent on, the "
        "efficiency, and T(W) = a + b/W fitted to each part (for `raid plan --from-runs`). The runs are of "
        "one configuration and one set: with the same batch (strong scaling), or with the same batch a "
        "worker (scale=weak). Of ICSR also how long stage 1 takes on up to 64 processes.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all of it as JSON too")
    parser.set_defaults(run=_scaling)


def _scaling(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.scaling import scaling
    from raid.methods.scaling_text import as_markdown, as_text

    log.configure()
    found = scaling(options.folders)
    if options.json is not None:
        found.write(options.json)
    print(as_markdown(found) if options.markdown else as_text(found))


def add_tables(commands: Commands) -> None:
    """Add `raid tables`."""
    parser = commands.add_parser(
        "tables",
        help="print the papers' tables with what runs came to beside them",
        description="Print the papers' tables: the paper's figure, what was measured (mean and deviation "
        "over seeds, last epoch) and the difference. A run belongs where its recorded configuration and set "
        "are those of the table's run file, seed apart; what fits nowhere is listed with the reason. Below "
        "an empty cell stands the command that fills it.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all of it as JSON too")
    parser.add_argument(
        "--jobs", type=Path, metavar="FOLDER", help="of the tables' run files (jobs/ of raid's sources)"
    )
    parser.set_defaults(run=_tables)


def _tables(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.papers.filling import Filled
    from raid.methods.papers.text import as_markdown, as_text

    log.configure()
    filled = Filled()
    if options.folders:
        from raid.methods.papers.matching import fill

        filled = fill(options.folders, options.jobs)
    if options.json is not None:
        filled.write(options.json)
    print(as_markdown(filled) if options.markdown else as_text(filled))


def add_report(commands: Commands) -> None:
    """Add `raid report`."""
    parser = commands.add_parser(
        "report",
        help="write the report.html of a run, or of a sweep, anew",
        description="Write report.html of the run or the sweep in FOLDER from its records, finished or not, "
        "and print its path.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run's folder, or a sweep's")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="a.b=c",
        help="of a run: data.root=..., where the images have moved",
    )
    parser.add_argument("--blur", action="store_true", help="show pictures so that nobody can be recognised")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.reporting import rewrite_report

    log.configure()
    print(rewrite_report(options.folder, options.overrides, blur=options.blur))


def add_track(commands: Commands) -> None:
    """Add `raid track`."""
    parser = commands.add_parser("track", help="send runs to MLflow that it has not, or not all of")
    track = parser.add_subparsers(title="track commands", required=True, metavar="COMMAND")
    sync = track.add_parser(
        "sync",
        help="send what MLflow does not have of a run, and close the run there",
        description="Send what MLflow does not have of each run; what it has is not sent again. Of a sweep's "
        "folder the sweep's own run is sent; its trials have folders of their own.",
    )
    sync.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    sync.add_argument(
        "--tracking-uri", metavar="URI", help="MLFLOW_TRACKING_URI, or else the mlflow.db beside the runs"
    )
    sync.set_defaults(run=_sync)


def _sync(options: argparse.Namespace) -> None:
    from raid import log, tracking
    from raid.run_folder import RunFolder
    from raid.tracking.parent import is_sweep, sync_sweep

    log.configure()
    for path in options.folders:
        if not is_sweep(path):
            RunFolder(path).recorded()  # all mistakes before any work
    for path in options.folders:
        of_sweep = is_sweep(path)
        uri = options.tracking_uri
        print(sync_sweep(path, uri) if of_sweep else tracking.sync(RunFolder(path), uri), flush=True)


def add_register(commands: Commands) -> None:
    """Add `raid register`."""
    parser = commands.add_parser(
        "register",
        help="register a run's model in MLflow",
        description="Make the model of the run in RUN_FOLDER the next version of NAME in MLflow's model "
        "registry; mlflow.pyfunc loads it anywhere: the bytes of picture files in, features out.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("name", metavar="NAME", help="of the registered model; made when there is none")
    parser.add_argument(
        "--alias", metavar="ALIAS", help="for this version, such as champion: models:/NAME@champion"
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLFLOW_TRACKING_URI, or else the mlflow.db beside the runs"
    )
    parser.set_defaults(run=_register)


def _register(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.registration import register

    log.configure()
    print(register(options.folder, options.name, alias=options.alias, uri=options.tracking_uri))
