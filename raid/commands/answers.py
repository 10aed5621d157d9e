"""`raid extract`, `rank`, `threshold`: what a trained model says of images."""

import argparse
from pathlib import Path

from raid.commands.arguments import Commands, add_checkpoint, backend_of, positive


def add_rank(commands: Commands) -> None:
    """Add `raid rank`."""
    parser = commands.add_parser(
        "rank",
        help="rank a gallery for pictures: a table, and a page of ranked lists",
        description="For every query the pictures of GALLERY that are most like it, best first, and where "
        "identities are known which are right. Of a file that is QUERY and GALLERY both, split query is "
        "ranked against split gallery; without such splits, every row against all others. Without --out and "
        "--page the table is printed as CSV.",
    )
    parser.add_argument(
        "query", type=Path, metavar="QUERY", help="a picture, a folder of pictures, or a file of features"
    )
    parser.add_argument(
        "gallery", type=Path, metavar="GALLERY.parquet", help="features, as raid extract writes them"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="the model that GALLERY was extracted by, for pictures to go through"
    )
    parser.add_argument("--top", type=positive, default=20, metavar="K", help="places of a list (20)")
    parser.add_argument("--out", type=Path, metavar="OUT", help="the table: a .csv or .parquet file")
    parser.add_argument("--page", type=Path, metavar="OUT.html", help="the ranked lists as one page")
    parser.add_argument(
        "--same-camera",
        choices=["drop", "keep"],
        default="drop",
        help="drop: leave out, as an evaluation does, pictures of the query's identity by its own camera and "
        "junk (identity -1); keep: leave out nothing",
    )
    parser.add_argument("--rerank", action="store_true", help="order by k-reciprocal re-ranking")
    parser.add_argument("--blur", action="store_true", help="blur the page's pictures beyond recognition")
    parser.add_argument(
        "--root", metavar="PLACE", help="folder or pack of GALLERY's pictures, for the page, where they moved"
    )
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="(auto: a GPU when there is one)"
    )
    parser.set_defaults(run=_rank)


def _rank(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.answers.ranking import Wanted, answer

    log.configure()
    wanted = Wanted(
        top=options.top,
        same_camera=options.same_camera,
        rerank=options.rerank,
        out=options.out,
        page=options.page,
        blur=options.blur,
        root=options.root,
    )
    print(
        answer(options.query, options.gallery, wanted, checkpoint=options.checkpoint, device=options.device)
    )


def add_extract(commands: Commands) -> None:
    """Add `raid extract`."""
    parser = commands.add_parser(
        "extract",
        help="write the features of a set of images to a Parquet file",
        description="Extract the features of all images of SAMPLES, in their order. What is done is kept in "
        "OUT.parts until all is: the same command, started again after a kill, goes on from there and comes "
        "to the same file. data.on_error=skip leaves images out that cannot be decoded.",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "samples",  # no path, which would take a slash of s3://
        metavar="SAMPLES",
        help="a manifest, a table, a folder or a pack, as for raid data check",
    )
    parser.add_argument("out", type=Path, metavar="OUT.parquet", help="the file; its folder is made")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="a.b=c",
        help="such as data.layout=folder data.pattern=...",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="add the features of the mirror image (as the model's training evaluated)",
    )
    parser.add_argument(
        "--batch", type=positive, metavar="N", help="images that the network sees at once (128)"
    )
    parser.add_argument(
        "--pool", type=int, default=0, metavar="N", help="processes on Ray that share the work (0: this one)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="(auto: a GPU when there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT at the end, if it is there")
    parser.add_argument("--fresh", action="store_true", help="throw away the parts of an earlier extraction")
    parser.set_defaults(run=_extract)


def _extract(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.answers.extraction import extract_file, prepared

    log.configure()
    chosen = {
        "evaluate.flip": None if options.flip is None else str(options.flip).lower(),
        "numerics.extract_batch": options.batch,
        "pool.size": options.pool,
        "run.device": options.device,
    }
    overrides = [f"{path}={value}" for path, value in chosen.items() if value is not None]
    extraction = prepared(
        options.checkpoint,
        options.samples,
        options.out,
        [*options.overrides, *overrides],
        overwrite=options.overwrite,
    )
    with backend_of("ray" if options.pool else "local", extraction.config) as backend:
        print(extract_file(extraction, backend, fresh=options.fresh))


def add_threshold(commands: Commands) -> None:
    """Add `raid threshold`."""
    parser = commands.add_parser(
        "threshold",
        help="say from which similarity on two pictures are one person",
        description="Compare all pairs of images in FEATURES (those of query and gallery, where there are "
        "any) and print the threshold of the cosine similarity that accepts at most the share FAR of the "
        "pairs of two people, and what share of the pairs of one person it accepts, each with its 95 % "
        "interval over people; the same at other rates, equal error rate and area under the curve.",
    )
    parser.add_argument(
        "features", type=Path, metavar="FEATURES.parquet", help="that raid extract wrote, of a labelled set"
    )
    parser.add_argument(
        "--far", type=float, default=0.001, metavar="SHARE", help="of the pairs of two people (0.001)"
    )
    parser.add_argument(
        "--pairs",
        choices=["all", "cross-camera"],
        help="pairs of different cameras alone (where cameras are known), or all",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write it as JSON too: raid export takes it")
    parser.add_argument("--page", type=Path, metavar="OUT.html", help="write a page with both histograms")
    parser.set_defaults(run=_threshold)


def _threshold(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.answers.threshold import find_threshold

    log.configure()
    print(
        find_threshold(
            options.features,
            options.far,
            pairs=options.pairs,
            json_file=options.json,
            page_file=options.page,
        )
    )
