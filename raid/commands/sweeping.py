"""The command line of the scripts in tune/."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raid.commands.arguments import add_configuration, positive
from raid.commands.command_line import exit_status, parse_with_overrides
from raid.errors import InputError

if TYPE_CHECKING:
    from raid.methods.sweeps.definition import Sweep
    from raid.methods.sweeps.driver import Kind
    from raid.methods.sweeps.planning import Options


def main(sweep: "Sweep", arguments: Sequence[str] | None = None) -> int:
    """Run a sweep whose trials train, as the command line says; return the exit status."""
    options = parse_with_overrides(_parser(sweep), arguments)

    def kind() -> "Kind":
        from raid.methods.sweeps.training import Training

        return Training(sweep.shared)

    return exit_status(lambda: _run(sweep, options, kind))


def main_clustering(sweeps: "Mapping[str, Sweep]", arguments: Sequence[str] | None = None) -> int:
    """Run a sweep whose trials cluster stored features, as the command line says; return the exit status.

    Args:
        sweeps: by what is clustered.
        arguments: of the command line.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument(
        "--stage", choices=[*sweeps], default="global",
        help="global: all images at once, as stage 2 does (default); local: each camera's, as stage 1 does",
    )  # fmt: skip
    stage, _ = first.parse_known_args(arguments)
    parser = _parser(sweeps[stage.stage], first)
    parser.add_argument(
        "--features", type=Path, nargs="+", required=True, metavar="FILE",
        help="of the training images: (N, D) float32 unit rows as .npy, or a model (a run's folder) that "
        "extracts them; a second one, of another epoch, says how stable the clusters are",
    )  # fmt: skip
    options = parse_with_overrides(parser, arguments)

    def kind() -> "Kind":
        from raid.methods.sweeps.clustering import Clustering

        if len(options.features) > 2:
            raise InputError("--features: those of one epoch, or of two")
        if options.objective == "churn" and len(options.features) < 2:
            raise InputError("--objective churn: compares clusters of two epochs; give --features of both")
        return Clustering(tuple(options.features), options.stage)

    return exit_status(lambda: _run(sweeps[options.stage], options, kind))


def _run(sweep: "Sweep", options: argparse.Namespace, kind: "Callable[[], Kind]") -> None:
    from raid import log
    from raid.methods.sweeps.driver import run_sweep

    log.configure()
    print(run_sweep(sweep, asked(options), kind()))


def asked(options: argparse.Namespace) -> "Options":
    """Return what a parsed command line says."""
    from raid.config import parse_overrides
    from raid.methods.sweeps.planning import Options

    return Options(
        file=options.file,
        overrides=tuple(options.overrides),
        objective=options.objective,
        search=options.search,
        scheduler=options.scheduler,
        num_samples=options.num_samples,
        max_concurrent=options.max_concurrent,
        num_seeds=options.seeds,
        axes=tuple(options.axes.split(",")) if options.axes else None,
        values=parse_overrides(options.values),
        grace=options.grace,
        demo=options.demo,
        how="resume" if options.resume else "fresh" if options.fresh else "begin",
    )


def _parser(sweep: "Sweep", *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        parents=parents,
        prog=f"tune/{sweep.name}.py",
        description=f"Search {sweep.title}, with Ray Tune. Each trial is a run as of `raid {sweep.method}`; "
        "all are in run.folder, with a report.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_searched(sweep),
    )
    add_configuration(parser)
    parser.add_argument(
        "--objective", required=True, choices=sweep.known(),
        help="what trials are compared by; there is no default, for mAP and rank1 look at the test set",
    )  # fmt: skip
    parser.add_argument(
        "--search", choices=["random", "grid", "optuna"], default="random",
        help="points: drawn at random (default), every combination of the values, or by what Optuna learns",
    )  # fmt: skip
    parser.add_argument(
        "--num-samples", type=positive, default=16, metavar="N", help="points of random and optuna (16)"
    )
    parser.add_argument(
        "--axes", metavar="A,B", help="search these alone; an override takes a setting out of the search, too"
    )
    parser.add_argument(
        "--values", action="append", default=[], metavar="A=[1,2]", help="in place of an axis' own values"
    )
    parser.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="train every point with so many seeds (1)"
    )
    parser.add_argument(
        "--scheduler", choices=["none", "asha"], default="none",
        help="asha: stop those that are not among the best third after --grace epochs, 3 times as many, ...",
    )  # fmt: skip
    parser.add_argument(
        "--grace", type=positive, metavar="N", help="asha: epochs before a trial may be stopped (a ninth)"
    )
    parser.add_argument(
        "--max-concurrent", type=positive, metavar="N",
        help="trials at a time, fewer than the cluster has room for",
    )  # fmt: skip
    parser.add_argument(
        "--demo", action="store_true",
        help="render the people of `raid demo` first, where jobs/*_demo.yaml looks for them",
    )  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with the sweep that run.folder holds")
    how.add_argument("--fresh", action="store_true", help="start the sweep in run.folder over")
    return parser


def _searched(sweep: "Sweep") -> str:
    lines = ["searched, unless an override sets it:"]
    for axis in sweep.axes:
        lines.append(f"  {axis.path}: {_values(axis.values)}{_range(axis)}")
    lines.append("objectives:")
    lines += [f"  {objective.name}: {objective.meaning}" for objective in sweep.objectives]
    return "\n".join(lines)


def _values(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _range(axis: Any) -> str:
    if axis.low is None:
        return ""
    return f"; random and optuna: {axis.low:g} to {axis.high:g}{' by the logarithm' if axis.log else ''}"
