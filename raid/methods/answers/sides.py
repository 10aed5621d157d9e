"""The two sides of `raid rank`: features and what is known of the images, of a file or of pictures."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raid.data.feature_file import FeatureFacts, FeatureFile, read_features
from raid.data.folder import SUFFIXES, image_paths
from raid.data.image_files import Root
from raid.data.images import decoded_when_asked
from raid.data.packed import is_pack
from raid.data.samples import Record, Samples, camera_name
from raid.distributed.group import Group
from raid.errors import InputError
from raid.extract import block_size, extract
from raid.methods.checking import data_of
from raid.methods.encoder import device_of
from raid.methods.evaluation import config_for
from raid.methods.inputs import load_samples
from raid.methods.trained import Trained
from raid.report.answer_lists import Listed

Ints = NDArray[np.int64]
UNKNOWN = int(np.iinfo(np.int64).min)  # in place of an identity or a camera that is not known


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """N images of one side.

    Attributes:
        features: (N, D) float32.
        root: folder that the paths are relative to, or the pack of the images.
        paths: of the images.
        identities: (N,) int64; -1 = junk, UNKNOWN = not known.
        cameras: (N,) int64, 0-based; UNKNOWN = not known.
        camera_names: what camera 0, 1, ... is called; empty: its number.
    """

    features: NDArray[np.float32]
    root: Root
    paths: list[str]
    identities: Ints
    cameras: Ints
    camera_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Ints) -> "Side":
        """Return the images `rows`, in their order."""
        return replace(
            self,
            features=self.features[rows],
            paths=[self.paths[row] for row in rows],
            identities=self.identities[rows],
            cameras=self.cameras[rows],
        )

    @property
    def listed(self) -> Listed:
        """What a table and a page say of the images."""
        names = [
            None if camera == UNKNOWN else camera_name(self.camera_names, camera)
            for camera in self.cameras.tolist()
        ]
        identities = [None if identity == UNKNOWN else identity for identity in self.identities.tolist()]
        return Listed(root=self.root, paths=self.paths, identities=identities, cameras=names)


@dataclass(frozen=True, eq=False)
class Sides:
    """Queries and gallery.

    Attributes:
        query: Q images.
        gallery: G images.
        same: whether they are the same images in the same order, each ranked against the others.
        model: fingerprint of what all features were made by.
    """

    query: Side
    gallery: Side
    same: bool
    model: str


def opened(
    query: Path,
    gallery: Path,
    checkpoint: Path | None,
    *,
    root: str | None = None,
    device: str = "auto",
    shown: bool = True,
) -> Sides:
    """Read the gallery's features, and read or extract the queries'.

    Args:
        query: a picture, a folder of pictures, or a file of features; of the gallery's own file its rows of
            split query are ranked against those of split gallery, or, without such, every row against all
            others.
        gallery: a file of features.
        checkpoint: model or run folder that pictures go through.
        root: of the gallery's pictures, folder or pack, in place of what its file names.
        device: of the extraction.
        shown: whether the pictures will be looked at; else no pack is asked for.

    Raises:
        InputError: a file is not what it should be, the features are of two models (or of images of two
            sizes), pictures without a checkpoint, or the pack of pictures cannot be read.

    Memory: the features of both sides.
    """
    if not query.exists():
        raise InputError(f"{query}: there is no such picture, folder or file of features")
    of_gallery = read_features(gallery)
    gallery_root = _root(of_gallery.facts.root if root is None else root, shown)
    if query.is_dir() or query.suffix.lower() in SUFFIXES:
        side = _of_pictures(query, gallery, of_gallery.facts, checkpoint, device)
        return Sides(side, _of_file(of_gallery, gallery_root), False, of_gallery.facts.model)
    if query.samefile(gallery):
        return _of_one_file(of_gallery, gallery_root)
    of_query = read_features(query)
    _check_facts(query, of_query.facts, gallery, of_gallery.facts)
    sides = _of_file(of_query, _root(of_query.facts.root, shown)), _of_file(of_gallery, gallery_root)
    return Sides(*sides, False, of_gallery.facts.model)


def _of_one_file(found: FeatureFile, root: Root) -> Sides:
    everything, splits = _of_file(found, root), np.array(found.splits)
    query, gallery = np.flatnonzero(splits == "query"), np.flatnonzero(splits == "gallery")
    if len(query) and len(gallery):
        return Sides(everything.take(query), everything.take(gallery), False, found.facts.model)
    return Sides(everything, everything, True, found.facts.model)


def _root(name: str, shown: bool) -> Root:
    """Return where pictures are; a pack is opened where they are shown, its shards go to the usual cache."""
    return load_samples(data_of([name])[0]).root if shown and is_pack(name) else Path(name)


def _of_file(found: FeatureFile, root: Root) -> Side:
    return Side(
        features=found.features,
        root=root,
        paths=found.paths,
        identities=_known(found, "identity"),
        cameras=_known(found, "camera"),
        camera_names=found.facts.camera_names,
    )


def _known(found: FeatureFile, column: str) -> Ints:
    values: Ints = found.table[column].combine_chunks().fill_null(UNKNOWN).to_numpy().astype(np.int64)
    return values


def _check_facts(query: Path, one: FeatureFacts, gallery: Path, other: FeatureFacts) -> None:
    if one.model != other.model or one.dimension != other.dimension:
        raise InputError(
            f"{query}: its features are of another model ({short(one.model)}) than those of {gallery} "
            f"({short(other.model)}): their similarity means nothing; extract both by one checkpoint"
        )
    for name in ("height", "width", "flip"):
        mine, others = getattr(one, name), getattr(other, name)
        if mine != others:
            raise InputError(
                f"{query}: was extracted with {name} {mine}, {gallery} with {others}; extract both alike"
            )


def _of_pictures(
    query: Path, gallery: Path, facts: FeatureFacts, checkpoint: Path | None, device: str
) -> Side:
    """Extract the features of pictures as those of the gallery were."""
    if checkpoint is None:
        raise InputError(f"{query}: pictures go through the model: give it by --checkpoint")
    trained = Trained.read(checkpoint)
    if trained.fingerprint() != facts.model:
        raise InputError(
            f"{checkpoint}: not the model that {gallery} was made by (its fingerprint is "
            f"{short(trained.fingerprint())}, there it is {short(facts.model)}); give that one, or extract "
            "the gallery anew"
        )
    samples = _pictures(query)
    overrides = [f"data.height={facts.height}", f"data.width={facts.width}", f"run.device={device}"]
    config = config_for(trained.config, [*overrides, f"evaluate.flip={str(facts.flip).lower()}"])
    settings, chosen = config.encoder(trained.statistics), device_of(config.run.device)
    torch.set_num_threads(config.numerics.threads)
    features = extract(
        trained.network(settings).to(device=chosen, dtype=settings.dtype),
        decoded_when_asked(samples, facts.height, facts.width),
        group=Group.solo(),
        batch_size=block_size(config.numerics.extract_batch),
        augmentation=settings.augmentation,
        device=chosen,
        dtype=settings.dtype,
        flip=facts.flip,
    )
    if not bool(torch.isfinite(features).all()):
        raise InputError(f"{checkpoint}: its features are not finite: the training has diverged")
    unknown = np.full(len(samples), UNKNOWN)
    return Side(
        features=features.numpy().astype(np.float32, copy=False),
        root=samples.root,
        paths=samples.paths,
        identities=unknown,
        cameras=unknown,
        camera_names=(),
    )


def short(fingerprint: str) -> str:
    """Return as much of a fingerprint as people compare."""
    return fingerprint[:12]


def _pictures(query: Path) -> Samples:
    """Return the pictures of a folder, or the one that a file is; whose they are is not known."""
    root = query if query.is_dir() else query.parent
    paths = image_paths(query) if query.is_dir() else [query.name]
    records = [Record(path, None, None, "query") for path in paths]
    return Samples.scan(root.absolute(), records, name=query.name)
