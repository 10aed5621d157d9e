"""The generated images that a network is fine-tuned on, from this run or from another one."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raid.data.images import Images
from raid.errors import InputError
from raid.methods.slsr.clusters import Clustered
from raid.methods.slsr.config import SlsrConfig
from raid.methods.slsr.generation import cluster_counts, open_generated, read_record
from raid.methods.slsr.inputs import SlsrInputs
from raid.ops.smoothing import Sets, identity_sets
from raid.run_folder import RunFolder

Ints = NDArray[np.int64]
_FILES = ("clusters.npz", "generated.npy", "generated.json")


@dataclass(frozen=True, eq=False)
class GeneratedSet:
    """Generated images and what their clusters hold.

    Attributes:
        images: n, of the training images' size.
        made_from: (n,) cluster of each.
        sets: (k, K) bool, the identities of every cluster: C_i of SLSR eq. 9.
        figures: what a record says of the clusters.
    """

    images: Images
    made_from: Ints
    sets: Sets
    figures: dict[str, float]


def open_generated_set(folder: Path, config: SlsrConfig, inputs: SlsrInputs) -> GeneratedSet:
    """Return the images in a run folder, as many of each cluster as the configuration asks for.

    Raises:
        InputError: they are not there, there are fewer, or they were made from other images.
    """
    clustered = Clustered.read(folder / "clusters.npz")
    if not np.array_equal(clustered.labels, inputs.labels):
        raise InputError(
            f"generated.folder: {folder} is of other training images than those of section data: its "
            "clusters say nothing of these"
        )
    images, made_from = open_generated(folder, height=config.data.height, width=config.data.width)
    rows = _first_of_each(folder, clustered, made_from, config)
    sets = identity_sets(
        clustered.clusters,
        inputs.labels,
        num_clusters=int(clustered.clusters.max()) + 1,
        num_identities=inputs.num_identities,
        min_images=config.generated.min_images,
    )
    return GeneratedSet(images.take(rows), made_from[rows], sets, clustered.figures())


def content_of(folder: Path) -> str:
    """Return what tells the generated images of another run from others'.

    Raises:
        InputError: they are not there.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"generated.folder: {folder} has no {name}: give the folder of a run of `raid slsr` that "
                "has made images"
            )
    digest = hashlib.blake2b(digest_size=16)
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def take_over(other: Path, folder: RunFolder) -> None:
    """Put the clusters, GANs and images of another run into `folder`, generated.json last; done once."""
    if (folder.path / "generated.json").exists():
        return
    if (other / "gans").is_dir():
        shutil.copytree(other / "gans", folder.path / "gans", copy_function=_linked, dirs_exist_ok=True)
    for name in _FILES:
        _linked(str(other / name), str(folder.path / name))


def _first_of_each(folder: Path, clustered: Clustered, made_from: Ints, config: SlsrConfig) -> Ints:
    """Return the rows of the first images of each cluster: a set of 36,000 serves for 12,000 too."""
    there = np.array(read_record(folder).counts, dtype=np.int64)
    sizes = np.bincount(clustered.clusters, minlength=len(there))
    with_gan = [int(cluster) for cluster in np.flatnonzero(there)]
    counts = cluster_counts(config.generated.count, config.generated.split, sizes, with_gan)
    if (counts > there).any():
        raise InputError(
            f"generated.count: {config.generated.count} images, {config.generated.split}, are "
            f"{' + '.join(map(str, counts))} of the clusters, and {folder} has {' + '.join(map(str, there))}"
        )
    starts = np.cumsum(there) - there
    return np.concatenate([start + np.arange(count) for start, count in zip(starts, counts, strict=True)])


def _linked(source: str, target: str) -> str:
    """Link a file, or copy it where the two folders are on two file systems; it is never written again."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
