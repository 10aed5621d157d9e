"""`raid icsr`, `mar`, `slsr`, `demo`, `plan` and `config`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from raid.commands.arguments import Commands, add_backend, add_configuration, backend_of, positive
from raid.errors import InputError

if TYPE_CHECKING:
    from raid.methods.plan import Given

_HELP = {
    "icsr": "train with intra-camera refinement (or its baseline, refine.enabled=false)",
    "mar": "train with soft multilabels over the people of a labelled set (source; data is the other)",
    "slsr": "train on labelled images and on those that one DCGAN a cluster makes, with sparse labels",
}


def add_methods(commands: Commands) -> None:
    """Add `raid icsr`, `raid mar` and `raid slsr`."""
    for method, text in _HELP.items():
        parser = commands.add_parser(
            method,
            help=text,
            description=f"{text[0].upper()}{text[1:]}, and evaluate, as FILE and the overrides say. "
            f"`raid config {method}` lists every field.",
        )
        add_configuration(parser)
        add_backend(parser)
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--resume", action="store_true", help="go on with the run that run.folder holds")
        how.add_argument("--fresh", action="store_true", help="start the run in run.folder over")
        parser.set_defaults(run=_run, method=method)


def _run(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods import known
    from raid.methods.launch import summary

    log.configure()
    config = load(known.config_of(options.method), options.file, options.overrides)
    with backend_of(options.backend, config) as backend:
        folder = known.run(config, backend, resume=options.resume, fresh=options.fresh)
    print(summary(folder))


def add_demo(commands: Commands) -> None:
    """Add `raid demo`."""
    parser = commands.add_parser(
        "demo", help="train a method and what it is compared with on rendered people (some minutes)"
    )
    parser.add_argument("method", choices=[*_HELP])
    add_configuration(parser)
    add_backend(parser)
    parser.add_argument(
        "--seeds", type=positive, default=1, metavar="N", help="train with so many seeds and compare them"
    )
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods import known

    log.configure()
    config = load(known.config_of(options.method), options.file, options.overrides)
    with backend_of(options.backend, config) as backend:
        print(known.compare(config, backend, num_seeds=options.seeds))


def add_plan(commands: Commands) -> None:
    """Add `raid plan`."""
    parser = commands.add_parser(
        "plan",
        help="say how long a run will take, and how much memory, before it starts",
        description="Probe this machine for some seconds and reckon every step of the run. The images are "
        "counted where data.root is (and source.root, for mar); with --set, --images (for slsr, --identities "
        "too), or --source-images and --source-people, there need be none. --from-runs takes the times of "
        "epochs from runs on that set, on two numbers of workers at least. Exit status 2: it does not fit.",
    )
    parser.add_argument("method", choices=[*_HELP], metavar="METHOD", help=" or ".join(_HELP))
    add_configuration(parser)
    parser.add_argument("--workers", type=positive, metavar="W", help="in place of run.workers")
    parser.add_argument(
        "--from-runs", nargs="+", default=[], metavar="RUN", help="folders of runs, as for raid scaling"
    )
    parser.add_argument(
        "--set", choices=["market1501", "dukemtmc", "msmt17"], help="images as published, camera by camera"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="training images")
    parser.add_argument("--identities", type=positive, metavar="N", help="slsr: people on --images")
    parser.add_argument(
        "--cameras", type=positive, metavar="N", default=1, help="that they are shared by (1)"
    )
    parser.add_argument("--query", type=positive, metavar="N", default=0, help="query images (0)")
    parser.add_argument("--gallery", type=positive, metavar="N", default=0, help="gallery images (0)")
    parser.add_argument(
        "--source-images", type=positive, metavar="N", help="mar: images of the reference persons"
    )
    parser.add_argument("--source-people", type=positive, metavar="N", help="mar: reference persons")
    parser.add_argument(
        "--tflops", type=float, metavar="X", help="10^12 operations a second, of processors not at hand"
    )
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.methods import known

    log.configure()
    given = _given(options)
    # Those that stand behind the runs.
    overrides = [*options.overrides, *(text for text in options.from_runs if "=" in text)]
    runs = [Path(text) for text in options.from_runs if "=" not in text]
    if options.workers:
        overrides.append(f"run.workers={options.workers}")
    if given.target:
        overrides.append("data.root=not-needed")
    if options.source_images and options.method == "mar":
        overrides.append("source.root=not-needed")
    config = load(known.config_of(options.method), options.file, overrides)
    text, misfits = known.plan(config, given, tflops=options.tflops, runs=runs)
    print(text)
    if misfits:
        raise InputError("\n".join(f"it does not fit: {line}" for line in misfits))


def _given(options: argparse.Namespace) -> "Given":
    """Return what the options say of the images.

    Raises:
        InputError: they do not go together.
    """
    from raid.methods.plan import PUBLISHED, Counts, Given

    described = options.query or options.gallery or options.cameras > 1 or options.identities
    if not options.images and described:
        raise InputError(
            "--identities, --cameras, --query, --gallery: go with --images; without, the set is counted"
        )
    if options.set and options.images:
        raise InputError("--set, --images: give one of both")
    if options.from_runs and (options.set or options.images or options.source_images):
        raise InputError("--from-runs: their times are of their own images: name these by data.root alone")
    if options.identities and options.method != "slsr":
        raise InputError(f"--identities: is for `raid plan slsr`; {options.method} knows of no identities")
    target, identities = None, options.identities
    if options.set:
        target = Counts.published(PUBLISHED[options.set])
        identities = PUBLISHED[options.set].splits["train"].identities
    elif options.images:
        target = Counts.shared(options.images, options.cameras, options.query, options.gallery)
    return Given(target, identities, options.source_images, options.source_people)


def add_config(commands: Commands) -> None:
    """Add `raid config`."""
    parser = commands.add_parser(
        "config",
        help="print every field of a method's configuration, or a resolved one",
        description="Without FILE: every field with its type, default and meaning. With: what FILE and the "
        "overrides resolve to.",
    )
    parser.add_argument("method", choices=[*_HELP])
    add_configuration(parser, optional=True)
    parser.set_defaults(run=_config)


def _config(options: argparse.Namespace) -> None:
    from raid.config import describe, describe_sections, load, to_yaml
    from raid.methods.known import config_of

    schema = config_of(options.method)
    if options.file is not None:
        print(to_yaml(load(schema, options.file, options.overrides)), end="")
        return
    sections = dict(describe_sections(schema))
    for field in describe(schema):
        section = field.path.rpartition(".")[0]
        if section in sections:
            print(f"\n# {section}: {sections.pop(section)}")
        print(f"{field.path}: {field.type} = {field.default}\n    {field.meaning}")
