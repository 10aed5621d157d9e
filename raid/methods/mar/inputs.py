"""The labelled source set and the unlabelled target set of a run of MAR."""

import logging
import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.data.samples import Samples, content_hash, relabel
from raid.data.statistics import IMAGENET, Statistics, channel_statistics
from raid.errors import InputError
from raid.methods.inputs import Inputs, layout_of, load_samples, open_inputs, open_part, origins_of
from raid.methods.mar.config import MarConfig
from raid.methods.sections import ImageSet
from raid.ops.neighbors import MapBlocks
from raid.report import TrainingSets

Ints = NDArray[np.int64]
logger = logging.getLogger(__name__)
_FIELD = re.compile(rf"(?<![\w/.])data\.({'|'.join(field.name for field in fields(ImageSet))})\b")


@dataclass(frozen=True)
class SourceSet:
    """The labelled images and the P people on them.

    Attributes:
        samples: N images.
        images: theirs.
        labels: (N,) int64, 0..P-1: each image's reference person.
        facts: of the whole set.
    """

    samples: Samples
    images: Images
    labels: Ints
    facts: dict[str, str]

    @property
    def num_people(self) -> int:
        """P."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class MarInputs:
    """What MAR trains on: source and target side by side."""

    source: SourceSet
    target: Inputs

    @property
    def shown(self) -> TrainingSets:
        """What a report takes pictures from."""
        target, source = self.target, self.source
        return TrainingSets(target.train, target.train_images, source.samples, source.images)

    def fingerprint(self, config: MarConfig) -> dict[str, str]:
        """Hash the images of both sets and, where the run starts from one, the pretrained checkpoint."""
        parts = {"data.root": self.target.fingerprint, "source.root": self.source.samples.fingerprint()}
        pretrained = config.pretraining.checkpoint
        if pretrained is not None:
            parts["pretraining.checkpoint"] = content_hash(pretrained.expanduser().read_bytes())
        return parts

    def origins(self, config: MarConfig) -> dict[str, Any]:
        """What packs of the sets were made of; what `auxiliary` settles is not the section's."""
        origins = origins_of(data=self.target.train, source=self.source.samples)
        if config.auxiliary.startswith("msmt17"):
            origins.pop("source.with_validation", None)
        return origins

    @property
    def facts(self) -> dict[str, str]:
        """What is known of the sets: the target's, and the source's under source_*."""
        of_source = {"source_set": self.source.samples.name} | {
            f"source_{name}": value for name, value in self.source.facts.items()
        }
        return {**self.target.facts, **of_source, "source_people": str(self.source.num_people)}


@dataclass(frozen=True)
class BothStatistics:
    """Colours of the training images of each set; the target's are the model's own."""

    source: Statistics
    target: Statistics


def open_mar_inputs(config: MarConfig) -> MarInputs:
    """Read both sets and decode their images once.

    Raises:
        InputError: a set cannot be read; its message names the fields of its own section.
    """
    try:
        source = _open_source(config)
    except InputError as error:
        raise InputError(_of_source(str(error), config)) from error
    return MarInputs(source, open_inputs(config.data, multi_query=config.evaluate.multi_query))


def measured(config: MarConfig, inputs: MarInputs, map_blocks: MapBlocks = map) -> BothStatistics:
    """Return what the images of each set are normalised by."""
    if config.normalize == "imagenet":
        return BothStatistics(IMAGENET, IMAGENET)
    return BothStatistics(
        channel_statistics(inputs.source.images, map_blocks=map_blocks),
        channel_statistics(inputs.target.train_images, map_blocks=map_blocks),
    )


def _of_source(message: str, config: MarConfig) -> str:
    """Name the fields that a message about the source set means."""
    message = _FIELD.sub(r"source.\1", message)
    if config.auxiliary.startswith("msmt17"):  # which asks for a set without list_val
        message = message.replace(
            "source.with_validation=true", f"auxiliary={config.auxiliary.removeprefix('msmt17_')}"
        )
    return message


def _open_source(config: MarConfig) -> SourceSet:
    data = config.source_data
    samples, facts = source_samples(config)
    samples, images = open_part(samples, data)
    labels = relabel(samples.identities)
    if labels.max(initial=-1) < 1:
        raise InputError(
            f"source.root: {data.root}: MAR compares people with those of the source set, and there are "
            f"fewer than two whose identity is known (auxiliary={config.auxiliary})"
        )
    if config.auxiliary.endswith("all"):
        logger.warning(
            "auxiliary=%s: the people of the source set's test half are reference persons too; "
            "a model of this run must not be evaluated on that set",
            config.auxiliary,
        )
    return SourceSet(samples, images, labels, facts)


def source_samples(config: MarConfig) -> tuple[Samples, dict[str, str]]:
    """Return the images of the reference persons, not decoded, and the facts of the set they are of.

    Raises:
        InputError: as `open_mar_inputs`.
    """
    data, everybody = config.source_data, config.auxiliary.endswith("all")
    try:
        whole = load_samples(data)
    except InputError as error:
        raise InputError(_of_source(str(error), config)) from error
    layout = layout_of(whole, data)
    if config.auxiliary.startswith("msmt17") and layout != "msmt17":
        raise InputError(
            f"source.root: {data.root} is a pack of a set of layout {layout}, and {config.auxiliary} "
            "(auxiliary) is of MSMT17"
        )
    rows = rows_of_people(whole, layout, everybody=everybody)
    if len(rows) == 0:
        raise InputError(
            f"source.root: {data.root} has no image of a known person among "
            f"{'its images' if everybody else 'its training images'} (splits: {', '.join(whole.splits)})"
        )
    return whole.take(rows), whole.facts


def rows_of_people(samples: Samples, layout: str, *, everybody: bool) -> Ints:
    """Return the rows of the training half, or of all images, that show somebody known."""
    splits = np.array(samples.table["split"].to_pylist(), dtype=str)
    wanted = np.isin(splits, ("train", "query", "gallery")) if everybody else splits == "train"
    known = samples.identities >= 0
    if layout == "market1501":
        known &= (samples.identities > 0) | (splits == "train")  # 0000 of the test half is nobody
    rows: Ints = np.flatnonzero(wanted & known)
    return rows
