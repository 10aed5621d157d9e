"""`raid export`: a trained model for other programs."""

import argparse
from pathlib import Path

from raid.commands.arguments import Commands, add_checkpoint


def add_export(commands: Commands) -> None:
    """Add `raid export`."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as ONNX, with all that a tracker needs to use it",
        description="Write the model as FILE.onnx (uint8 crops in, unit features out), and FILE.json: "
        "size and colours of the crops, metric, threshold. Its features are compared with torch's on real "
        "crops first: at batches of 1, 2 and 17 none may differ by more than 1e-4.",
    )
    add_checkpoint(parser)
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE.onnx", help="what is written")
    crops = parser.add_mutually_exclusive_group()
    crops.add_argument("--samples", metavar="SAMPLES", help="a manifest or a pack of crops to compare on")
    crops.add_argument(
        "--crops",
        type=Path,
        metavar="FOLDER",
        help="a folder of crops to compare on (the training's own set)",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="add the features of an image and of its mirror image (as the training's evaluation did)",
    )
    threshold = parser.add_mutually_exclusive_group()
    threshold.add_argument(
        "--threshold", type=float, metavar="T", help="least cosine similarity of two crops of one person"
    )
    threshold.add_argument(
        "--threshold-file", type=Path, metavar="JSON", help="the same, as `raid threshold` found it"
    )
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from raid import log
    from raid.methods.export.exporting import export
    from raid.methods.export.threshold import given_threshold

    log.configure()
    given = options.threshold
    threshold = options.threshold_file if given is None else given_threshold(given)
    print(
        export(
            options.checkpoint,
            options.onnx,
            samples=options.samples,
            crops=options.crops,
            flip=options.flip,
            threshold=threshold,
        )
    )
