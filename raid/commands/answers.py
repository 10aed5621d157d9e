"""`raid rank`: what a trained model says of images."""

import argparse
from pathlib import Path

from raid.commands.arguments import Commands, positive


def add_rank(commands: Commands) -> None:
    """Add `raid rank`."""
    parser = commands.add_parser(
        "rank",
        help="rank a gallery for pictures: a table, and a page of ranked lists",
        description="For every query the pictures of GALLERY that are most like it, best first. Where "
        "identities are known it is said which are right. Of a file that is QUERY and GALLERY both, the rows "
        "of split query are ranked against those of split gallery; without such splits, every row against all "
        "others. Without --out and --page the table is printed as CSV.",
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
    )
    print(
        answer(options.query, options.gallery, wanted, checkpoint=options.checkpoint, device=options.device)
    )
