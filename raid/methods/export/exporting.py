"""`raid export`, from the checkpoint to the two files."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raid.data.images import Images
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import extract
from raid.files import atomic_path
from raid.methods.encoder import EncoderSettings
from raid.methods.export.crops import find_crops
from raid.methods.export.parity import BATCHES, NUM_CROPS, largest_difference
from raid.methods.export.sidecar import sidecar
from raid.methods.export.threshold import Threshold, read_threshold
from raid.methods.trained import Trained
from raid.models.backbone import Backbone
from raid.models.onnx_graph import graph_of

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(
    checkpoint: Path,
    out: Path,
    *,
    samples: str | None = None,
    crops: Path | None = None,
    flip: bool | None = None,
    threshold: Threshold | Path | None = None,
) -> str:
    """Write a model as `out` (ONNX) and its sidecar (JSON, beside it); return what was done as text.

    Both are written when the graph's features have been found equal to torch's, else neither.

    Args:
        checkpoint: a run's model, or its folder.
        out: FILE.onnx; what is there is replaced.
        samples: manifest or pack of the pictures to compare on.
        crops: folder of the pictures to compare on; with neither, the training's own set.
        flip: whether mirror images are added; None: as in the training's evaluation.
        threshold: for the sidecar; a path: what `raid threshold` wrote.

    Raises:
        InputError: a package is missing, a file cannot be read or written, the threshold is of another
            model, there are no pictures, or the features differ.
    """
    _check(out)
    trained = Trained.read(checkpoint)
    flip = trained.config.evaluate.flip if flip is None else flip
    network = trained.network(_all_digits(trained))  # a file without weights is refused here
    model = trained.fingerprint()
    if isinstance(threshold, Path):
        data = trained.config.data
        threshold = read_threshold(threshold, model=model, flip=flip, height=data.height, width=data.width)
    images = find_crops(trained, samples, crops, NUM_CROPS)
    graph, difference = _compared(trained, network, images, flip)
    record = sidecar(
        trained,
        file=out.name,
        graph=graph,
        model=model,
        dimension=network.num_features,
        flip=flip,
        threshold=threshold,
        difference=difference,
    )
    _write(out, graph, json.dumps(record, indent=1) + "\n")
    return (
        f"{out}: {network.num_features} numbers a crop, at most {difference:.2g} from torch's (batches of "
        f"{', '.join(map(str, BATCHES))})\n{out.with_suffix('.json')}: how to use it"
    )


def _check(out: Path) -> None:
    """Find what cannot work before any work."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise InputError(f"raid export needs {', '.join(missing)}: pip install 'raid[export]'")
    if out.suffix != ".onnx":
        raise InputError(f"--onnx: {out} is not called FILE.onnx; FILE.json goes beside it")
    if out.is_dir():
        raise InputError(f"--onnx: {out} is a folder; name a file")


def _all_digits(trained: Trained) -> EncoderSettings:
    """Return the settings without bfloat16, which a graph in float32 cannot be compared with."""
    settings = trained.config.encoder(trained.statistics)
    return replace(settings, numerics=replace(settings.numerics, autocast="none"))


def _compared(trained: Trained, network: Backbone, images: Images, flip: bool) -> tuple[bytes, float]:
    """Return the graph, and how far its features of `images` are from the network's."""
    threads = trained.config.numerics.threads
    torch.set_num_threads(threads)
    pixels = images.gather(np.arange(len(images))).numpy()
    features = _features(network, _all_digits(trained), images, flip)
    graph = _graph(trained, flip)
    try:
        return graph, largest_difference(graph, pixels, features, num_threads=threads)
    except InputError as error:
        raise InputError(f"{trained.path}: {error}") from error


def _features(
    network: Backbone, settings: EncoderSettings, images: Images, flip: bool
) -> NDArray[np.floating]:
    """Return what torch makes of the crops, on the CPU, by the code and in the precision of evaluations."""
    features: NDArray[np.floating] = extract(
        network,
        images,
        group=Group.solo(),
        batch_size=len(images),
        augmentation=settings.augmentation,
        device=torch.device("cpu"),
        dtype=settings.dtype,
        flip=flip,
    ).numpy()
    return features


def _graph(trained: Trained, flip: bool) -> bytes:
    settings = trained.config.encoder(trained.statistics)
    single = trained.network(replace(settings, numerics=replace(settings.numerics, dtype="float32")))
    data, statistics = trained.config.data, trained.statistics
    size = {"height": data.height, "width": data.width}
    return graph_of(single, statistics.mean, statistics.std, **size, flip=flip)


def _write(out: Path, graph: bytes, record: str) -> None:
    beside = out.with_suffix(".json")
    try:
        with atomic_path(out) as file, atomic_path(beside) as text:
            file.write_bytes(graph)
            text.write_text(record)
    except OSError as error:
        raise InputError(
            f"--onnx: {out} cannot be written: {error.strerror or error}; choose another"
        ) from error
