"""The `raid` command. A method and its libraries are imported when they are asked for, not before."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from raid import __version__
from raid.errors import InputError

if TYPE_CHECKING:
    from raid.distributed.backend import Backend
    from raid.methods.icsr_config import IcsrConfig

EXIT_FOUND_ERRORS = 1
EXIT_INPUT_ERROR = 2

# Fields of raid.data.render.Settings, which has the defaults.
SYNTH_OPTIONS = {
    "seed": "of all random numbers (0)",
    "num_identities": "people in the train and the test half together (160)",
    "num_cameras": "cameras (6)",
    "height": "of the images in pixels (128)",
    "width": "of the images in pixels (64)",
    "min_frames": "fewest images of a person at a camera (2)",
    "max_frames": "most images of a person at a camera (4)",
    "camera_strength": "how much the cameras differ, 0: not at all (1.0)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; return the exit status: 0 done, 1 errors in a set, 2 a mistake."""
    options = _parse(arguments)
    try:
        status: int | None = options.run(options)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"raid: {line}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("raid: interrupted", file=sys.stderr)
        return 130
    return status or 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse gives up on overrides that come after an option (FILE --resume a.b=c).
    if rest and (
        not hasattr(options, "overrides") or any("=" not in text or text[0] == "-" for text in rest)
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raid", description="Train person re-identification without labels (and with few)."
    )
    parser.add_argument("--version", action="version", version=f"raid {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_icsr(commands)
    _add_plan(commands)
    _add_config(commands)
    _add_data(commands)
    _add_demo(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_track(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_icsr(commands: Commands) -> None:
    parser = commands.add_parser(
        "icsr",
        help="train with intra-camera refinement (or its baseline, refine.enabled=false)",
        description="Train and evaluate as FILE and the overrides say. `raid config icsr` lists every field.",
    )
    _add_configuration(parser)
    _add_backend(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on with the run that run.folder holds")
    how.add_argument("--fresh", action="store_true", help="start the run in run.folder over")
    parser.set_defaults(run=_icsr)


def _add_configuration(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", nargs="?" if optional else None, help="a run file, see jobs/"
    )
    # A default, or argparse calls the overrides required when FILE is missing.
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="values that go before the file's"
    )


def _icsr(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods import icsr
    from raid.methods.icsr_config import IcsrConfig

    log.configure()
    config = load(IcsrConfig, options.file, options.overrides)
    with _backend(options.backend, config) as backend:
        folder = icsr.run(config, backend, resume=options.resume, fresh=options.fresh)
    print(icsr.summary(folder))


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=["ray", "local"],
        default="ray",
        help="ray: the cluster of RAY_ADDRESS or of the submitted job, else one of this machine's own; "
        "local: no Ray, run.workers processes of this machine",
    )


@contextmanager
def _backend(name: str, config: "IcsrConfig") -> Iterator["Backend"]:
    from raid.methods import icsr

    if name == "local":
        yield icsr.local_backend(config)
        return
    # Read when Ray is imported: lines that look alike, such as those of the epochs, would be left out.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    from raid.methods.on_ray import ray_backend

    backend = ray_backend(config)
    try:
        yield backend
    finally:
        backend.close()


def _add_plan(commands: Commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="say how long a run will take, and how much memory, before it starts",
        description="Probe this machine for some seconds and reckon every step of the run. The images are "
        "counted where data.root is; with --images there need be none. Exit status 2: it does not fit.",
    )
    parser.add_argument("method", choices=["icsr"])
    _add_configuration(parser)
    parser.add_argument("--workers", type=_positive, metavar="W", help="in place of run.workers")
    parser.add_argument("--images", type=_positive, metavar="N", help="training images")
    parser.add_argument(
        "--cameras", type=_positive, metavar="N", default=1, help="that they are shared by (1)"
    )
    parser.add_argument("--query", type=_positive, metavar="N", default=0, help="query images (0)")
    parser.add_argument("--gallery", type=_positive, metavar="N", default=0, help="gallery images (0)")
    parser.add_argument(
        "--tflops", type=float, metavar="X", help="10^12 operations a second, of processors not at hand"
    )
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods.icsr_config import IcsrConfig
    from raid.methods.plan import Counts, counts_of, plan_run

    log.configure()
    overrides = list(options.overrides)
    if options.workers:
        overrides.append(f"run.workers={options.workers}")
    if options.images:
        overrides.append("data.root=not-needed")
    config = load(IcsrConfig, options.file, overrides)
    if options.images:
        share, rest = divmod(options.images, options.cameras)
        cameras = tuple(share + (camera < rest) for camera in range(options.cameras))
        counts = Counts(cameras, options.query, options.gallery)
    else:
        counts = counts_of(config)
    text, misfits = plan_run(config, counts, tflops=options.tflops)
    print(text)
    if misfits:
        raise InputError("\n".join(f"it does not fit: {line}" for line in misfits))


def _add_config(commands: Commands) -> None:
    parser = commands.add_parser(
        "config",
        help="print every field of a method's configuration, or a resolved one",
        description="Without FILE: every field with its type, default and meaning. With: what FILE and the "
        "overrides resolve to.",
    )
    parser.add_argument("method", choices=["icsr"])
    _add_configuration(parser, optional=True)
    parser.set_defaults(run=_config)


def _config(options: argparse.Namespace) -> None:
    from raid.config import describe, load, to_yaml
    from raid.methods.icsr_config import IcsrConfig

    if options.file is not None:
        print(to_yaml(load(IcsrConfig, options.file, options.overrides)), end="")
        return
    for field in describe(IcsrConfig):
        print(f"{field.path}: {field.type} = {field.default}\n    {field.meaning}")


def _add_data(commands: Commands) -> None:
    parser = commands.add_parser("data", help="render the built-in set, write a manifest, check a set")
    data = parser.add_subparsers(title="data commands", required=True, metavar="COMMAND")

    synth = data.add_parser("synth", help="render people as JPEG files in Market-1501's layout")
    synth.add_argument("out", type=Path, metavar="FOLDER")
    for option, meaning in SYNTH_OPTIONS.items():
        kind = float if option == "camera_strength" else int
        flag = f"--{option.replace('_', '-')}"
        synth.add_argument(flag, type=kind, metavar="N", default=argparse.SUPPRESS, help=meaning)
    synth.set_defaults(run=_synth)

    measure = data.add_parser("synth-check", help="print how hard a rendered set is: three figures")
    measure.add_argument("root", type=Path, metavar="FOLDER")
    measure.set_defaults(run=_synth_check)

    prepare = data.add_parser("prepare", help="read a set once and write its manifest (Parquet)")
    prepare.add_argument("out", type=Path, metavar="FILE.parquet")
    prepare.add_argument("overrides", nargs="*", metavar="a=b", help="fields of section data: root=, layout=")
    prepare.set_defaults(run=_prepare)

    check = data.add_parser(
        "check",
        help="decode every image and say what is wrong with the set",
        description="Look for damaged files, duplicates, wrong labels and the like. Exit status 1: there are "
        "errors. PATH is a manifest, a table or a folder; where no layout is recognised, all images below it "
        "are looked at.",
    )
    check.add_argument(
        "overrides", nargs="+", metavar="PATH|a=b", help="the set; fields of section data, as for prepare"
    )
    check.add_argument("--json", metavar="FILE", help="write everything as JSON too; -: only that, to stdout")
    check.add_argument("--workers", type=_positive, metavar="N", help="threads (one a CPU, at most 16)")
    check.set_defaults(run=_check)


def _synth(options: argparse.Namespace) -> None:
    from raid.data.render import Settings, write_market1501

    given = {name: value for name, value in vars(options).items() if name in SYNTH_OPTIONS}
    with _writing(options.out):
        write_market1501(options.out, Settings(**given))
    print(options.out)


def _synth_check(options: argparse.Namespace) -> None:
    from raid.data.synthetic_check import check

    figures = check(options.root)
    print(f"mAP of the HSV histogram                     {figures.histogram_mAP:.3f}")
    print(f"same-camera nearest neighbours, untrained    {figures.untrained_same_camera:.3f}")
    print(f"mAP after supervised training                {figures.supervised_mAP:.3f}")


def _prepare(options: argparse.Namespace) -> None:
    from raid.config import load
    from raid.methods.inputs import load_samples
    from raid.methods.sections import Data

    samples = load_samples(load(Data, overrides=options.overrides))
    with _writing(options.out):
        samples.write(options.out)
    print(f"{options.out}: {len(samples)} images, splits {', '.join(samples.splits)}")


def _check(options: argparse.Namespace) -> int:
    from raid import log
    from raid.methods.checking import check_set

    log.configure()
    report = check_set(options.overrides, num_threads=options.workers)
    if options.json == "-":
        print(report.to_json())
        return EXIT_FOUND_ERRORS if report.count("error") else 0
    if options.json is not None:
        with _writing(Path(options.json)):
            Path(options.json).write_text(report.to_json() + "\n")
    print(report.to_text())
    return EXIT_FOUND_ERRORS if report.count("error") else 0


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo", help="train the baseline and ICSR on rendered people and compare them (about 6 minutes)"
    )
    _add_configuration(parser)
    _add_backend(parser)
    parser.add_argument(
        "--seeds", type=_positive, default=1, metavar="N", help="train with so many seeds and compare them"
    )
    parser.set_defaults(run=_demo)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods import demo
    from raid.methods.icsr_config import IcsrConfig

    log.configure()
    config = load(IcsrConfig, options.file, options.overrides)
    with _backend(options.backend, config) as backend:
        print(demo.compare(config, backend, num_seeds=options.seeds))


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model on a set, by every protocol that applies",
        description="Print and store mAP, CMC and mINP of the model on SAMPLES: manifests of `raid data "
        "prepare`, or data.layout=... data.root=...; without, the set of the training. Several are averaged. "
        "evaluate.rerank=true re-ranks too; the other fields of section evaluate are in `raid config icsr`.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a run's model.pt, or its folder")
    # A default, or argparse calls them required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="SAMPLES", help="FILE.parquet, or a.b=c")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="(evaluation_SET.json beside the checkpoint)"
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.evaluation import evaluate_checkpoint

    log.configure()
    manifests = [Path(text) for text in options.overrides if "=" not in text]
    overrides = [text for text in options.overrides if "=" in text]
    print(evaluate_checkpoint(options.checkpoint, manifests, overrides, out=options.out))


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="write a run's report.html anew",
        description="Write report.html of the run in RUN_FOLDER from its records, and print its path.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="data.root=..., where the images have moved"
    )
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.reporting import rewrite_report

    log.configure()
    print(rewrite_report(options.folder, options.overrides))


def _add_track(commands: Commands) -> None:
    parser = commands.add_parser("track", help="send runs to MLflow that it has not, or not all of")
    track = parser.add_subparsers(title="track commands", required=True, metavar="COMMAND")
    sync = track.add_parser(
        "sync",
        help="send what MLflow does not have of a run, and close the run there",
        description="Send what MLflow does not have of each run; what it has is not sent again.",
    )
    sync.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    sync.add_argument(
        "--tracking-uri", metavar="URI", help="MLFLOW_TRACKING_URI, or else the mlflow.db beside the runs"
    )
    sync.set_defaults(run=_sync)


def _sync(options: argparse.Namespace) -> None:
    from raid import log, tracking
    from raid.run_folder import RunFolder

    log.configure()
    folders = [RunFolder(path) for path in options.folders]
    for folder in folders:
        folder.recorded()  # all mistakes before any work
    for folder in folders:
        print(tracking.sync(folder, options.tracking_uri), flush=True)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror or error}; choose another") from error
