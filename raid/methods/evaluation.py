"""`raid evaluate`: a trained model on any set, by every protocol that applies to it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raid import __version__
from raid.config import config_hash, flatten, load, loads
from raid.data.images import Images
from raid.data.samples import Samples, content_hash
from raid.distributed.backend import LocalBackend
from raid.distributed.group import Group
from raid.errors import InputError
from raid.evaluate import Features
from raid.extract import extract
from raid.files import atomic_path, read_tensors
from raid.methods.encoder import build_model, device_of
from raid.methods.evaluation_record import Evaluated, as_record, as_text, file_name
from raid.methods.icsr_config import IcsrConfig
from raid.methods.inputs import load_samples, open_retrieval, protocol_of
from raid.models.backbone import Backbone

logger = logging.getLogger(__name__)

NUM_SPLITS = {"cuhk03": 20, "viper": 10}  # layouts whose test images are drawn several times
_ALL_SPLITS = "data.split_number=all"
# What stays of the training's section data when the set is another one.
_OF_THE_MODEL = ("data.height", "data.width", "data.on_error", "data.cache_folder", "data.cache_limit_gib")


@dataclass(frozen=True)
class Trained:
    """A file that a training wrote (`model.pt`): the weights and the configuration they came of."""

    path: Path
    weights: dict[str, Tensor]
    config: IcsrConfig

    @staticmethod
    def read(path: Path) -> "Trained":
        """Read a model, or that of a run folder; nothing in it is executed.

        Raises:
            InputError: there is none, or the file is no model that raid wrote.
        """
        if path.is_dir():
            path = path / "model.pt"
            if not path.exists():
                raise InputError(f"{path}: there is no such file: not a run folder, or its run has not ended")
        elif not path.exists():
            raise InputError(f"{path}: there is no such file: give a run's model.pt or its folder")
        content = read_tensors(path)
        if not isinstance(content, dict) or not isinstance(content.get("config"), str):
            raise InputError(f"{path}: not a model that a run of raid ended with: it has no configuration")
        return Trained(path, content.get("model", {}), loads(IcsrConfig, content["config"], str(path)))

    def model(self, config: IcsrConfig) -> Backbone:
        """Build the network of `config` with the weights.

        Raises:
            InputError: they do not fit it.
        """
        model = build_model(config.training.encoder, Group.solo()).to(dtype=config.training.encoder.dtype)
        try:
            model.load_state_dict(self.weights)
        except (RuntimeError, TypeError, AttributeError) as error:  # other shapes, or no state dict at all
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.path}: its weights do not fit {config.model.backbone}: {reason[:200]}"
            ) from error
        return model

    def identity(self) -> dict[str, Any]:
        """Return what says which model it is."""
        return {
            "path": str(self.path),
            "content": content_hash(self.path.read_bytes()),
            "config_hash": config_hash(self.config),
            "raid": __version__,
        }


def evaluate_checkpoint(
    checkpoint: Path,
    manifests: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
) -> str:
    """Evaluate a model on one or several sets, store the figures, and return them as text.

    Args:
        checkpoint: a run's model, or its folder.
        manifests: sets; without, the one that section data names, which is that of the training where no
            override says otherwise.
        overrides: `a.b=c` texts that go before the checkpoint's configuration. With another data.layout,
            size, errors and cache alone are kept of the training's section data; `data.split_number=all`
            is every split of the set. Multi-query is on, and the device is chosen anew, unless they say so.
        out: the JSON file; None: `evaluation_SET.json` beside the model.

    Raises:
        InputError: the checkpoint or a set cannot be evaluated, or the file cannot be written.
    """
    trained = Trained.read(checkpoint)
    configs = _configs(trained.config, manifests, overrides)
    sets = [load_samples(config.data) for config in configs]  # all mistakes before any work
    _warn_of_training_people(trained.config, configs)
    config = configs[0]  # they differ in the set alone
    protocols = {protocol_of(of_set, each.data) for of_set, each in zip(sets, configs, strict=True)}
    if len(protocols) > 1:
        raise InputError(f"sets of different protocols have no mean: {', '.join(sorted(protocols))}")
    on_gpu = device_of(config.run.device).type == "cuda"
    LocalBackend(workers=1, threads=config.numerics.threads, on_gpu=on_gpu).prepare(trained.path.parent)
    torch.set_num_threads(config.numerics.threads)
    model = trained.model(config)
    found = [
        _evaluated(partial(_features, model, each, trained.path), each, samples)
        for each, samples in zip(configs, sets, strict=True)
    ]
    out = out or trained.path.with_name(file_name(found))
    record = {"checkpoint": trained.identity(), "options": asdict(config.evaluate), **as_record(found)}
    record["options"].pop("every")  # of a training
    try:
        with atomic_path(out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written: {error.strerror or error}; choose another by --out"
        ) from error
    return f"{as_text(found, config.evaluate)}\nstored in {out}"


def _configs(trained: IcsrConfig, manifests: Sequence[Path], overrides: Sequence[str]) -> list[IcsrConfig]:
    """Return the configuration of every evaluation: they differ in the set alone."""
    given = [text for text in overrides if text != _ALL_SPLITS]
    of_sets = [["data.layout=manifest", f"data.root={json.dumps(str(path))}"] for path in manifests]
    if of_sets and any(text.startswith("data.root=") for text in overrides):
        raise InputError("data.root: give manifests or the root of a set, not both")
    if len(given) < len(overrides):
        layout = load(IcsrConfig, overrides=_texts(trained, given)).data.layout
        if layout not in NUM_SPLITS:
            raise InputError(
                f"{_ALL_SPLITS}: layout {layout} has one split; those with more: {', '.join(NUM_SPLITS)}"
            )
        of_sets = [[f"data.split_number={number}"] for number in range(NUM_SPLITS[layout])]
    return [load(IcsrConfig, overrides=_texts(trained, [*given, *of_set])) for of_set in of_sets or [[]]]


def _warn_of_training_people(trained: IcsrConfig, configs: Sequence[IcsrConfig]) -> None:
    """Warn of splits whose test half the model was trained on in part."""
    own = trained.data
    others = [config.data.split_number for config in configs if config.data.split_number != own.split_number]
    if others and own.layout in NUM_SPLITS and own.layout == configs[0].data.layout:
        logger.warning(
            "data.split_number: the model was trained on split %d, and people of other splits' tests (%s) "
            "are among its training images: their figures are too high; train a model a split",
            own.split_number,
            ", ".join(map(str, others)),
        )


def _texts(trained: IcsrConfig, overrides: Sequence[str]) -> list[str]:
    """Return what an evaluation keeps of the training's configuration, then the overrides."""
    other_set = any(text.startswith("data.layout=") for text in overrides)
    kept = {
        path: value
        for path, value in flatten(trained).items()
        if not (other_set and path.startswith("data.")) or path in _OF_THE_MODEL
    }
    kept |= {"run.device": "auto", "evaluate.multi_query": True}
    return [*(f"{path}={json.dumps(value)}" for path, value in kept.items()), *overrides]


def _evaluated(extract: Callable[[Images], Features], config: IcsrConfig, samples: Samples) -> Evaluated:
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


def _features(model: Backbone, config: IcsrConfig, checkpoint: Path, images: Images) -> Features:
    settings = config.training.encoder
    device, dtype = device_of(config.run.device), settings.dtype
    features = extract(
        model.to(device=device, dtype=dtype),
        images,
        group=Group.solo(),
        batch_size=config.numerics.extract_batch,
        augmentation=settings.augmentation,
        device=device,
        dtype=dtype,
    )
    if not bool(torch.isfinite(features).all()):
        raise InputError(f"{checkpoint}: its features are not finite: the training has diverged")
    return features.numpy().astype(np.float32, copy=False)
