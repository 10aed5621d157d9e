"""`raid evaluate`: a trained model of any method on any set, by every protocol that applies to it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from raid.config import flatten, load
from raid.data.images import Images
from raid.data.packed import is_pack
from raid.data.samples import Samples
from raid.data.storage import place_of
from raid.distributed.backend import LocalBackend
from raid.distributed.group import Group
from raid.errors import InputError
from raid.evaluate import Features
from raid.extract import extract
from raid.files import atomic_path
from raid.methods.encoder import EncoderSettings, device_of
from raid.methods.evaluation_record import Evaluated, as_record, as_text, file_name
from raid.methods.inputs import layout_of, load_samples, open_retrieval, protocol_of
from raid.methods.known import MethodConfig
from raid.methods.mar.config import MarConfig
from raid.methods.mar.inputs import rows_of_people
from raid.methods.sections import Data
from raid.methods.trained import Trained
from raid.models.backbone import Backbone

logger = logging.getLogger(__name__)

NUM_SPLITS = {"cuhk03": 20, "viper": 10}  # layouts whose test images are drawn several times
_OF_ONE_SET = ("dukemtmc", "msmt17", "cuhk03", "viper")  # layouts that no other set is unpacked in
_ALL_SPLITS = "data.split_number=all"
# What stays of the training's section data when the set is another one.
_OF_THE_MODEL = (
    "data.height",
    "data.width",
    "data.on_error",
    "data.cache_folder",
    "data.cache_limit_gib",
    "data.fetch_limit_gib",
    "data.read_timeout_s",
)


def evaluate_checkpoint(
    checkpoint: Path,
    manifests: Sequence[Path | str] = (),
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
) -> str:
    """Evaluate a model on one or several sets, store the figures, and return them as text.

    Images are normalised as those of the training were: by the file's mean and deviation on any set.

    Args:
        checkpoint: a run's model, or its folder; MAR's pretrained.pt is a model too.
        manifests: sets, or packs; without, the one that section data names, which is that of the training
            where no override says otherwise.
        overrides: `a.b=c` texts that go before the checkpoint's configuration. With another data.layout,
            size, errors and cache alone are kept of the training's section data; `data.split_number=all`
            is every split of the set. Multi-query is on, and the device is chosen anew, unless they say so.
        out: the JSON file; None: `evaluation_SET.json` beside the model, `evaluation_SET_FILE.json` beside
            a FILE.pt that is not model.pt.

    Raises:
        InputError: the checkpoint or a set cannot be evaluated, or the file cannot be written.
    """
    trained = Trained.read(checkpoint)
    configs = _configs(trained.config, manifests, overrides)
    sets = [load_samples(config.data) for config in configs]  # all mistakes before any work
    _warn_of_training_people(trained, configs, sets)
    config = configs[0]  # they differ in the set alone
    protocols = {protocol_of(of_set, each.data) for of_set, each in zip(sets, configs, strict=True)}
    if len(protocols) > 1:
        raise InputError(f"sets of different protocols have no mean: {', '.join(sorted(protocols))}")
    on_gpu = device_of(config.run.device).type == "cuda"
    LocalBackend(workers=1, threads=config.numerics.threads, on_gpu=on_gpu).prepare(trained.path.parent)
    torch.set_num_threads(config.numerics.threads)
    settings = config.encoder(trained.statistics)
    model = trained.network(settings)
    found = [
        _evaluated(partial(_features, model, settings, config, trained.path), each, samples)
        for each, samples in zip(configs, sets, strict=True)
    ]
    out = out or trained.path.with_name(file_name(found, trained.path.stem))
    record = {"checkpoint": trained.identity(), "options": asdict(config.evaluate), **as_record(found)}
    record["options"].pop("every")  # of a training
    try:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written: {error.strerror or error}; choose another by --out"
        ) from error
    lines = [as_text(found, config.evaluate)]
    if config.evaluate.flip:
        lines.append("features of an image and of its mirror image added")
    if trained.has_own_colours:
        lines.append(
            "images normalised by the mean and deviation that the training measured on its target set"
        )
    return "\n".join([*lines, f"stored in {out}"])


def _configs(
    trained: MethodConfig, manifests: Sequence[Path | str], overrides: Sequence[str]
) -> list[MethodConfig]:
    """Return the configuration of every evaluation: they differ in the set alone."""
    given = [text for text in overrides if text != _ALL_SPLITS]
    of_sets = [
        [f"data.layout={'pack' if is_pack(path) else 'manifest'}", f"data.root={json.dumps(str(path))}"]
        for path in manifests
    ]
    if of_sets and any(text.startswith("data.root=") for text in overrides):
        raise InputError("data.root: give manifests or the root of a set, not both")
    if len(given) < len(overrides):
        layout = config_for(trained, given).data.layout
        if layout not in NUM_SPLITS:
            raise InputError(
                f"{_ALL_SPLITS}: layout {layout} has one split; those with more: {', '.join(NUM_SPLITS)}"
            )
        of_sets = [[f"data.split_number={number}"] for number in range(NUM_SPLITS[layout])]
    return [config_for(trained, [*given, *of_set]) for of_set in of_sets or [[]]]


def config_for(trained: MethodConfig, overrides: Sequence[str]) -> MethodConfig:
    """Return the configuration of an evaluation by a model that was trained with `trained`.

    Args:
        trained: of which the set is kept too, unless the overrides have a data.layout.
        overrides: `a.b=c` texts.

    Raises:
        InputError: they cannot be had.
    """
    return load(type(trained), overrides=_texts(trained, overrides))


def _warn_of_training_people(
    trained: Trained, configs: Sequence[MethodConfig], sets: Sequence[Samples]
) -> None:
    """Warn of test images of people whose images the model was trained on."""
    _warn_of_splits(trained.config.data, configs)
    if not isinstance(trained.config, MarConfig):
        return
    _warn_of_splits(trained.config.source_data, configs)
    if not trained.config.auxiliary.endswith("all"):
        return
    for config, samples in zip(configs, sets, strict=True):
        if _is_source(trained, trained.config.source_data, config.data, samples):
            logger.warning(
                "data.root: %s is the model's source set, and the people of its query and gallery are among "
                "the reference persons (auxiliary=%s): its figures are too high; evaluate on another set, or "
                "train with auxiliary=train",
                config.data.root,
                trained.config.auxiliary,
            )


def _warn_of_splits(own: Data, configs: Sequence[MethodConfig]) -> None:
    """Warn of other splits of a set that was trained on: people of their test halves were among it."""
    others = [config.data.split_number for config in configs if config.data.split_number != own.split_number]
    if others and own.layout in NUM_SPLITS and own.layout == configs[0].data.layout:
        logger.warning(
            "data.split_number: the model was trained on split %d, and people of other splits' tests (%s) "
            "are among its training images: their figures are too high; train a model a split",
            own.split_number,
            ", ".join(map(str, others)),
        )


def _is_source(trained: Trained, source: Data, data: Data, samples: Samples) -> bool:
    """Whether a set is the one that the reference persons are of.

    It is where it is read alike from the same place, has a layout that one set alone has, or shows the same
    images of the same people under the same relative paths, wherever they have been moved to. Copies under
    other paths are not known again: the model keeps one hash of its source, none of each image.
    """
    assert data.root is not None  # Data.problems, as the next
    assert source.root is not None
    layout = layout_of(samples, data)
    if layout == source.layout and layout in _OF_ONE_SET:
        return True
    same_place = place_of(data.root).resolved() == place_of(source.root).resolved()
    if same_place and (data.layout, data.pattern) == (source.layout, source.pattern):
        return True
    of_people = layout if source.layout == "pack" else source.layout
    reference = samples.take(rows_of_people(samples, of_people, everybody=True))
    return reference.fingerprint() == trained.source


def _texts(trained: MethodConfig, overrides: Sequence[str]) -> list[str]:
    """Return what an evaluation keeps of the training's configuration, then the overrides."""
    other_set = any(text.startswith("data.layout=") for text in overrides)
    kept = {
        path: value
        for path, value in flatten(trained).items()
        if not (other_set and path.startswith("data.")) or path in _OF_THE_MODEL
    }
    kept |= {"run.device": "auto", "evaluate.multi_query": True}
    return [*(f"{path}={json.dumps(value)}" for path, value in kept.items()), *overrides]


def _evaluated(extract: Callable[[Images], Features], config: MethodConfig, samples: Samples) -> Evaluated:
    """Extract and rank one set."""
    options = config.evaluate
    retrieval = open_retrieval(samples, config.data, multi_query=options.multi_query)
    if retrieval is None:
        raise InputError(
            f"data.root: {config.data.root} has no query or no gallery images "
            f"(splits: {', '.join(samples.splits)})"
        )
    rankings = retrieval.rankings(retrieval.features(extract), options)
    more = retrieval.multi_query
    facts = {
        "name": samples.name,
        "root": str(config.data.root),
        "fingerprint": samples.fingerprint(),
        "facts": samples.facts,
        "protocol": retrieval.protocol,
        "cameras": retrieval.query.has_cameras and retrieval.gallery.has_cameras,
        "num_query": len(retrieval.query),
        "num_gallery": len(retrieval.gallery),
        "num_multi_query": 0 if more is None else len(more),
        "image_size": [config.data.height, config.data.width],
    }
    return Evaluated(facts, rankings)


def _features(
    model: Backbone, settings: EncoderSettings, config: MethodConfig, checkpoint: Path, images: Images
) -> Features:
    device, dtype = device_of(config.run.device), settings.dtype
    features = extract(
        model.to(device=device, dtype=dtype),
        images,
        group=Group.solo(),
        batch_size=config.numerics.extract_batch,
        augmentation=settings.augmentation,
        device=device,
        dtype=dtype,
        flip=config.evaluate.flip,
    )
    if not bool(torch.isfinite(features).all()):
        raise InputError(f"{checkpoint}: its features are not finite: the training has diverged")
    return features.numpy().astype(np.float32, copy=False)
