"""`raid data`: render the built-in set, measure it, check a set, write its manifest; import boxes."""

import argparse
from pathlib import Path

from raid.commands.arguments import Commands, positive
from raid.commands.data_import import add_import_mot
from raid.files import writing

EXIT_FOUND_ERRORS = 1

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


def add_data(commands: Commands) -> None:
    """Add `raid data` and its commands."""
    parser = commands.add_parser("data", help="render the built-in set, write or check a set, import boxes")
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
    prepare.add_argument(
        "--hash-identities",
        action="store_true",
        help="write codes in place of the identities: HMAC-SHA256 with a key that is thrown away",
    )
    prepare.add_argument(
        "--identity-key",
        type=Path,
        metavar="FILE",
        help="the key to hash with: sets hashed with one key have one code for one identity",
    )
    prepare.add_argument(
        "--copy",
        type=Path,
        metavar="FOLDER",
        help="copy the images too, under names that do not tell the identities",
    )
    prepare.set_defaults(run=_prepare)

    _add_pack(data)

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
    check.add_argument("--workers", type=positive, metavar="N", help="threads (one a CPU, at most 16)")
    check.set_defaults(run=_check)

    add_import_mot(data)


def _add_pack(data: Commands) -> None:
    pack = data.add_parser(
        "pack",
        help="write a set's images and manifest as Parquet shards, for object storage or a shared folder",
        description="SOURCE is a manifest, a table, a pack, or the folder of a set. OUT is a folder, "
        "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///FOLDER; the index pack.parquet is written last. "
        "Every command reads it by data.layout=pack data.root=OUT. Credentials and endpoint are those of the "
        "environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).",
    )
    pack.add_argument("source", metavar="SOURCE")
    pack.add_argument("out", metavar="OUT")
    pack.add_argument(
        "overrides", nargs="*", default=[], metavar="a=b", help="fields of section data: layout=, ..."
    )
    pack.add_argument("--shard-mib", type=positive, metavar="N", default=256, help="MiB of a shard (256)")
    pack.add_argument(
        "--resume", action="store_true", help="go on with what OUT holds; nothing is done where it is whole"
    )
    pack.set_defaults(run=_pack)


def _synth(options: argparse.Namespace) -> None:
    from raid.data.render import Settings, write_market1501

    given = {name: value for name, value in vars(options).items() if name in SYNTH_OPTIONS}
    with writing(options.out):
        write_market1501(options.out, Settings(**given))
    print(options.out)


def _synth_check(options: argparse.Namespace) -> None:
    from raid.data.synthetic_check import check

    figures = check(options.root)
    print(f"mAP of the HSV histogram                     {figures.histogram_mAP:.3f}")
    print(f"same-camera nearest neighbours, untrained    {figures.untrained_same_camera:.3f}")
    print(f"mAP after supervised training                {figures.supervised_mAP:.3f}")


def _prepare(options: argparse.Namespace) -> None:
    from raid import log
    from raid.config import load
    from raid.data.hashed import hashed_set
    from raid.methods.inputs import load_samples
    from raid.methods.sections import Data

    log.configure()
    key = _identity_key(options)  # mistakes before any work
    samples = load_samples(load(Data, overrides=options.overrides))
    if key is not None:
        with writing(options.copy):
            samples = hashed_set(samples, key, options.copy)
    with writing(options.out):
        samples.write(options.out)
    print(f"{options.out}: {len(samples)} images, splits {', '.join(samples.splits)}")


def _identity_key(options: argparse.Namespace) -> bytes | None:
    """Return what identities are hashed with; None: they are not."""
    from raid.data.hashed import fresh_key, read_key
    from raid.errors import InputError

    if options.hash_identities:
        return fresh_key() if options.identity_key is None else read_key(options.identity_key)
    for name, value in (("--identity-key", options.identity_key), ("--copy", options.copy)):
        if value is not None:
            raise InputError(f"{name}: is for --hash-identities; add that, or leave it out")
    return None


def _pack(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.packing import pack_set

    log.configure()
    print(
        pack_set(
            [options.source, *options.overrides],
            options.out,
            shard_mib=options.shard_mib,
            resume=options.resume,
        )
    )


def _check(options: argparse.Namespace) -> int:
    from raid import log
    from raid.methods.checking import check_set

    log.configure()
    report = check_set(options.overrides, num_threads=options.workers)
    if options.json == "-":
        print(report.to_json())
        return EXIT_FOUND_ERRORS if report.count("error") else 0
    if options.json is not None:
        with writing(Path(options.json)):
            Path(options.json).write_text(report.to_json() + "\n")
    print(report.to_text())
    return EXIT_FOUND_ERRORS if report.count("error") else 0
